"""The one central abstraction: a Method is a paper.

A method declares the views, networks and gradient flow it needs and computes named loss terms. It owns no loop, device,
optimiser, file or logger; the engine owns those and never knows a method's name. Any loop can call one: see
``docs/own-loop.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from fewmask.batch import Batch, Pool, Slots, Stream
from fewmask.config import Config
from fewmask.ops.rng import Draws, Purpose, torch_seed
from fewmask.ops.select import Selection

Nets = Mapping[str, nn.Module]
Terms = dict[str, Tensor]
Flow = Mapping[str, tuple[str, ...]]
"""Loss term to the names of the networks that it trains."""


@dataclass(frozen=True)
class Task:
    """What a method may know about the data.

    Attributes:
        classes: number of learned classes, K.
        frequency: share of each class among the labelled pixels that a run may open (sums to 1 where any is
            labelled), length K; None where it was not counted.
    """

    classes: int
    frequency: tuple[float, ...] | None = None

    @classmethod
    def of(cls, pixels: Sequence[int]) -> Task:
        """Return the task of data with so many labelled pixels of each class."""
        total = sum(pixels)
        return cls(len(pixels), tuple(n / total for n in pixels) if total else None)


class Build(Protocol):
    """Makes one segmentation network; the same name and seed give the same weights, another name others."""

    def __call__(self, name: str) -> nn.Module:
        """Return a network [B, C, H, W] -> logits [B, K, H, W] in float32."""
        ...


def _own(x: Tensor) -> Tensor:
    return x


def _alone(x: Tensor) -> Tensor:
    return x.unsqueeze(0)


@dataclass(frozen=True)
class Step:
    """Where training stands, and the randomness of this step.

    Attributes:
        t: global step, 0 .. total-1.
        total: number of steps of the run (of the round).
        epoch: passes over the unlabelled pool (the labelled one where there is no other) finished at this step.
        epochs: passes at the end of the run, at least 1.
        seed: the run's seed.
        rank: this process among the ranks.
        slots: stream name to this rank's share of its global batch.
        reduce: sum of a tensor over the ranks; the identity on one.
        gather: a tensor [...] to those of all ranks [ranks, ...], the same on each.
        ranks: how many there are.
    """

    t: int
    total: int
    epoch: int
    epochs: int
    seed: int
    rank: int
    slots: Mapping[str, Slots]
    reduce: Callable[[Tensor], Tensor]
    gather: Callable[[Tensor], Tensor] = _alone
    ranks: int = 1

    @classmethod
    def of(
        cls, streams: Mapping[str, Stream], slots: Mapping[str, Slots], t: int, total: int, seed: int, rank: int = 0,
        reduce: Callable[[Tensor], Tensor] = _own, gather: Callable[[Tensor], Tensor] = _alone, ranks: int = 1,
    ) -> Step:  # fmt: skip
        """Return step ``t`` of ``total`` of a run that reads these streams: its passes are counted from them."""
        unlabelled = [name for name, stream in streams.items() if stream.pool != "labelled"]
        pace = slots[next(iter(unlabelled or slots))]
        epoch, epochs = t * pace.size // pace.items, max(1, -(-total * pace.size // pace.items))
        return cls(t, total, epoch, epochs, seed, rank, slots, reduce, gather, ranks)

    def draws(self, stream: str, purpose: Purpose = Purpose.MIX, view: int = 0) -> list[Draws]:
        """Return one source of random numbers for each item of a stream's batch.

        They are keyed by the global slot, so an item gets the same numbers for any number of ranks.
        """
        mine = self.slots[stream]
        return [Draws(self.seed, purpose, self.t, slot, mine.view(view)) for slot in mine]

    def average(self, x: Tensor) -> Tensor:
        """Return the mean of a scalar over the ranks: what a loss divides by, see ``ops.losses``."""
        return x if self.ranks == 1 else self.reduce(x) / self.ranks

    def generator(self, purpose: Purpose, device: torch.device | str = "cpu") -> torch.Generator:
        """Return a generator for batch-level draws (anchor sampling), keyed by (seed, step, rank)."""
        seed = torch_seed(self.seed, purpose, self.t, slot=self.rank)
        return torch.Generator(device=device).manual_seed(seed)


Losses = Callable[[Nets, Batch, Step, dict[str, Tensor]], Terms]


@dataclass(frozen=True)
class Phase:
    """One backward pass and optimiser step of an alternating scheme.

    Attributes:
        flow: the terms of this phase and the networks they train; every other network is frozen meanwhile.
        losses: computes them.
    """

    flow: Flow
    losses: Losses

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the networks that this phase trains, sorted."""
        return tuple(sorted({name for names in self.flow.values() for name in names}))


@dataclass(frozen=True)
class Part:
    """A part of a pool: its images ranked by how stable their predictions were while a round was trained (ST++).

    Attributes:
        ranker: the earlier round whose snapshots (``Round.keep``) are compared with its last networks, by name.
        low, high: shares of the ranked images, the most stable one first; 0 to 0.5 is the better half.
    """

    ranker: str
    low: float = 0.0
    high: float = 1.0


@dataclass(frozen=True)
class Labelling:
    """Pseudo-labels for a round. Rounds that hold an equal one share the files.

    Attributes:
        by: the earlier round whose last networks (its reported predictor) label, by name.
        pool: the images that are labelled.
        part: which of them; None = all.
        select: which pixels become pseudo-labels.
        scales: the labels are those of the mean probability over these sizes of the image,
        flip: and of its mirror image.
    """

    by: str
    pool: Pool = "unlabelled"
    part: Part | None = None
    select: Selection = Selection()
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False


@dataclass(frozen=True)
class Round:
    """One training of a multi-round scheme (self-training), on labels that earlier rounds made.

    Attributes:
        name: of its folder.
        method: the Method object that this round trains; one whose ``rounds()`` is empty.
        share: of the run's steps; the shares of all rounds sum to 1.
        init: the earlier round whose networks this one continues, by name, with a new optimiser and schedule; None =
            from scratch.
        labels: where its pseudo-labels come from. With any, its unlabelled pool are the images that they label.
        keep: shares of its steps after which its networks are kept, to rank images with.
        scale: factors on the two bounds of the recipe's random scale.
        rate: factor on the recipe's learning rate.
        batch: labelled images a step, of all processes; None = the recipe's.
        fresh_heads: with ``init``: what continues is that round's reported network without further heads, as the start
            of every network of this one; their further heads and branches begin anew.
    """

    name: str
    method: Method
    share: float
    init: str | None = None
    labels: tuple[Labelling, ...] = ()
    keep: tuple[float, ...] = ()
    scale: tuple[float, float] = (1.0, 1.0)
    rate: float = 1.0
    batch: int | None = None
    fresh_heads: bool = False


@dataclass(frozen=True)
class OptimiserOverride:
    """What one network's optimiser does differently from the recipe's ``optim`` section."""

    values: Mapping[str, Any] = field(default_factory=dict)


class Method:
    """Base of every method. Subclasses declare, and compute losses; they do not inherit from each other.

    Class attributes that a subclass sets (as properties where they depend on its Config):
        title, paper, year: the work it implements.
        streams: stream name to Stream: which images and views a step receives.
        flow: loss term to the networks that it trains.
        predictors: networks that are evaluated; the first is the reported number.
        teacher_bn: mode of the untrained networks' normalisation layers: "eval" uses running statistics, "train"
            batch statistics (and updates the running ones).
        optimisers: network name to its override.
        short: constants that serve schedules much shorter than the paper's better than the paper's own, which are the
            defaults of Config: ``fewmask train`` takes them below ``recipe.SHORT`` steps, and says so.
        partial: images that are labelled in part stand in the unlabelled pool too, where only the pixels that nobody
            has labelled yet are ``valid``: the terms of unlabelled streams must count no others.
        joined: entries of the memo that hold items, and the dimension along which those of the parts of a step
            (``train.accumulate``) are joined. The others hold sums, which are added, but for ``kept``, a share.

    Args:
        config: the method's constants.
        task: what it may know about the data.
    """

    title: ClassVar[str]
    paper: ClassVar[str]
    year: ClassVar[int]
    Config: ClassVar[type[Config]] = Config  # pyright: ignore[reportGeneralTypeIssues]

    streams: Mapping[str, Stream]
    flow: Flow
    predictors: Sequence[str]
    teacher_bn: Literal["eval", "train"] = "eval"
    optimisers: Mapping[str, OptimiserOverride] = {}
    short: ClassVar[Mapping[str, Any]] = {}
    partial: ClassVar[bool] = False
    joined: ClassVar[Mapping[str, int]] = {}

    def __init__(self, config: Any, task: Task) -> None:
        self.config: Any = config
        self.task = task

    def adapted(self) -> dict[str, Any]:
        """Return the constants that so few classes change, by name, with the values that are used; a run says them."""
        return {}

    def networks(self, build: Build) -> dict[str, nn.Module]:
        """Return every network and state holder (students, teachers, heads, banks) by name; all state lives here."""
        raise NotImplementedError

    def losses(self, nets: Nets, batch: Batch, step: Step, memo: dict[str, Tensor]) -> Terms:
        """Return the loss terms named in ``flow``, scalars, already weighted: their sum is the paper's L.

        Args:
            nets: networks by name; the trained ones may be wrapped for distribution.
            batch: items by stream name.
            step: where training stands.
            memo: detached tensors for later phases and ``after_step``. Three are logged where set: ``memo["kept"]``,
                the share of valid unlabelled pixels that trained; ``memo["pseudo"]``, how many of these had each class
                as their pseudo-label, [K]; ``memo["agree"]``, on how many of these the trained network said the same,
                and how many these are, [2]. ``ops.pseudo.told`` makes all three.
        """
        raise NotImplementedError

    def after_step(self, nets: Nets, step: Step, memo: dict[str, Tensor]) -> None:
        """Update what is not trained by gradient (EMA, banks, class statistics); runs without gradient."""

    def phases(self) -> list[Phase]:
        """Return the phases of a step; one, unless the method alternates."""
        return [Phase(self.flow, self.losses)]

    def rounds(self) -> list[Round]:
        """Return the rounds of a multi-round scheme; empty for a method that is one run."""
        return []

    def network(self, nets: Nets, name: str) -> nn.Module:
        """Return predictor ``name`` as one network that the run's architecture could have built: it is delivered.

        It shares its parameters with ``nets``. A predictor that is part of a network (one of two heads) is cut out.
        """
        return nets[name]

    def predict(self, nets: Nets, name: str, images: Tensor) -> Tensor:
        """Return the logits [B, K, H, W] of predictor ``name`` for images [B, C, H, W], in evaluation mode."""
        return self.network(nets, name)(images)


def trainings(method: Method) -> list[Method]:
    """Return what is trained one after the other: the method itself, or those of its rounds."""
    return [r.method for r in method.rounds()] or [method]


def make_networks(method: Method, build: Build, seed: int) -> dict[str, nn.Module]:
    """Return the method's networks; parts that do not come from ``build`` (critics) are drawn by the seed too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, Purpose.INIT))
        return method.networks(build)
