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


def score_interval(counts_N3K: Counts, groups: Sequence[str], *, seed: int = 0) -> Interval | None:
    """Return mIoU with its bootstrap percentile interval over images or groups; None where it cannot be had.

    Args:
        counts_N3K: of the scored images.
        groups: of each image, "" = none.
        seed: of the resamples.
    """
    value = float(mean_iou(counts_N3K.sum(0)))
    if len(groups) < 2 or math.isnan(value):
        return None
    total = np.einsum("rn,nck->rck", _weights(groups, RESAMPLES, seed), counts_N3K.astype(np.float64), optimize=True)
    low, high = np.nanquantile(mean_iou(total), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def paired_gain(ours_SN3K: Counts, theirs_SN3K: Counts, groups: Sequence[str], *, seed: int = 0) -> Gain | None:
    """Return the gain of one arm over another on the same images, from runs that are paired by seed.

    Images (or groups) are resampled for both arms alike, so that what is hard for both cancels. Between seeds a
    Student t interval with S-1 degrees of freedom; since both parts are errors of one mean, their half-widths are
    added in squares. The spread between seeds holds some of the images' too: the interval errs on the wide side.

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
    low_X, high_X, mid_X = _quantiles(drawn_RX), _quantiles(drawn_RX, upper=True), each_SX.mean(0)
    seeds = len(each_SX)
    half_X = np.zeros_like(mid_X)
    if seeds >= SEEDS:
        from scipy.stats import t  # half a second of import

        half_X = float(t.ppf((1 + LEVEL) / 2, seeds - 1)) * each_SX.std(0, ddof=1) / math.sqrt(seeds)
    lows = mid_X - np.hypot(np.maximum(mid_X - low_X, 0), half_X)
    highs = mid_X + np.hypot(np.maximum(high_X - mid_X, 0), half_X)
    parts = [
        None if math.isnan(m) else Interval(float(m), float(low), float(high))
        for m, low, high in zip(mid_X, lows, highs, strict=True)
    ]
    miou = parts[0]
    assert miou is not None  # there is truth
    verdict: Verdict = "not shown"
    if seeds >= SEEDS:
        verdict = "helped" if miou.low > 0 else "hurt" if miou.high < 0 else verdict
    return Gain(miou, tuple(parts[1:]), verdict, (unit(groups), *(["seeds"] if seeds >= SEEDS else [])))


def _difference(weights_RN: Floats, ours_N3K: Counts, theirs_N3K: Counts) -> Floats:
    """Return the resampled differences of mIoU and of each class, [R, 1+K]."""
    both = [
        np.einsum("rn,nck->rck", weights_RN, counts.astype(np.float64), optimize=True)
        for counts in (ours_N3K, theirs_N3K)
    ]
    mean, classes = ([f(total) for total in both] for f in (mean_iou, ious))
    return np.concatenate([(mean[0] - mean[1])[:, None], classes[0] - classes[1]], axis=1)


def _quantiles(drawn_RX: Floats, upper: bool = False) -> Floats:
    """Return one end of the percentile interval of each column; NaN for a class that is never there."""
    level = (1 + LEVEL) / 2 if upper else (1 - LEVEL) / 2
    there = ~np.isnan(drawn_RX).all(0)
    out = np.full(drawn_RX.shape[1], np.nan)
    out[there] = np.nanquantile(drawn_RX[:, there], level, axis=0)
    return out
