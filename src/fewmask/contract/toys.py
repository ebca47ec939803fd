"""What the contract's points run on: toy images, tiny networks, and a method with some of its constants set."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.batch import IGNORE, Batch, Items, Slots, Stream
from fewmask.engine.launch import launch
from fewmask.engine.learner import Learner
from fewmask.engine.optim import OptimConfig
from fewmask.engine.precision import Format
from fewmask.method import Method, Step, Task, make_networks, trainings
from fewmask.methods import resolve
from fewmask.nets import Builder

CLASSES, BATCH, SIDE, STEPS = 3, 4, 16, 12


@dataclass(frozen=True)
class Case:
    """A method with some of its constants set.

    Attributes:
        name: registry name or ``package.module:Class``.
        constants: what differs from the defaults.
        round: number of the round, of a method that has several: each is a training of its own.
    """

    name: str
    constants: Mapping[str, Any] = field(default_factory=dict)
    round: int = 0

    def __str__(self) -> str:
        words = [self.name, *(f"{k}={v}" for k, v in self.constants.items())]
        return "-".join([*words, f"round={self.round}"] if self.round else words)

    def whole(self) -> Method:
        """Return a fresh Method object, with all of its rounds."""
        cls = resolve(self.name)
        return cls(cls.Config(**self.constants), Task(CLASSES, frequency=(0.6, 0.3, 0.1)))

    def make(self) -> Method:
        """Return what the case trains: a fresh Method object."""
        return trainings(self.whole())[self.round]

    @property
    def labelled_before(self) -> bool:
        """Whether an earlier round labels images for this one."""
        rounds = self.whole().rounds()
        return bool(rounds and rounds[self.round].labels)

    def each_round(self) -> list[Case]:
        """Return one case for every different training: rounds that train the same Method object are one."""
        each = trainings(self.whole())
        return [replace(self, round=n) for n, one in enumerate(each) if not any(one is other for other in each[:n])]


class ToyBuild:
    """Builds tiny networks with sharpened outputs, so that confidence thresholds are passed somewhere."""

    def __init__(self, seed: int = 0) -> None:
        self._build = Builder("tiny", "tiny", CLASSES, weights="none", seed=seed)

    def __call__(self, name: str) -> nn.Module:
        """Return the network of that name."""
        net: Any = self._build(name)
        with torch.no_grad():
            net.head.classify.weight *= 8
        return net


def toy_slots(streams: Mapping[str, Stream], rank: int = 0, world: int = 1) -> dict[str, Slots]:
    """Return each stream's share of a batch of BATCH items."""
    count = BATCH // world
    return {name: Slots(rank * count, count, key, BATCH, 8) for key, name in enumerate(streams)}


def toy_batch(streams: Mapping[str, Stream], slots: Mapping[str, Slots], t: int) -> Batch:
    """Return images that depend on (stream, t, slot) only, with padding and void labels among them."""
    return {name: _toy_items(stream, slots[name], t) for name, stream in streams.items()}


def _toy_items(stream: Stream, slots: Slots, t: int) -> Items:
    views: list[list[Tensor]] = [[] for _ in stream.views]
    masks, valids = [], []
    place = torch.arange(SIDE * SIDE).view(SIDE, SIDE).roll(1, dims=1)  # a geo view moves everything by one column
    place[:, 0] = -1
    for slot in slots:
        g = torch.Generator().manual_seed(1000 * t + 10 * slot + slots.key)
        coarse = torch.randint(0, CLASSES, (SIDE // 4, SIDE // 4), generator=g)
        mask = coarse.repeat_interleave(4, 0).repeat_interleave(4, 1)
        image = torch.randn(3, SIDE, SIDE, generator=g) + nn.functional.one_hot(mask, 3).permute(2, 0, 1)
        valid = torch.ones(SIDE, SIDE, dtype=torch.bool)
        valid[:, SIDE - slot % 3 :] = False
        mask = mask.masked_fill(~valid, IGNORE)
        mask[: slot % 2] = IGNORE
        for v, kind in enumerate(stream.views):
            noise = 0.0 if kind == "weak" else 0.5 * torch.randn(3, SIDE, SIDE, generator=g)
            view = (image + noise) * valid
            views[v].append(view.roll(1, dims=2) * (place >= 0) if kind == "geo" else view)
        masks.append(mask)
        valids.append(valid)
    known, inside = torch.stack(masks), torch.stack(valids).flatten(1)  # pseudo-labels are the truth: none learns more
    source = torch.where(inside[:, place.clamp(min=0).flatten()].view_as(known), place, -1)
    sources = tuple(source for kind in stream.views if kind == "geo")
    return Items(
        tuple(torch.stack(v) for v in views), stream.views, torch.stack(valids), torch.arange(len(masks)),
        known if stream.pool == "labelled" else None, known.clone(), sources,
    )  # fmt: skip


def toy_step(method: Method, t: int) -> Step:
    """Return step ``t`` of a run of STEPS on one process."""
    slots = toy_slots(method.streams)
    return Step(t, STEPS, t // 2, STEPS // 2, seed=0, rank=0, slots=slots, reduce=lambda x: x)


def toy_networks(method: Method) -> dict[str, nn.Module]:
    """Build, move every network a little (a teacher must differ from its student), and set the modes."""
    nets = make_networks(method, ToyBuild(), seed=0)
    trained = trained_by(method)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, net in nets.items():
            for p in net.parameters():
                p += 0.05 * torch.randn(p.shape, generator=g)
            net.train(name in trained or method.teacher_bn == "train")
    return nets


def trained_by(method: Method) -> set[str]:
    """Return the networks that some phase trains."""
    return {name for phase in method.phases() for name in phase.trained}


def all_terms(
    method: Method, nets: Mapping[str, nn.Module], batch: Batch, t: int, seed: int = 0, step: Step | None = None
) -> dict[str, Tensor]:
    """Return the terms of all phases, with dropout drawn alike every time.

    Args:
        method: whose losses are called.
        nets: its networks.
        batch: what they see.
        t: the step.
        seed: of the global generators, which networks may draw from, and methods may not.
        step: in place of that of a single process.
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    memo: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    for phase in method.phases():
        out |= phase.losses(nets, batch, step or toy_step(method, t), memo)
    loose = [name for name, x in memo.items() if x.requires_grad]
    assert not loose, f"memo holds tensors with gradient: {loose}"
    return out


def moved(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the terms that differ; what is not a number is so in both."""
    return [name for name in one if not torch.equal(one[name].nan_to_num(), other[name].nan_to_num())]


def turned(items: Items) -> Items:
    """Return labelled items with another class in every labelled pixel, others as they are."""
    if items.mask is None:
        return items
    return replace(items, mask=torch.where(items.mask < CLASSES, (items.mask + 1) % CLASSES, items.mask))


def case_batch(method: Method, t: int) -> Batch:
    """Return the whole batch of step ``t`` for a method's streams."""
    return toy_batch(method.streams, toy_slots(method.streams), t)


def make_learner(case: Case, fabric: Any = None, parts: int = 1) -> Learner:
    """Return a learner of the case, in training mode, on one CPU process or on ``fabric``; its steps in parts."""
    method = case.make()
    fabric = launch("cpu", "fp32") if fabric is None else fabric
    slots = toy_slots(method.streams, fabric.global_rank, fabric.world_size)
    optim = OptimConfig(lr=1e-3)
    learner = Learner(fabric, method, ToyBuild(), optim, slots, STEPS, 0, Format("fp32", False, ""), parts=parts)
    learner.train_mode()
    return learner


def advance(learner: Learner, start: int, stop: int) -> None:
    """Do the steps start .. stop-1 on toy batches."""
    for t in range(start, stop):
        learner.update(toy_batch(learner.method.streams, learner.slots, t), t)
