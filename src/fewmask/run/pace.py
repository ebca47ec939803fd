"""How long a run will take, from steps and pictures that are timed before it: ``--plan`` and ``--time``."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch

from fewmask.data.stream import to_device
from fewmask.engine import faults
from fewmask.engine.evaluate import confusion_of
from fewmask.engine.infer import PROTOCOLS
from fewmask.engine.learner import Learner
from fewmask.method import Method
from fewmask.methods import resolve
from fewmask.recipe import Recipe
from fewmask.run.arms import comparable, matched
from fewmask.run.prepare import Prepared, parts_of
from fewmask.run.rehearse import made_up
from fewmask.run.score import Scorer
from fewmask.run.training import dataset_of, learner_of, pictures_of

_STEPS = 6  # timed, spread over the schedule: a warm-up is cheaper than what follows
_WARM = 2  # before them, untimed: kernels are chosen, files come from the disk
_READ = 4  # batches read
_PICTURES = 3
_SECONDS = 20.0  # no further step is timed after these
_STARTING = 5.0  # seconds until the first step of a training


@dataclass(frozen=True)
class Pace:
    """What one training costs.

    Attributes:
        step: seconds.
        picture: seconds to predict and score one image.
        state: bytes of a checkpoint.
        passes: over val at the end: the last networks (of every predictor) and the best ones.
    """

    step: float
    picture: float
    state: int
    passes: int


@dataclass(frozen=True)
class Cost:
    """What one arm costs: its trainings, which are several where it has rounds.

    Attributes:
        method: name.
        paces: of each training.
        shares: of the steps that each takes.
        labelled: images that each labels before it.
    """

    method: str
    paces: tuple[Pace, ...]
    shares: tuple[float, ...]
    labelled: tuple[int, ...]

    @property
    def step(self) -> float:
        """Seconds of a mean step."""
        return sum(pace.step * share for pace, share in zip(self.paces, self.shares, strict=True))

    def seconds(self, recipe: Recipe, val: int, test: int) -> float:
        """Return how long the arm takes with a recipe's steps."""
        scores = 0 if not recipe.train.eval_every else recipe.train.steps // recipe.train.eval_every
        picture = self.paces[-1].picture
        ends = sum(pace.passes for pace in self.paces)
        seen = val * (scores + ends) + 2 * test * len(self.paces) + sum(self.labelled)
        return recipe.train.steps * self.step + seen * picture + _STARTING * len(self.paces)


def costs(prepared: Prepared, fabric: Any, methods: Collection[str] | None = None) -> list[Cost]:
    """Time every kind of training of a run; every rank takes part.

    Args:
        prepared: data and recipe.
        fabric: launched.
        methods: names of those to time; None = all.
    """
    arms = [matched(prepared)] if comparable(prepared.recipe, prepared.index, lambda text: None) else []
    every = [*arms, prepared]
    return costs_of([arm for arm in every if methods is None or arm.recipe.method_name in methods], fabric)


def costs_of(arms: Sequence[Prepared], fabric: Any) -> list[Cost]:
    """Time every kind of training of some arms; every rank takes part."""
    return [_cost(arm, fabric) for arm in arms]


def _cost(prepared: Prepared, fabric: Any) -> Cost:
    method = resolve(prepared.recipe.method_name)(prepared.recipe.constants(), prepared.task)
    rounds = tuple(method.rounds())
    reading, paces = None, list[Pace]()
    for recipe, one in parts_of(prepared.recipe, method):
        part = replace(prepared, recipe=recipe)
        learner = learner_of(part, one, fabric)
        if reading is None:  # the first reads nothing that is not there yet, such as pseudo-labels
            reading = _reading(part, one, learner)
        paces.append(_pace(part, one, learner, reading))
    pool = len(prepared.pools.unlabelled)
    labelled = tuple(pool if one.labels else 0 for one in rounds) or (0,)
    return Cost(prepared.recipe.method_name, tuple(paces), tuple(one.share for one in rounds) or (1.0,), labelled)


def _reading(prepared: Prepared, method: Method, learner: Learner) -> float:
    """Return the seconds of one view of one image, of files that the cache holds as far as it can."""
    recipe = prepared.recipe
    dataset = dataset_of(prepared, method, learner)
    fresh, again = list[float](), list[float]()
    for t in range(0, recipe.train.steps, max(1, recipe.train.steps // _READ)):
        for spent in (fresh, again):
            began = time.perf_counter()
            dataset[t]
            spent.append(time.perf_counter() - began)
    both = any(stream.pool != "labelled" for stream in method.streams.values())
    count = len(prepared.pools.labelled) + (len(prepared.pools.unlabelled) if both else 0)
    height, width = prepared.largest
    held = min(1.0, recipe.machine.cache_mb * 1e6 / max(1, count * height * width * 4))
    once = min(1.0, count / (recipe.train.steps * views_of(method, learner)))  # share of the views that open a file
    share = once * held + (1 - held)
    return (median(again) + share * max(0.0, median(fresh) - median(again))) / views_of(method, learner)


def views_of(method: Method, learner: Learner) -> int:
    """Return how many views of images a step reads on this rank."""
    return sum(learner.slots[name].count * len(stream.views) for name, stream in method.streams.items())


def _pace(prepared: Prepared, method: Method, learner: Learner, reading: float) -> Pace:
    """Take some steps of a training on noise and predict some images, and forget all of it."""
    recipe = prepared.recipe
    assert recipe.data.crop is not None
    device = learner.fabric.device
    learner.train_mode()
    pictures = pictures_of(prepared, learner)
    raw = made_up(method.streams, learner.slots, recipe.data.crop, prepared.task.classes, len(pictures.mean))
    spent = list[float]()
    with faults.held():
        for n, t in enumerate(_spread(recipe.train.steps)):
            began = time.perf_counter()
            batch = to_device(raw, device, pictures.mean, pictures.std, prepared.layout.channels_last)
            learner.update(batch, t)
            wait_for(device)
            if n >= _WARM:
                spent.append(time.perf_counter() - began)
            if learner.any_rank(sum(spent) > _SECONDS, due=True):
                break
    read = reading * views_of(method, learner)
    workers = recipe.machine.workers or 0
    step = median(spent) + read if not workers else max(median(spent), read / workers)
    forward = Scorer(learner, prepared, pictures).forward(method.predictors[0])
    scored = prepared.index.items["val"] or (prepared.pools.labelled if prepared.folds else ())
    items, seen = scored[: _PICTURES + 1], list[float]()
    for item in items:
        began = time.perf_counter()
        confusion_of(forward, [item], pictures, prepared.task.classes, PROTOCOLS[recipe.protocol])
        seen.append(time.perf_counter() - began)
    return Pace(step, median(seen[1:] or seen or [0.0]), state_bytes(learner), 1 + len(method.predictors))


def state_bytes(learner: Learner) -> int:
    """Return the bytes of a checkpoint."""
    saved = learner.snapshot(0, {})
    return sum(t.numel() * t.element_size() for part in (saved.networks, saved.optimisers) for t in part.values())


def _spread(total: int) -> Iterator[int]:
    """Yield steps from all parts of the schedule, after some to warm up."""
    for n in range(_WARM + _STEPS):
        yield min(total - 1, int(total * max(0.0, n - _WARM + 0.5) / _STEPS))


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
