"""Watches pseudo-labels while a run trains, and says early when they collapse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_MEMORY = 0.9  # of the moving averages, a logged record: a batch holds few images, and rare classes come and go
_PATIENCE = 20  # records before anything is said
VANISHED = 0.1
"""A class has vanished from the pseudo-labels where its share is below this part of its share of the labels."""
_TAKEN_OVER = 0.25  # more of all pixels than among the labelled ones
_STARVED = 0.01  # share of kept pixels
_BACK = 2.0  # so far within its limit something is before it counts as over


@dataclass
class Finding:
    """What was wrong with the pseudo-labels.

    Attributes:
        step: at which it was seen.
        text: what it was.
        until: step at which it was over; None = it is not.
    """

    step: int
    text: str
    until: int | None = None


class Monitor:
    """Compares the classes of the pseudo-labels with those of the labelled pixels; says what begins, and what is over.

    Args:
        names: of the classes.
        prior: share of each class among the labelled pixels; None = unknown, only the kept share is watched.
        say: receives a sentence for each finding, and one when it is over.

    Attributes:
        found: all findings, in their order.
    """

    def __init__(self, names: Sequence[str], prior: Sequence[float] | None, say: Callable[[str], None]) -> None:
        self._names, self._prior, self._say = names, prior, say
        self._records = 0
        self._pseudo: list[float] | None = None
        self._kept: float | None = None
        self._open: dict[str, Finding] = {}
        self.found: list[Finding] = []

    def record(self, record: dict[str, Any]) -> None:
        """Take one record of the log."""
        if "kept" not in record:
            return
        self._records += 1
        self._kept = _average(self._kept, record["kept"])
        shares = record.get("pseudo")
        if shares is not None and sum(shares) > 0:
            before = self._pseudo or [None] * len(shares)
            self._pseudo = [_average(b, s) for b, s in zip(before, shares, strict=True)]
        if self._records >= _PATIENCE:
            self._check(record["step"])

    def _check(self, step: int) -> None:
        if self._kept is not None:
            some = f"{self._kept:.1%} of the unlabelled pixels train"
            if self._kept < _STARVED:
                self._begin("", step, f"{some}: lower the threshold")
            elif self._kept >= _BACK * _STARVED:
                self._end("", step, some)
        if self._prior is None or self._pseudo is None:
            return
        for name, prior, share in zip(self._names, self._prior, self._pseudo, strict=True):
            shares = f"{share:.2%} of the pseudo-labels, {prior:.2%} of the labelled pixels"
            if share < VANISHED * prior:
                self._begin(name, step, f"class {name!r} vanishes from the pseudo-labels ({shares})")
            elif share > prior + _TAKEN_OVER:
                self._begin(name, step, f"class {name!r} takes over the pseudo-labels ({shares})")
            elif _BACK * VANISHED * prior <= share <= prior + _TAKEN_OVER / _BACK:
                self._end(name, step, f"class {name!r} has a share of the pseudo-labels again ({shares})")

    def _begin(self, key: str, step: int, text: str) -> None:
        if key not in self._open:
            self._open[key] = Finding(step, text)
            self.found.append(self._open[key])
            self._say(f"WARNING: step {step}: {text}")

    def _end(self, key: str, step: int, text: str) -> None:
        if key in self._open:
            self._open.pop(key).until = step
            self._say(f"step {step}: {text}")


def _average(before: float | None, now: float) -> float:
    return now if before is None else _MEMORY * before + (1 - _MEMORY) * now
