"""The rounds of a method that labels between trainings: what each reached, and what it learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fewmask.report.record import Record, get, is_number
from fewmask.report.text import count, number, percent, signed

RULES = {
    "none": "every pixel", "st": "the surest pixels", "cbst": "the surest pixels of each class",
    "da": "as the labels are distributed, ties kept", "dars": "as the labels are distributed",
}  # fmt: skip
"""Rule of a selection, in words."""


@dataclass(frozen=True)
class RoundRow:
    """A round; scores are means over seeds and folds, ``gain`` is over the round before. What there is not is ""."""

    name: str
    steps: str
    val: str
    gain: str
    test: str
    labels: str
    kept: str
    divergence: str


def round_rows(record: Record) -> list[RoundRow]:
    """Return a row a round; none where the run has no rounds, or its seeds or folds differ in them."""
    runs = [r.metrics.get("rounds") for _, r in record.trainings]
    known = [rounds for rounds in runs if isinstance(rounds, list) and all(isinstance(r, Mapping) for r in rounds)]
    if not known or len(known) < len(runs) or len({tuple(r.get("name") for r in rounds) for rounds in known}) > 1:
        return []
    out, before = list[RoundRow](), None
    for each in zip(*known, strict=True):
        val = _mean(each, "val", "miou")
        gain = "" if before is None or val is None else signed(val - before, 2)
        out.append(_row(each, val, gain))
        before = val
    return out


def _row(each: Sequence[Mapping[str, Any]], val: float | None, gain: str) -> RoundRow:
    first = each[0]
    rule, ratio = get(first, "labels", "select", "rule"), get(first, "labels", "select", "ratio")
    words = RULES.get(str(rule), str(rule)) if rule else ""
    if rule not in (None, "none") and is_number(ratio):
        words += f", {percent(ratio)}"
    if words and is_number(images := get(first, "labels", "images")):
        words += f", of {count(images)} images"
    kept, divergence = _mean(each, "labels", "kept"), _mean(each, "labels", "divergence")
    return RoundRow(
        str(first.get("name")), count(first.get("steps")), number(val, 2), gain,
        number(_mean(each, "test", "miou"), 2), words, "" if kept is None else percent(kept),
        "" if divergence is None else number(divergence, 4),
    )  # fmt: skip


def _mean(each: Sequence[Mapping[str, Any]], *path: str) -> float | None:
    """Return the mean over the trainings; None where one of them lacks it."""
    values = [get(one, *path) for one in each]
    return fmean(values) if all(is_number(v) for v in values) else None
