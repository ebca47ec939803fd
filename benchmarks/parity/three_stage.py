"""The three-stage repository (RK621; no licence file): its losses, the map of its strong augmentation, its average."""

from __future__ import annotations

import ast
import contextlib
import functools
import itertools
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.parity.authors import Checkout, Source, one_cpu_process
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import SEED, Setting, Table, labelled
from fewmask.batch import IGNORE, Batch, Items, ViewKind
from fewmask.data import randaugment
from fewmask.methods.three_stage import MultiTask
from fewmask.offline import OnLabels
from fewmask.ops import mix

NAME = "RK621/ThreeStageSelftraining_SemanticSegmentation"
LOOP, BRANCH = "itertools.islice(train_sup_iter, iters_per_epoch)", "cf2.use_unlabelleddata"
CITY, VOC = {"stage 2": 2, "stage 3": 3}, {"stage 2": 5, "stage 3": 6}
"""Stage to the number of its experiment."""


@cache
def parsed(checkout: Checkout, path: str) -> Source:
    return checkout.source(path)


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


def augmentation(checkout: Checkout) -> tuple[Callable[..., list[np.ndarray]], Any]:
    """Return their operator, image [H, W, 3] to the view and its index maps, and the transform that calls it."""
    policy = parsed(checkout, "randaugment_seg.py")
    names = SimpleNamespace(**policy.run(policy.tree.body))
    script = parsed(checkout, "apply_rand.py")
    with patch.dict(sys.modules, {"randaugment_seg": names}):
        operator = script.run(script.tree.body)["rand_pascal_index"]
    transforms = parsed(checkout, "datapipe/seg_transforms_cv.py").define("RandAugmentTransformPost")
    with patch.dict(sys.modules, {"apply_rand": SimpleNamespace(rand_pascal_index=operator)}):
        return operator, transforms.RandAugmentTransformPost()


@contextlib.contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Seed the two global generators that they draw from; restore them."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def source_of(rows: np.ndarray, columns: np.ndarray, inside: np.ndarray) -> Tensor:
    """Return our form of their index maps: row·W + column, -1 where a pixel comes from nowhere."""
    place = rows.astype(np.int64) * rows.shape[-1] + columns.astype(np.int64)
    return torch.from_numpy(np.where(inside >= 0.5, place, -1))


def maps(checkout: Checkout, setting: Setting, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the index maps of images of noise, rows, columns and inside, [B, H, W].

    Outside they hold the index 255, which their crops have and these images have not: there it is 0.
    """
    operator, _ = augmentation(checkout)
    noise = np.random.default_rng(SEED).integers(0, 256, (count, setting.height, setting.width, 3), dtype=np.uint8)
    with drawn(SEED):
        found = [operator(image)[1:] for image in noise]
    rows, columns, inside = (np.stack(part).astype(np.int64) for part in zip(*found, strict=True))
    return np.where(inside, rows, 0), np.where(inside, columns, 0), inside


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


def gathered(checkout: Checkout, height: int, width: int, images: int) -> Iterator[Row]:
    """Their transform of crops with pseudo-masks, and their gathering of a teacher's labels, against ``mix.warp``."""
    _, transform = augmentation(checkout)
    draw = np.random.default_rng(SEED)
    samples = [
        {
            "image": draw.normal(size=(3, height, width)).astype(np.float32),
            "pl": draw.integers(0, 21, (1, height, width)),
        }
        for _ in range(images)
    ]
    with drawn(SEED + 1):
        samples = [transform.transform_single(sample) for sample in samples]
    masks, moved, rows, columns, inside = (
        np.stack([s[key][0] for s in samples]) for key in ("pl", "pl_post", "indx", "indy", "indmsk")
    )
    labels = draw.integers(0, 21, masks.shape)
    theirs = parsed(checkout, "main.py").define("wrap_ind").wrap_ind(labels.copy(), rows, columns, inside)
    source = source_of(rows, columns, inside)
    facts = {"seed": SEED, "from_outside": round(float((source < 0).double().mean()), 3)}
    case = f"{images} crops {height}×{width}, their maps"
    for term, a, b in (("pseudo-masks that moved", moved, masks), ("teacher's labels that moved", theirs, labels)):
        ours = mix.warp(torch.from_numpy(b), source, IGNORE)
        yield compare(
            checkout, f"Three-stage: {term}", case, None, torch.from_numpy(a).double(), ours.double(), **facts
        )


def operators(checkout: Checkout, height: int = 64, width: int = 96) -> Iterator[Row]:
    """Where the pixels of a view come from, by each of their geometric operations, every magnitude, either sign.

    Shear by 4 tenths of 0.3 is left out: it moves some rows by whole pixels and a half, which may round either way.
    """
    policy = parsed(checkout, "randaugment_seg.py")
    sign = SimpleNamespace(random=lambda: 0.0)
    every, inside = np.indices((height, width)).astype(np.uint16), np.ones((height, width), dtype=np.uint8)
    affine = randaugment.F.affine
    for name in ("Rotate", "TranslateX", "TranslateY", "ShearX", "ShearY"):
        ours, cornered, theirs = [], [], []
        shift = randaugment.GEOMETRIC[re.sub("(?<=[a-z])(?=[A-Z])", "_", name).lower()]
        names = policy.run(policy.tree.body)
        names["random"] = sign
        shear = name.startswith("Shear")
        levels = [level for level in range(1, 10) if not (shear and level == 4)]
        for level, up in itertools.product(levels, (False, True)):
            sign.random = lambda up=up: float(up)
            out = names["NAME_TO_TRANSFORM"][name].xform([Image.fromarray(x) for x in (*every, inside)], level)
            theirs.append(source_of(*(np.array(x) for x in out)))
            # the signs are equally likely; their plus is our minus, apart from shear
            move = shift(level / 10 if up != shear else -level / 10)
            ours.append(randaugment.moved(move, height, width))
            with patch.object(randaugment.F, "affine", functools.partial(affine, center=[0.0, 0.0])):
                cornered.append(randaugment.moved(move, height, width))
        a, b, c = (torch.stack(x).double() for x in (theirs, ours, cornered))
        more: dict[str, Any] = {"departure": "corner", "explained": c} if shear else {}
        yield compare(
            checkout, f"Three-stage: sources, {name.rstrip('XY').lower()}", f"{len(levels)} magnitudes, both signs",
            None, a, b,
            operation=name, size=[height, width],
            from_outside=[round(float((x < 0).double().mean()), 3) for x in (a, b)], **more,
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
