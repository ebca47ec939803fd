"""Timing by turns: what is compared is timed round after round in one process, and ratios are taken within a round."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from fewmask.run.notes import Say

Summary = dict[str, float]
"""{"median", "low", "high"}."""


def in_turn(jobs: Mapping[str, Callable[[], Any]], rounds: int, say: Say) -> dict[str, list[float]]:
    """Return the seconds of each job in every round; neither is always the first.

    Args:
        jobs: called once a round. Each has run before: nothing is warmed up here.
        rounds: how many.
        say: told which round begins.
    """
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    for n in range(rounds):
        say(f"round {n + 1} of {rounds}")
        for name in list(jobs) if n % 2 else list(jobs)[::-1]:
            spent[name].append(seconds_of(jobs[name]))
    return spent


def seconds_of(job: Callable[[], Any]) -> float:
    """Call a function, and return how long it took."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def summary(values: Sequence[float]) -> Summary:
    """Return median and range."""
    return {"median": _round(median(values)), "low": _round(min(values)), "high": _round(max(values))}


def ratio(above: Sequence[float], below: Sequence[float]) -> Summary:
    """Return median and range of the ratios of the rounds."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the least-squares slope of log value over log size: 0 = does not grow, 1 = grows as the size does."""
    x, y = ([math.log(v) for v in line] for line in (sizes, values))
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    along = sum((a - middle_x) ** 2 for a in x)
    return round(sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / along, 4)


def _round(value: float) -> float:
    return float(f"{value:.5g}")
