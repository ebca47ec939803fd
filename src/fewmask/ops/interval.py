"""How sure a score is: bootstrap over images or groups, paired between two arms, and t over seeds.

Shapes: N images, K classes, S seeds, R resamples. ``counts_N3K`` holds an image's hits, truth pixels and predicted
pixels of each class: everything that IoU needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Verdict = Literal["helped", "hurt", "not shown"]

RESAMPLES = 2000
LEVEL = 0.95
SEEDS = 3
"""Fewest paired seeds that can show anything: with fewer the spread between seeds is unknown."""


@dataclass(frozen=True)
class Interval:
    """An estimate in mIoU points and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """How far one arm is ahead of the other.

    Attributes:
        miou: the difference of mIoU.
        classes: the difference of each class's IoU; None for a class that the truth does not contain.
        verdict: "helped" or "hurt" where the interval leaves out 0 and there are ``SEEDS`` pairs, else "not shown".
        covers: what the interval speaks for: "images" or "groups", and "seeds".
    """

    miou: Interval
    classes: tuple[Interval | None, ...]
    verdict: Verdict
    covers: tuple[str, ...]


def ious(counts_R3K: Counts | Floats) -> Floats:
    """Return IoU in percent, [..., K]; NaN for a class without truth pixels."""
    hit, truth, predicted = (counts_R3K[..., i, :].astype(np.float64) for i in range(3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(truth > 0, 100.0 * hit / (truth + predicted - hit), np.nan)


def mean_iou(counts_R3K: Counts | Floats) -> Floats:
    """Return mIoU in percent over the classes with truth pixels, [...]; NaN where there is none."""
    each = ious(counts_R3K)
    measured = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        return np.where(measured, each, 0.0).sum(-1) / measured.sum(-1)


def unit(groups: Sequence[str]) -> Literal["images", "groups"]:
    """Return what is resampled: groups where some are known, unless all images are one; else images."""
    known = set(groups) - {""}
    return "groups" if known and len(known) + list(groups).count("") > 1 else "images"


def _weights(groups: Sequence[str], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return how often each image occurs in each resample, [R, N]; images of one group always together."""
    if unit(groups) == "groups":
        names = {name: i for i, name in enumerate(dict.fromkeys(g for g in groups if g))}
        member = [names[g] if g else len(names) + i for i, g in enumerate(groups)]  # no group = one of its own
        _, member = np.unique(member, return_inverse=True)
    else:
        member = np.arange(len(groups))
    count = int(member.max()) + 1
    draws = np.random.Generator(np.random.Philox(key=seed)).multinomial(count, np.full(count, 1 / count), resamples)
    return draws[:, member].astype(np.float64)


def covers(groups: Sequence[str], seeds: int) -> tuple[str, ...]:
    """Return what an interval of so many seeds speaks for: "images" or "groups", and "seeds" from ``SEEDS`` on."""
    return (unit(groups), *(["seeds"] if seeds >= SEEDS else []))


def score_interval(counts: Counts, groups: Sequence[str], *, seed: int = 0) -> Interval | None:
    """Return mIoU, a mean over seeds, with its 95 % interval; None where it cannot be had.

    Images (or groups) are resampled, for all seeds alike; see ``_ends`` for what seeds add.

    Args:
        counts: of the scored images, [N, 3, K], or of several seeds that are scored on the same, [S, N, 3, K].
        groups: of each image, "" = none.
        seed: of the resamples.
    """
    counts_SN3K = counts if counts.ndim == 4 else counts[None]
    each_S = mean_iou(counts_SN3K.sum(1))
    if len(groups) < 2 or np.isnan(each_S).any():
        return None
    weights_RN = _weights(groups, RESAMPLES, seed)
    drawn_R = np.mean([mean_iou(_totals(weights_RN, counts_N3K)) for counts_N3K in counts_SN3K], axis=0)
    low, high = _ends(each_S[:, None], drawn_R[:, None])
    return Interval(float(each_S.mean()), float(low[0]), float(high[0]))


def paired_gain(ours_SN3K: Counts, theirs_SN3K: Counts, groups: Sequence[str], *, seed: int = 0) -> Gain | None:
    """Return the gain of one arm over another on the same images, from runs that are paired by seed.

    Images (or groups) are resampled for both arms alike, so that what is hard for both cancels.

    Args:
        ours_SN3K: of the arm whose gain is asked.
        theirs_SN3K: of the other arm, same seeds, same images.
        groups: of each image, "" = none.
        seed: of the resamples.

    Returns:
        The gain; None with fewer than two images, or no truth.
    """
    if ours_SN3K.shape[1] < 2 or not ours_SN3K[0, :, 1].any():
        return None
    full = [np.concatenate([mean_iou(a)[:, None], ious(a)], axis=1) for a in (ours_SN3K.sum(1), theirs_SN3K.sum(1))]
    each_SX = full[0] - full[1]
    weights_RN = _weights(groups, RESAMPLES, seed)
    drawn_RX = np.mean([_difference(weights_RN, a, b) for a, b in zip(ours_SN3K, theirs_SN3K, strict=True)], axis=0)
    lows, highs = _ends(each_SX, drawn_RX)
    parts = [
        None if math.isnan(m) else Interval(float(m), float(low), float(high))
        for m, low, high in zip(each_SX.mean(0), lows, highs, strict=True)
    ]
    miou, seeds = parts[0], len(each_SX)
    assert miou is not None  # there is truth
    verdict: Verdict = "not shown"
    if seeds >= SEEDS:
        verdict = "helped" if miou.low > 0 else "hurt" if miou.high < 0 else verdict
    return Gain(miou, tuple(parts[1:]), verdict, covers(groups, seeds))


def _ends(each_SX: Floats, drawn_RX: Floats) -> tuple[Floats, Floats]:
    """Return the ends of 95 % intervals of means over seeds, one a column.

    Of the images the percentile interval of the resampled means; between seeds, from ``SEEDS`` on, a Student t interval
    with S-1 degrees of freedom. Both are errors of one mean, so their half-widths are added in squares. The spread
    between seeds holds some of the images' too: the interval errs on the wide side.

    Args:
        each_SX: what each seed has on all images.
        drawn_RX: means over the seeds, in each resample of the images.
    """
    mid_X, seeds = each_SX.mean(0), len(each_SX)
    half_X = np.zeros_like(mid_X)
    if seeds >= SEEDS:
        from scipy.stats import t  # half a second of import

        half_X = float(t.ppf((1 + LEVEL) / 2, seeds - 1)) * each_SX.std(0, ddof=1) / math.sqrt(seeds)
    low_X, high_X = _quantiles(drawn_RX), _quantiles(drawn_RX, upper=True)
    lows = mid_X - np.hypot(np.maximum(mid_X - low_X, 0), half_X)
    highs = mid_X + np.hypot(np.maximum(high_X - mid_X, 0), half_X)
    return lows, highs


def _totals(weights_RN: Floats, counts_N3K: Counts) -> Floats:
    """Return the counts of each resample, [R, 3, K]."""
    return np.einsum("rn,nck->rck", weights_RN, counts_N3K.astype(np.float64), optimize=True)


def _difference(weights_RN: Floats, ours_N3K: Counts, theirs_N3K: Counts) -> Floats:
    """Return the resampled differences of mIoU and of each class, [R, 1+K]."""
    both = [_totals(weights_RN, counts) for counts in (ours_N3K, theirs_N3K)]
    mean, classes = ([f(total) for total in both] for f in (mean_iou, ious))
    return np.concatenate([(mean[0] - mean[1])[:, None], classes[0] - classes[1]], axis=1)


def _quantiles(drawn_RX: Floats, upper: bool = False) -> Floats:
    """Return one end of the percentile interval of each column; NaN for a class that is never there."""
    level = (1 + LEVEL) / 2 if upper else (1 - LEVEL) / 2
    there = ~np.isnan(drawn_RX).all(0)
    out = np.full(drawn_RX.shape[1], np.nan)
    out[there] = np.nanquantile(drawn_RX[:, there], level, axis=0)
    return out
