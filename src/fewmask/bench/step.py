"""``fewmask bench step``: a step of each method beside a supervised one, and beside the floor of its networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from fewmask.bench.floor import Floor, passes_of
from fewmask.bench.flops import Counts, counted
from fewmask.bench.setting import Arm, Setting
from fewmask.bench.turns import ratio, seconds_of, summary
from fewmask.run.arms import SUPERVISED
from fewmask.run.pace import state_bytes, wait_for
from fewmask.run.training import learner_of


@dataclass
class _Timed:
    """The trainings of a method, their floors, and what was found of them.

    Attributes:
        arms: one a training.
        floors: one an arm.
        counts: of a step of each arm.
        network: of a step of each floor.
        peak_mb: memory of the device, if it counts.
        steps: seconds of a mean step in each round.
        least: the same of the floors.
    """

    arms: list[Arm]
    floors: list[Floor]
    counts: list[Counts]
    network: list[Counts]
    peak_mb: float | None
    steps: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)

    def mean(self, counts: list[Counts], what: str) -> float:
        """Return a count of the mean step: a method of several trainings counts as their mean."""
        return sum(arm.share * getattr(c, what) for arm, c in zip(self.arms, counts, strict=True))

    def time(self, device: torch.device, floor_first: bool) -> None:
        """Time a step of every training, and its floor right before or after it."""
        spent = [0.0, 0.0]
        for arm, floor in zip(self.arms, self.floors, strict=True):
            jobs: list[tuple[int, Callable[[], Any]]] = [(0, arm.step), (1, lambda f=floor: _waited(f, device))]
            for place, job in jobs[::-1] if floor_first else jobs:
                spent[place] += arm.share * seconds_of(job)
        self.steps.append(spent[0])
        self.least.append(spent[1])


def rows(setting: Setting) -> list[dict[str, Any]]:
    """Return {"method", "N", "floor_flops", "R", "L", "G", "ops", "syncs", "seconds", …} of every method."""
    device, found = setting.fabric.device, dict[str, _Timed]()
    for name in setting.methods:
        setting.say(f"counting {name}")
        found[name] = _ready(setting, name)
    for n in range(setting.rounds):
        setting.say(f"round {n + 1} of {setting.rounds}")
        for name in list(found) if n % 2 else list(found)[::-1]:  # none is always the first
            found[name].time(device, floor_first=n % 2 == 1)
    plain = found[SUPERVISED]
    return [_row(name, one, plain) for name, one in found.items()]


def _ready(setting: Setting, name: str) -> _Timed:
    with _peak(setting.fabric.device) as peak:
        arms = [Arm.of(share, part, method, setting.fabric) for share, part, method in setting.trainings(name)]
        passes = [passes_of(arm.learner, arm.step) for arm in arms]  # optimisers get their state, kernels are chosen
        counts = [counted(arm.step) for arm in arms]
    most = peak()
    floors = [
        Floor(learner_of(part, method, setting.fabric), seen)
        for (_, part, method), seen in zip(setting.trainings(name), passes, strict=True)
    ]
    for floor in floors:
        floor.step()
    return _Timed(arms, floors, counts, [counted(floor.step) for floor in floors], most)


def _row(name: str, one: _Timed, plain: _Timed) -> dict[str, Any]:
    slower = ratio(one.steps, plain.steps)
    work = one.mean(one.counts, "flops") / plain.mean(plain.counts, "flops")
    return {
        "method": name, "N": ratio(one.steps, one.least),
        "floor_flops": round(one.mean(one.network, "flops") / one.mean(one.counts, "flops"), 4),
        "R": slower, "L": round(work, 4), "G": round(slower["median"] / work, 4),
        "ops": round(one.mean(one.counts, "ops")), "syncs": round(one.mean(one.counts, "syncs"), 2),
        "seconds": summary(one.steps), "floor_seconds": summary(one.least),
        "state_mb": round(max(state_bytes(arm.learner) for arm in one.arms) / 1e6, 1), "peak_memory_mb": one.peak_mb,
    }  # fmt: skip


def _waited(floor: Floor, device: torch.device) -> None:
    floor.step()
    wait_for(device)


@contextmanager
def _peak(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Yield a function that returns the most memory that was taken on a CUDA device inside, in MB; None on others."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0  # of the methods before
    yield lambda: round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 1) if cuda else None
