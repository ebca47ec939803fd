"""Intervals of a comparison, from the counts of single images that the runs kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fewmask.ops.interval import Gain, Interval, covers, paired_gain, score_interval
from fewmask.report.record import Counts, Record


def interval_of(records: Sequence[Record], role: str) -> dict[str, Any] | None:
    """Return {"low", "high", "covers"} of the mean mIoU of the last checkpoints; None where it cannot be had.

    Args:
        records: of one configuration, one a seed.
        role: "val" or "test".
    """
    found = _same_images(records, role)
    if found is None:
        return None
    return told_interval(_stacked(found), found[0].units, found[0].groups)


def told_interval(counts_SN3K: np.ndarray, units: Sequence[str], groups: Sequence[str]) -> dict[str, Any] | None:
    """Return {"low", "high", "covers"} of ``score_interval``, or None.

    Args:
        counts_SN3K: of seeds that were scored on the same images.
        units: what each image is resampled with.
        groups: of each image.
    """
    interval = score_interval(counts_SN3K, units, groups)
    return None if interval is None else _told(interval, covers(groups, len(counts_SN3K)))


def gain_of(pairs: Sequence[tuple[Record, Record]], role: str) -> Gain | None:
    """Return the gain of the first over the second of each pair, with its intervals; None where they cannot be had.

    Args:
        pairs: two configurations, paired by seed.
        role: "val" or "test".
    """
    found = _same_images([record for pair in pairs for record in pair], role)
    if found is None:
        return None
    return paired_gain(_stacked(found[::2]), _stacked(found[1::2]), found[0].units, found[0].groups)


def told_gain(gain: Gain | None) -> dict[str, Any] | None:
    """Return {"low", "high", "covers", "verdict"} of a gain of mIoU, or None."""
    return None if gain is None else {**_told(gain.miou, gain.covers), "verdict": gain.verdict}


def class_ends(gain: Gain | None, number: int) -> dict[str, float | None]:
    """Return {"low", "high"} of the gain of a class; null for one that fewer than two images show."""
    part = None if gain is None else gain.classes[number]
    ends = {"low": math.nan, "high": math.nan} if part is None else {"low": part.low, "high": part.high}
    return {key: None if math.isnan(value) else round(value, 4) for key, value in ends.items()}


def _same_images(records: Sequence[Record], role: str) -> list[Counts] | None:
    """Return the counts of runs that were scored on the same images and masks; None where one of them was not."""
    found = [record.counts[role] for record in records if role in record.counts]
    if not found or len(found) < len(records) or any(one.seeds > 1 for one in found):
        return None
    first = found[0]
    same = all(
        list(one.names) == list(first.names) and np.array_equal(one.counts_N3K[:, 1], first.counts_N3K[:, 1])
        for one in found
    )
    return found if same else None


def _stacked(found: Sequence[Counts]) -> np.ndarray:
    return np.stack([one.counts_N3K for one in found])


def _told(interval: Interval, over: Sequence[str]) -> dict[str, Any]:
    return {"low": round(interval.low, 4), "high": round(interval.high, 4), "covers": list(over)}
