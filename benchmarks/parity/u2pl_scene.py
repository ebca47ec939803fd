"""One case of U2PL: the tensors, their training step on them, and ours, where asked with departures taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.parity.authors import Checkout, Source, one_cpu_process
from benchmarks.parity.inputs import Setting, Table, labelled, unlabelled
from fewmask.batch import Batch
from fewmask.method import Step
from fewmask.methods import u2pl
from fewmask.methods.u2pl import U2PL
from fewmask.nets.bank import ClassBanks
from fewmask.ops import contrast, losses, mix
from fewmask.supervision import Supervision

NAME = "Haochen-Wang409/U2PL"
LOOP, DIM, MINED = "range(len(loader_l))", 8, 0.3
VOC, CITY = "experiments/pascal/1464/ours/config.yaml", "experiments/cityscapes/744/ours/config.yaml"
ALONE = SimpleNamespace(
    barrier=lambda: None, get_world_size=lambda: 1, all_reduce=lambda _: None,
    all_gather_object=lambda out, x: out.__setitem__(0, x),
)  # fmt: skip
"""Stands for torch.distributed in one process."""


@cache
def parsed(checkout: Checkout, path: str) -> Source:
    return checkout.source(path)


class Heads(nn.Module):
    """A network of two tables: logits, enlarged from a grid of every n-th pixel, and features on that grid."""

    def __init__(self, logits: Table, features: Table, every: int) -> None:
        super().__init__()
        self.logits, self.features, self.every = logits, features, every
        self.small = torch.empty(0)  # the logits on the grid of the last pass

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        cells = x[..., :: self.every, :: self.every]
        self.small = self.logits(cells)
        if self.every == 1:
            return self.small, self.features(cells)
        large = F.interpolate(self.small, x.shape[-2:], mode="bilinear", align_corners=True)
        return large, self.features(cells)


class Theirs(nn.Module):
    """The same network in the form that their script expects."""

    def __init__(self, net: Heads, aux: Table) -> None:
        super().__init__()
        self.net, self.aux = net, aux

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        _, features = self.net(x)
        return {"pred": self.net.small, "rep": features, "aux": self.aux(x)}

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:  # noqa: ARG002
        """Nothing to copy from the student: the tables stay as they are."""
        return iter(())


class Undone(U2PL):
    """Ours with some departures taken back; keeps what the comparisons look at.

    Attributes:
        undo: their names.
        seen: masks of the last step, [B, H, W] or [K, cells].
    """

    undo: frozenset[str] = frozenset()
    seen: dict[str, Tensor]

    def _cells(
        self, p_t: Tensor, y: Tensor, label: Tensor, usable: Tensor, candidate: Tensor,
        on_grid: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        loose = U2PL(self.config.model_copy(update={"delta": -1.0}), self.task)
        args = (p_t, y, label, usable, candidate, on_grid)
        one_hot = F.one_hot

        def in_the_first(state: Tensor, classes: int) -> Tensor:
            out = torch.zeros_like(every := one_hot(state, classes))
            for first, part in ((0, every[: len(y)]), (len(y), every[len(y) :])):
                out[first] = part.amax(0)
            return out

        with patch.object(F, "one_hot", in_the_first if "first image" in self.undo else one_hot):
            (anchors, negatives), (any_p, _) = super()._cells(*args), loose._cells(*args)
        present = any_p.any(1)
        if "class lists" in self.undo:  # the i-th class is paired with the bank of the i-th class that is present
            place = present.nonzero().flatten()
            anchors, any_p = (torch.zeros_like(m).index_copy_(0, place, m[: len(place)]) for m in (anchors, any_p))
        self.seen |= {"usable": usable, "candidate": candidate, "present": present, "anchors": anchors}
        return (any_p & anchors.any(1, keepdim=True) if "centres" in self.undo else anchors), negatives

    @contextmanager
    def active(self, teacher: Heads) -> Iterator[None]:
        """Take the departures back that lie in functions of ours, and fix the order in which a bank is filled."""
        rand, draw, nce = torch.rand, contrast.draw_with_replacement, contrast.info_nce
        quantile, ce, sampler, undo = contrast.quantile, losses.weighted_cross_entropy, u2pl._sampler, self.undo

        def numbers(shape: tuple[int, ...], **kwargs: Any) -> Tensor:
            out = rand(shape, **kwargs)
            if len(shape) == 2 and shape[1] != self.config.anchors:  # whose largest enter first: in reading order
                return torch.linspace(0.9, 0.1, shape[1]).expand(shape)
            self.seen["u_anchor" if len(shape) == 2 else "u_negative"] = out
            return out

        def loss(positive: Tensor, negative: Tensor, temperature: float, use: Tensor) -> Tensor:
            self.seen["use"], present = use, int(self.seen["present"].sum())
            out = nce(positive, negative, temperature, use)
            return out * (int(use.sum()) / present if present > 1 else 0) if "present" in undo else out

        def threshold(value: Tensor, valid: Tensor, q: float) -> Tensor:
            out = quantile(value, valid, q)
            self.seen["low" if q < 0.5 else "gamma"] = out
            return torch.nextafter(out, -torch.ones_like(out)) if "ties" in undo and q > 0.5 else out

        def reliable(p: Tensor, label: Tensor, weight: Tensor, count: Tensor) -> Tensor:
            self.seen["reliable"] = weight
            return ce(p, label, weight, count)

        def on_grid(*size: Any) -> Callable[[Tensor], Tensor]:
            sample = sampler(*size)
            return lambda m: teacher.small.softmax(1) if m.is_floating_point() else sample(m)

        with ExitStack() as stack:
            change = {
                (torch, "rand"): numbers, (contrast, "info_nce"): loss, (contrast, "quantile"): threshold,
                (contrast, "draw_with_replacement"): lambda mask, u: draw(self.seen["anchors"], u),
                (losses, "weighted_cross_entropy"): reliable,
            } | ({(u2pl, "_sampler"): on_grid} if "grid" in undo else {})  # fmt: skip
            if "next image" in undo:
                change[mix, "partners"] = lambda batch, device="cpu": torch.arange(batch, device=device).roll(-1)
            for (module, name), new in change.items():
                stack.enter_context(patch.object(module, name, new))
            yield


class Scene:
    """Tensors of one or more steps, and both sides' results on them.

    Args:
        checkout: theirs.
        setting: of the tensors.
        config: path of their configuration.
        epoch: of the steps; in the 20th of 80 no pixel lies at the threshold of the entropy.
        mixed: whether the images are mixed.
        every: the grid of logits and features holds every n-th pixel.
        steps: how many.
        length: of a bank; theirs are shortened to it. More than a step pushes.
        absent: classes that nothing shows.
        likely: a class that always stands first in the teacher's training pass.
        delta: δ_p, theirs unless given.
        cfg: further constants of their section on contrast.
    """

    def __init__(
        self, checkout: Checkout, setting: Setting, config: str = VOC, epoch: int = 20, mixed: bool = False,
        every: int = 1, steps: int = 1, length: int = 300, absent: Iterable[int] = (), likely: int | None = None,
        delta: float | None = None, **cfg: Any,
    ) -> None:  # fmt: skip
        self.checkout, self.setting, self.epoch, self.mixed, self.length = checkout, setting, epoch, mixed, length
        self.cfg, b, images = checkout.yaml(config), setting.batch, 2 * setting.batch * steps
        self.cfg["net"]["num_classes"] = setting.classes
        bound = {} if delta is None else {"current_class_threshold": delta}
        self.cfg["trainer"]["contrastive"] |= cfg | bound
        grid = replace(setting, height=-(-setting.height // every), width=-(-setting.width // every))

        def heads(seed: int, modes_differ: bool) -> Heads:
            features = replace(grid, classes=DIM, seed=setting.seed + seed + 1).network(images)
            return Heads(replace(grid, seed=setting.seed + seed).network(images, modes_differ), features, every).train()

        self.student, self.teacher = heads(0, False), heads(2, True).requires_grad_(False)
        self.aux = replace(setting, seed=setting.seed + 4).network(images)
        truth, first = replace(setting).network(images).logits.detach().clone(), self.teacher.logits.in_eval
        assert first is not None
        for c in absent:
            truth[:, c], first[:, c] = -1e3, -1e3
        if likely is not None:
            train = self.teacher.logits.logits
            train.data[:, likely] = train.data.max(1).values + 0.1
        self.batches = [self._batch(truth, 2 * b * t) for t in range(steps)]
        self.kept = int(MINED * self.batches[0]["l"].labels.numel())  # their 100,000 would exceed these images
        if self.cfg["criterion"]["type"] == "ohem":
            self.cfg["criterion"]["kwargs"]["min_kept"] = self.kept

    def _batch(self, truth: Tensor, first: int) -> Batch:
        b, more = (
            self.setting.batch,
            replace(self.setting, batch=self.setting.batch + 1, seed=self.setting.seed + first),
        )
        valid_l, valid_u = more.valid()[1:], more.valid()[1:]  # padding in every image
        labels = self.setting.labels(truth[first : first + b], valid_l)
        x, u = self.setting.codes(first), self.setting.codes(first + b)
        return {"l": labelled(x, labels, valid_l), "u": unlabelled(valid_u, u)}

    @property
    def leaves(self) -> list[Tensor]:
        return [self.student.logits.logits, self.student.features.logits]

    def step(self, t: int = 0) -> Step:
        b, epochs = self.setting.batch, self.cfg["trainer"]["epochs"]
        return replace(self.setting.step(t, 1000, l=b, u=b), epoch=self.epoch, epochs=epochs)

    def method(self, undo: Iterable[str] = (), **constants: Any) -> Undone:
        """Return ours with their constants, in the authors' reading."""
        c, drop = self.cfg["trainer"]["contrastive"], self.cfg["trainer"]["unsupervised"]["drop_percent"]
        ohem = {"loss": "ohem", "ohem_threshold": 0.7, "ohem_min_kept": self.kept}
        config = {
            "sup": Supervision.model_validate(ohem if self.cfg["criterion"]["type"] == "ohem" else {}),
            "alpha": (100 - drop) / 100, "anchors": c["num_queries"], "draws": c["num_negatives"], "dim": DIM,
            "temperature": c["temperature"], "delta": c["current_class_threshold"], "bank": self.length, "push": 10**6,
            "r_low": c["low_rank"], "r_high": c["high_rank"], "negatives": "authors_code",
            "negatives_from": "unreliable" if c["negative_high_entropy"] else "all", "cutmix": float(self.mixed),
            "ema_decay": self.cfg["net"]["ema_decay"],
        }  # fmt: skip
        out = Undone(U2PL.Config.model_validate(config | constants), self.setting.task)
        out.undo, out.seen = frozenset(undo), {}
        return out

    def ours(self, method: Undone, t: int, bank: ClassBanks, now: Step | None = None) -> dict[str, Tensor]:
        """Return our terms, and their sum, at step t; pushes into the bank."""
        batch, now, memo = self.batches[t], now or self.step(t), {}
        if "padding" in method.undo:
            every = torch.ones_like(batch["u"].valid)
            batch = {**batch, "u": replace(batch["u"], valid=every)}
        nets: dict[str, nn.Module] = {"student": self.student, "teacher": self.teacher, "bank": bank}
        with method.active(self.teacher):
            terms = method.losses(nets, batch, now, memo)
        still = nn.Linear(1, 1)
        method.after_step({"student": still, "teacher": still, "bank": bank}, now, memo)
        if "real" in memo:
            method.seen |= {"count": memo["real"].sum(1), "kept": memo["kept"]}
        else:  # the warm-up
            none = torch.zeros(self.setting.classes, dtype=torch.int64)
            method.seen |= {"count": none, "kept": 0.0, "present": none, "use": none}
        return terms | {"total": torch.stack([*terms.values()]).sum()}

    def theirs(
        self, method: Undone, t: int, memory: dict[str, Any], dist: Any = ALONE, world_size: int = 1
    ) -> dict[str, Any]:
        """Return the names that their step t leaves, with the draws of our step t, which ``method`` has just made."""
        helper, train = parsed(self.checkout, "u2pl/utils/loss_helper.py"), parsed(self.checkout, "train_semi.py")
        utils = parsed(self.checkout, "u2pl/utils/utils.py").define(
            "gather_together", "dequeue_and_enqueue", "label_onehot", dist=dist
        )
        functions = helper.define(
            "compute_unsupervised_loss", "compute_contra_memobank_loss", "get_criterion", "Criterion", "CriterionOhem",
            "OhemCrossEntropy2dTensor", dequeue_and_enqueue=utils.dequeue_and_enqueue,
        )  # fmt: skip
        boxes = parsed(self.checkout, "u2pl/dataset/augmentation.py").define(
            "generate_unsup_data", "generate_cutout_mask", "generate_class_mask", np=drawn(self.step(t))
        )
        batch, idle = self.batches[t], SimpleNamespace(update=lambda _: None)
        x, y, u = batch["l"].weak, batch["l"].labels, batch["u"].weak
        coin = SimpleNamespace(percentile=np.percentile, random=SimpleNamespace(uniform=lambda *_: not self.mixed))
        collectives = dist is not ALONE
        with one_cpu_process(collectives), patch.object(torch, "randint", replayed(method)):
            return train.run(
                train.step(LOOP), **memory, **vars(functions), cfg=self.cfg, epoch=self.epoch, step=t, loader_l=[0] * 9,
                model=Theirs(self.student, self.aux).train(), model_teacher=Theirs(self.teacher, self.aux).train(),
                sup_loss_fn=functions.get_criterion(self.cfg), label_onehot=utils.label_onehot, np=coin, batch_end=0.0,
                generate_unsup_data=boxes.generate_unsup_data, world_size=world_size, data_times=idle,
                learning_rates=idle, lr_scheduler=SimpleNamespace(get_lr=lambda: [0.0], step=lambda: None),
                loader_l_iter=SimpleNamespace(next=lambda: (x, y.clone())), loader_u_iter=SimpleNamespace(
                    next=lambda: (u.clone(), None)), optimizer=SimpleNamespace(zero_grad=lambda: None),
            )  # fmt: skip

    def banks(self, length: int | None = None) -> ClassBanks:
        out = ClassBanks(self.setting.classes, length or self.length, DIM)
        return out.double() if self.setting.dtype == torch.float64 else out

    def memory(self, one_length: bool = True) -> dict[str, Any]:
        """Return their banks as their script makes them, shortened like ours; that of class 0 too, if asked."""
        train = parsed(self.checkout, "train_semi.py")
        made = train.run(train.between("main", "memobank", "prototype"), cfg=self.cfg)
        usual = made["queue_size"][1]
        return {
            "memobank": [[torch.zeros(0, DIM)] for _ in made["memobank"]],
            "queue_ptrlis": made["queue_ptrlis"],
            "queue_size": [(min(n, usual) if one_length else n) * self.length // usual for n in made["queue_size"]],
        }


def drawn(step: Step) -> SimpleNamespace:
    """Stand for numpy: hand out the numbers of our boxes (coin, width, top, left) in the order width, left, top."""
    numbers = (n for d in step.draws("u") for n in d.uniforms(4)[[1, 3, 2]].tolist())

    def integer(low: float, high: float) -> int:
        return int(low) + int((int(high) - int(low)) * next(numbers))  # numpy cuts its bounds to integers

    return SimpleNamespace(round=np.round, random=SimpleNamespace(randint=integer))


def replayed(method: Undone) -> Callable[..., Tensor]:
    """Stand for torch.randint: draw the anchors and the negatives that ours has drawn, class by class.

    Our negatives count from this step's first one over its last to the bank's newest and then to its oldest; theirs
    from the bank's oldest to its newest and then to this step's first and last one.
    """
    seen, current = method.seen, 0
    if "use" not in seen:  # ours has drawn nothing
        return lambda _, size: torch.zeros(size, dtype=torch.int64)
    classes = iter(seen["use"].nonzero().flatten().tolist())

    def randint(high: int, size: tuple[int]) -> Tensor:
        nonlocal current
        if size[0] == method.config.anchors:
            current = next(classes, 0)  # 0: they use more classes, and the losses differ
            return (seen["u_anchor"][current].double() * high).long()
        age = (seen["u_negative"][current].double() * high).long().flatten()
        new = min(int(seen["count"][current]), high)
        return torch.where(age < new, high - new + age, high - 1 - age)

    return randint


def contents(bank: ClassBanks, classes: Iterable[int]) -> Tensor:
    """Return the features of our bank from the newest to the oldest, 0 where it holds nothing, [K, L, D]."""
    ages = torch.arange(bank.length).expand(len(bank.pushed), -1)
    held = ages < bank.held.unsqueeze(1)
    return (bank.newest(ages) * held.unsqueeze(-1))[list(classes)]


def their_contents(memory: dict[str, Any], length: int, classes: Iterable[int]) -> Tensor:
    """Return the same of theirs, as directions, which is what ours holds."""
    every = [F.normalize(memory["memobank"][c][0], dim=1).flip(0) for c in classes]
    return torch.stack([F.pad(f, (0, 0, 0, length - len(f))) for f in every])
