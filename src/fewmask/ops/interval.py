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
from scipy.special import ndtri, stdtrit

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


def covers(groups: Sequence[str], seeds: int) -> tuple[str, ...]:
    """Return what an interval of so many seeds speaks for: "images" or "groups", and "seeds" from ``SEEDS`` on.

    Args:
        groups: of each image, "" = none. Where all images are one group, there is nothing to resample but them.
        seeds: how many.
    """
    whole = len(set(groups) - {""}) + list(groups).count("") > 1 and any(groups)
    return ("groups" if whole else "images", *(["seeds"] if seeds >= SEEDS else []))


def members(units: Sequence[str], groups: Sequence[str] | None = None) -> NDArray[np.int64]:
    """Return the number of what each image is resampled with, [N].

    Args:
        units: its name, of each image, "" = nothing: groups, and copies of one picture.
        groups: of each image, "" = none; None = the units are groups.
    """
    known = set(units)
    if len(known) == 1 and all(units if groups is None else groups):
        return np.arange(len(units))  # one group: its images are all there is
    numbers = {unit: n for n, unit in enumerate(sorted(known - {""}))}
    alone = iter(range(len(numbers), len(numbers) + len(units)))
    return np.array([numbers[unit] if unit else next(alone) for unit in units], np.int64)


def widening(count: NDArray[np.int64]) -> Floats:
    """Return by what factor the bootstrap over so few is too narrow: t with count - 1 degrees, and √(n / (n - 1)).

    The percentile interval takes the spread of a resample for that of an estimate, and the normal distribution's
    quantiles for Student's (Hesterberg: What teachers should know about the bootstrap, The American Statistician 2015,
    section 4.3). 1.1 for twenty, 1.6 for five, 9.2 for two; NaN for fewer.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        wider = stdtrit(count - 1, (1 + LEVEL) / 2) / ndtri((1 + LEVEL) / 2) * np.sqrt(count / (count - 1))
    return np.where(count > 1, wider, np.nan)


def _weights(member_N: NDArray[np.int64], seed: int) -> Floats:
    """Return how often each image occurs in each resample, [R, N]; those of one unit always together."""
    count = int(member_N.max()) + 1
    drawn = np.random.Generator(np.random.Philox(key=seed)).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    return drawn[:, member_N].astype(np.float64)


def score_interval(
    counts: Counts, units: Sequence[str], groups: Sequence[str] | None = None, *, seed: int = 0
) -> Interval | None:  # fmt: skip
    """Return mIoU, a mean over seeds, with its 95 % interval; None where it cannot be had.

    Images (or what is resampled together) are resampled, for all seeds alike; see ``_ends`` for the rest.

    Args:
        counts: of the scored images, [N, 3, K], or of several seeds that are scored on the same, [S, N, 3, K].
        units: as in ``members``.
        groups: as in ``members``.
        seed: of the resamples.
    """
    counts_SN3K = counts if counts.ndim == 4 else counts[None]
    each_S, member_N = mean_iou(counts_SN3K.sum(1)), members(units, groups)
    held = np.unique(member_N).size
    if held < 2 or np.isnan(each_S).any():
        return None
    weights_RN = _weights(member_N, seed)
    drawn_R = np.mean([_resampled(weights_RN, counts_N3K)[0] for counts_N3K in counts_SN3K], axis=0)
    low, high = _ends(each_S[:, None], drawn_R[:, None], np.array([held]))
    return Interval(float(each_S.mean()), max(0.0, float(low[0])), min(100.0, float(high[0])))


def paired_gain(
    ours_SN3K: Counts, theirs_SN3K: Counts, units: Sequence[str], groups: Sequence[str] | None = None, *, seed: int = 0
) -> Gain | None:  # fmt: skip
    """Return the gain of one arm over another on the same images, from runs that are paired by seed.

    Images (or what is resampled together) are resampled for both arms alike, so that what is hard for both cancels.

    Args:
        ours_SN3K: of the arm whose gain is asked.
        theirs_SN3K: of the other arm, same seeds, same images.
        units: as in ``members``.
        groups: as in ``members``.
        seed: of the resamples.

    Returns:
        The gain; None with fewer than two units, or no truth. A class that fewer than two units hold has no interval
        (NaN): how far another image of it would move its IoU, one does not tell.
    """
    member_N = members(units, groups)
    if np.unique(member_N).size < 2 or not ours_SN3K[0, :, 1].any():
        return None
    full = [np.concatenate([mean_iou(a)[:, None], ious(a)], axis=1) for a in (ours_SN3K.sum(1), theirs_SN3K.sum(1))]
    each_SX = full[0] - full[1]
    weights_RN = _weights(member_N, seed)
    drawn_RX = np.mean([_difference(weights_RN, a, b) for a, b in zip(ours_SN3K, theirs_SN3K, strict=True)], axis=0)
    truth_NK = ours_SN3K[0, :, 1]  # the mean counts all images, a class those that show it
    held_X = np.array([np.unique(member_N[there]).size for there in (..., *(truth_NK > 0).T)])
    lows, highs = _ends(each_SX, drawn_RX, held_X)
    parts = [
        None if math.isnan(m) else Interval(float(m), float(np.maximum(low, -100)), float(np.minimum(high, 100)))
        for m, low, high in zip(each_SX.mean(0), lows, highs, strict=True)
    ]
    miou, seeds = parts[0], len(each_SX)
    assert miou is not None  # there is truth
    verdict: Verdict = "not shown"
    if seeds >= SEEDS:
        verdict = "helped" if miou.low > 0 else "hurt" if miou.high < 0 else verdict
    return Gain(miou, tuple(parts[1:]), verdict, covers(units if groups is None else groups, seeds))


def _ends(each_SX: Floats, drawn_RX: Floats, held_X: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the ends of 95 % intervals of means over seeds, one a column.

    Of the images the percentile interval of the resampled means, from their median, times ``widening``; between seeds,
    from ``SEEDS`` on, a Student t interval with S-1 degrees of freedom. Both are errors of one mean, so their
    half-widths are added in squares. The spread between seeds holds some of the images' too: the interval errs on the
    wide side. Measured from the median, since resamples score higher than all images where most classes are on one or
    two each: a class in a resample is there 1.6 times on average, and what other images mistake for it once. Measured
    from the score, such an interval would begin there.

    Args:
        each_SX: what each seed has on all images.
        drawn_RX: means over the seeds, in each resample of the images.
        held_X: of how many images (or what is resampled together) each column is made; NaN below two.
    """
    mid_X, seeds = each_SX.mean(0), len(each_SX)
    half_X = np.zeros_like(mid_X)
    if seeds >= SEEDS:
        half_X = float(stdtrit(seeds - 1, (1 + LEVEL) / 2)) * each_SX.std(0, ddof=1) / math.sqrt(seeds)
    low_X, median_X, high_X = (_quantiles(drawn_RX, at) for at in ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2))
    wider_X = widening(held_X)
    lows = mid_X - np.hypot(wider_X * (median_X - low_X), half_X)
    highs = mid_X + np.hypot(wider_X * (high_X - median_X), half_X)
    return lows, highs


def _totals(weights_RN: Floats, counts_N3K: Counts) -> Floats:
    """Return the counts of each resample, [R, 3, K]."""
    return np.einsum("rn,nck->rck", weights_RN, counts_N3K.astype(np.float64), optimize=True)


def _difference(weights_RN: Floats, ours_N3K: Counts, theirs_N3K: Counts) -> Floats:
    """Return the resampled differences of mIoU and of each class, [R, 1+K]."""
    (mean_a, classes_a), (mean_b, classes_b) = (_resampled(weights_RN, counts) for counts in (ours_N3K, theirs_N3K))
    return np.concatenate([(mean_a - mean_b)[:, None], classes_a - classes_b], axis=1)


def _resampled(weights_RN: Floats, counts_N3K: Counts) -> tuple[Floats, Floats]:
    """Return the mIoU [R] and the IoU of each class [R, K], NaN where a resample lacks it.

    In the mean such a class has the IoU of all images: left out, it would lift the means of resamples without the rare
    classes, which mostly score low, above every value that all images could have.
    """
    each_RK, full_K = ious(_totals(weights_RN, counts_N3K)), ious(counts_N3K.sum(0))
    filled_RK = np.where(np.isnan(each_RK), full_K, each_RK)
    return filled_RK[:, ~np.isnan(full_K)].mean(1), each_RK


def _quantiles(drawn_RX: Floats, level: float) -> Floats:
    """Return a quantile of each column; NaN for a class that is never there."""
    there = ~np.isnan(drawn_RX).all(0)
    out = np.full(drawn_RX.shape[1], np.nan)
    out[there] = np.nanquantile(drawn_RX[:, there], level, axis=0)
    return out
