"""The three-stage repository (RK621; no licence file): its losses and its average."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parity.authors import Checkout, one_cpu_process
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import SEED, Setting, Table, labelled
from benchmarks.parity.three_stage_views import gathered, maps, operators, parsed, source_of
from fewmask.batch import Batch, Items, ViewKind
from fewmask.methods.three_stage import MultiTask
from fewmask.offline import OnLabels

NAME = "RK621/ThreeStageSelftraining_SemanticSegmentation"
LOOP, BRANCH = "itertools.islice(train_sup_iter, iters_per_epoch)", "cf2.use_unlabelleddata"
CITY, VOC = {"stage 2": 2, "stage 3": 3}, {"stage 2": 5, "stage 3": 6}
"""Stage to the number of its experiment."""


@cache
def experiment(checkout: Checkout, number: int) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Return their two modules of constants, as their script fills them for an experiment."""
    main = parsed(checkout, "main.py")
    sets: list[ast.stmt] = [
        s for s in main.tree.body
        if isinstance(s, ast.FunctionDef) and not s.decorator_list and s.name != "wrap_ind"
        or isinstance(s, ast.Assign) and ast.unparse(s.targets[0]).startswith(("para1.", "cf2."))
        or isinstance(s, ast.If) and ast.unparse(s.test).startswith("modid ==")
    ]  # fmt: skip
    space = main.run(sets, para1=SimpleNamespace(), cf2=SimpleNamespace(), modid=number)
    return space["para1"], space["cf2"]


class Heads(nn.Module):
    """Two tables as a network with its branch."""

    def __init__(self, f: Table, g: Table, classes: int | None = None) -> None:
        super().__init__()
        self.f, self.g, self.classes = f, g, classes

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.f(x), self.g(x)[:, : self.classes]


class Scene:
    """One batch, their training step on it, and ours.

    Attributes:
        terms: what their criterion has returned: supervised, consistency, pseudo-masks.
        theirs: the names that their step leaves.
    """

    def __init__(
        self, checkout: Checkout, setting: Setting, number: int, sizes: tuple[int, int] | None = None
    ) -> None:  # fmt: skip
        para1, cf2 = experiment(checkout, number)
        n, m = sizes or (cf2.pl_batchsize1, cf2.pl_batchsize2)
        self.cf2, self.count = cf2, (n, m)
        self.setting = s = replace(setting, batch=n + m)
        wide = replace(s, classes=s.classes + 1, seed=SEED + 1)
        self.student = Heads(s.network(2 * s.batch, modes_differ=True), wide.network(2 * s.batch)).train()
        self.teacher = Heads(s.network(2 * s.batch, modes_differ=True), wide.network(2 * s.batch)).train()
        valid = s.valid().flip(0)  # the labelled images come first: with padding
        labels = s.labels(self.student.f.logits[: s.batch], valid)[:n]
        masks = s.labels(self.teacher.f.logits[: s.batch], valid)
        weak, post = s.codes(0), s.codes(s.batch)[n:]
        rows, columns, inside = maps(checkout, s, m)
        self.source = source_of(rows, columns, inside)
        self.weak, self.post, self.valid, self.labels, self.masks = weak, post, valid, labels, masks

        main = parsed(checkout, "main.py")
        space = main.define("wrap_ind")
        self.terms: list[Tensor] = []

        def criterion(*args: Any) -> Tensor:
            self.terms.append(made(*args))
            return self.terms[-1]

        moved = space.wrap_ind(masks[n:].numpy().copy(), rows, columns, inside)
        as_they_read = {"indx": rows, "indy": columns, "indmsk": inside, "pl_post": moved}
        with one_cpu_process():
            made = main.run(main.assigning("clf_crossent_loss"))["clf_crossent_loss"]
            self.theirs = main.run(
                main.step(LOOP, BRANCH), cf2=cf2, dataset=para1.dataset, wrap_ind=space.wrap_ind,
                mk_pl_loss_meanT=parsed(checkout, "script_lib.py").define("mk_pl_loss_meanT").mk_pl_loss_meanT,
                clf_crossent_loss=criterion, lr_iter_scheduler=None, torch_device="cpu", s_torch_device="cpu",
                student_optim=SimpleNamespace(zero_grad=lambda: None), student_net=self.student,
                teacher_net=frozen(self.teacher),
                sup_batch={"image": weak[:n], "labels": labels.unsqueeze(1), "pl": masks[:n].unsqueeze(1)},
                train_unsup_iter_whole=iter([
                    {"image": weak[n:], "image_post": post, "pl": masks[n:].unsqueeze(1)}
                    | {key: torch.from_numpy(x).unsqueeze(1) for key, x in as_they_read.items()}
                ]),
            )  # fmt: skip
        self.teacher.train()

    @property
    def leaves(self) -> list[Tensor]:
        return [self.student.f.logits, self.student.g.logits]

    def batch(self, whole: bool = False) -> Batch:
        """Return our batch; whole: every pixel is valid, and where it came from does not matter."""
        n, _ = self.count
        valid = torch.ones_like(self.valid) if whole else self.valid
        here = self.valid[n:].flatten(1).gather(1, self.source.clamp(min=0).flatten(1)).view_as(self.source)
        source = self.source if whole else torch.where(here, self.source, -1)
        kinds: tuple[ViewKind, ...] = ("weak", "geo")
        lab = replace(labelled(self.weak[:n], self.labels, valid[:n]), pseudo=self.masks[:n])
        views = (self.weak[n:], self.post)
        return {
            "l": lab,
            "a": Items(views, kinds, valid[n:], torch.arange(len(self.post)), None, self.masks[n:], (source,)),
        }

    def ours(self, whole: bool = False, classes: int | None = None, **constants: Any) -> dict[str, Tensor]:
        """Return our terms.

        Args:
            whole: see ``batch``.
            classes: of the branch; one more, as in their network, where None.
            constants: of ours.
        """
        n, m = self.count
        method = MultiTask(MultiTask.Config(**constants), self.setting.task)
        nets = {"student": Heads(self.student.f, self.student.g, classes).train(), "teacher": self.teacher}
        return method.losses(nets, self.batch(whole), self.setting.step(l=n, a=m), {})


def frozen(net: nn.Module) -> nn.Module:
    """Return their teacher: in train mode, but with frozen BatchNorm, which is all that a mode changes in it."""
    return net.eval()


def losses(checkout: Checkout, setting: Setting, data: str, stage: str) -> Iterator[Row]:
    """Their three terms and their sum."""
    number = (CITY if data == "Cityscapes" else VOC)[stage]
    s = Scene(checkout, setting, number, sizes=(2, 2) if setting.classes < 19 else None)
    here, k = replace(s.setting), setting.classes
    unit = s.ours(lam_con=1, lam_pl=1, branch="n-2" if stage == "stage 2" else "n-1")
    whole = s.ours(whole=True, lam_con=1, lam_pl=1)
    facts = {
        "data": data, "stage": stage, "experiment": number, "sub_batches": s.count,
        "w_s": s.cf2.meanT_supweight, "w_c": s.cf2.meanT_conweight,
        "from_outside": round(float((s.source < 0).double().mean()), 3),
    }  # fmt: skip
    margin = "padding" if setting.padding else "no padding"

    def row(term: str, case: str, theirs: Tensor, ours: Tensor, switch: str, **more: Any) -> Row:
        return compare(checkout, f"Three-stage: {term}", case, here, theirs, ours, s.leaves, switch, **facts, **more)

    def total(terms: dict[str, Tensor]) -> Tensor:
        return torch.stack([*terms.values()]).sum()

    yield row("L_seg", f"void, {margin}", s.terms[0], unit["seg"], "")
    differs: dict[str, Any] = {"departure": "padding", "explained": whole["con"]} if setting.padding else {}
    yield row("L_con", margin, s.terms[1], unit["con"], "lam_con=1", **differs)
    yield row("L_pl", f"void, {margin}", s.terms[2], unit["pl"], "lam_pl=1")
    yield row("L_pl", f"void, {margin}, K logits", s.terms[2], s.ours(lam_pl=1, classes=k)["pl"], "lam_pl=1",
              departure="placeholder", explained=unit["pl"])  # fmt: skip
    if not setting.padding:
        loss = s.theirs["suppl_loss"]
        w, half = s.cf2.meanT_supweight, s.cf2.meanT_conweight / 2
        exact = total(s.ours(lam_con=half / w, lam_pl=half / w))
        lam = f"lam_con={half / w} lam_pl={half / w}"
        paper = total(s.ours())
        if w == 1:
            yield row(f"total, {data}", "void, no padding", loss, exact, lam)
            yield row(f"total, {data}", "void, no padding", loss, paper, "", departure="λ", explained=exact)
        else:
            yield row(f"total, {data}", "void, no padding", loss, exact, lam, departure="w_s", explained=w * exact)


def first_stage(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """Their supervised stage, with and without a labelled pixel."""
    main = parsed(checkout, "main.py")
    net, valid, x = setting.network(setting.batch), setting.valid(), setting.codes(0)
    for case, marked in (("void, padding", valid), ("no labelled pixel", torch.zeros_like(valid))):
        labels = setting.labels(net.logits, marked)
        criterion = main.run(main.assigning("clf_crossent_loss"))["clf_crossent_loss"]
        theirs = main.run(
            main.step(LOOP, BRANCH, otherwise=True), cf2=SimpleNamespace(use_unlabelleddata=False), student_net=net,
            sup_batch={"image": x, "labels": labels.unsqueeze(1)}, clf_crossent_loss=criterion, torch_device="cpu",
            lr_iter_scheduler=None, student_optim=SimpleNamespace(zero_grad=lambda: None),
        )  # fmt: skip
        ours = OnLabels(OnLabels.Config(), setting.task).losses(
            {"net": net}, {"l": labelled(x, labels, marked)}, setting.step(), {}
        )
        yield compare(
            checkout, "Three-stage: L_seg of stage 1", case, setting, theirs["sup_loss"], ours["sup"], [net.logits],
            departure="" if marked.any() else "0/0",
        )  # fmt: skip


def moving_average(checkout: Checkout, per_epoch: int = 5) -> Iterator[Row]:
    """Their teacher after each step of a stage, weights and statistics, by their decay of each epoch."""
    para1, cf2 = experiment(checkout, CITY["stage 2"])
    main = parsed(checkout, "main.py")
    optimiser = parsed(checkout, "tools/optim_weight_ema.py").define("EMAWeightOptimizer").EMAWeightOptimizer
    setting, total = Setting(1, 3, torch.float32), para1.num_epochs * per_epoch
    draw = torch.Generator().manual_seed(SEED)

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def floats(x: nn.Module) -> Tensor:
        return torch.cat([v.detach().flatten().clone() for v in x.state_dict().values() if v.is_floating_point()])

    student, teacher = net(), net()
    them = optimiser(teacher, student, cf2.meanT_alpha)
    method = MultiTask(MultiTask.Config.model_validate({"lam_pl": 0}), setting.task)
    nets = {"student": student, "teacher": method.networks(lambda name: student)["teacher"]}
    a, b = [], []
    for t in range(total):
        epoch = t // per_epoch
        main.run(main.when("teacher_optim is not None and 'ema_alpha_list'"), teacher_optim=them, cf2=cf2,
                 epoch_i=epoch)  # fmt: skip
        for value in student.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=draw))
        them.step()
        method.after_step(nets, setting.step(t, total), {})
        a.append(floats(teacher))
        b.append(floats(nets["teacher"]))
    yield compare(
        checkout, "Three-stage: moving average", f"teacher after each of {total} steps", None,
        torch.stack(a), torch.stack(b), seed=SEED, epochs=para1.num_epochs, dtype="float32",
        decays=sorted(set(cf2.ema_alpha_list)),
    )  # fmt: skip


def rows(checkout: Checkout, settings: Callable[..., Iterator[Setting]]) -> Iterator[Row]:
    """Everything that is compared."""
    for setting in settings():
        yield from first_stage(checkout, setting)
    for data, classes in (("Cityscapes", 19), ("VOC", 21)):
        for stage in ("stage 2", "stage 3"):
            for padding in (True, False):
                for setting in settings(padding=padding):
                    wide = replace(setting, classes=classes) if setting.classes > 5 else setting
                    yield from losses(checkout, wide, data, stage)
    yield from gathered(checkout, 321, 321, 6)
    yield from gathered(checkout, 256, 512, 6)
    yield from operators(checkout)
    yield from moving_average(checkout)
