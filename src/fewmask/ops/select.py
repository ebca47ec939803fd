"""Which pixels of a set of images become pseudo-labels: exact selection, an image at a time, in bounded memory.

Confidences are rounded to fp16. The patterns of the fp16 numbers 0..1 are 15,361 integers in the order of the numbers,
so that one histogram a class gives the exact k-th largest confidence of any number of pixels, and how many share it.

1. ``count`` each image; the sum over images (and ranks) goes to ``cut``: the least confidence of each class.
2. Where more pixels reach it than are wanted (DARS, many are equal), those with the smallest keys stay: every pixel has
   a random key, and ``KeyCut`` finds the largest one that stays in LEVELS passes.
3. A pixel stays whose confidence reaches the cut of its class, and whose key does.

The result depends neither on the order of the images nor on how they are divided among processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fewmask.ops.rng import Draws, Purpose

Rule = Literal["none", "st", "cbst", "da", "dars"]

BINS = 0x3C00 + 1
"""Patterns of the fp16 numbers 0..1; 0x3C00 is 1."""


@dataclass(frozen=True)
class Selection:
    """Which pixels of a set become pseudo-labels.

    Attributes:
        rule: see ``cut``.
        ratio: α, the share of the pixels that are wanted; "none" wants all.
        drop: where "dars" wants fewer pixels of a class than reach its threshold: "dataset" keeps exactly as many as
            wanted, any of them with the same chance (Algorithm 1); "image" drops the same share in every image, rounded
            down (the authors' code).
        temperature: T, divides the logits before the softmax.
        relabel: for "cbst": once the least confidence t_c of each class is known, a pixel takes the class of the
            largest p_c/t_c, where that is 1 or more (Zou et al., ECCV 2018), instead of its most likely class or none.
    """

    rule: Rule = "none"
    ratio: float = 1.0
    drop: Literal["dataset", "image"] = "dataset"
    temperature: float = 1.0
    relabel: bool = False

    def __post_init__(self) -> None:
        if self.relabel and self.rule != "cbst":
            raise ValueError("relabel belongs to the rule cbst")


LEVELS = 3
_BITS = 16
BUCKETS = 1 << _BITS
"""Cells a class of ``KeyCut.count``."""


def to_bits(confidence: np.ndarray) -> np.ndarray:
    """Return the fp16 patterns of confidences in 0..1, int16, in the order of the numbers."""
    return confidence.astype(np.float16).view(np.int16)


def count(label_N: np.ndarray, bits_N: np.ndarray, classes: int) -> np.ndarray:
    """Return how many pixels are predicted as each class with each confidence, int64 [K, BINS].

    Args:
        label_N: predicted class, 0..K-1.
        bits_N: ``to_bits`` of its probability.
        classes: K.
    """
    counts_KV = np.zeros((classes, BINS), dtype=np.int64)
    add_counts(counts_KV, label_N.ravel(), bits_N.ravel())
    return counts_KV


def add_counts(counts_KV: np.ndarray, label_N: np.ndarray, value_N: np.ndarray) -> None:
    """Count an image's pixels by class and value; what it costs depends on the classes in the image, not on K.

    Args:
        counts_KV: int64 [K, V], added to.
        label_N: classes, 0..K-1.
        value_N: a value 0..V-1 of each pixel.
    """
    classes, values = counts_KV.shape
    there_P = np.flatnonzero(np.bincount(label_N, minlength=classes))
    row_K = np.zeros(classes, dtype=np.int64)
    row_K[there_P] = np.arange(len(there_P))
    cell_N = row_K[label_N] * values + value_N
    counts_KV[there_P] += np.bincount(cell_N, minlength=len(there_P) * values).reshape(-1, values)


@dataclass(frozen=True)
class Cut:
    """Which confidences stay.

    Attributes:
        least_K: the lowest pattern of each class that stays, int64; BINS = none does.
        reached_K: ñ, pixels of each class with at least this confidence.
        wanted_K: n, how many are wanted; ``reached_K`` for the rules that want no number of each class.
        stays_K: how many stay; less than ``reached_K`` only where pixels are dropped at random.
    """

    least_K: np.ndarray
    reached_K: np.ndarray
    wanted_K: np.ndarray
    stays_K: np.ndarray

    @property
    def least_confidence_K(self) -> np.ndarray:
        """The lowest confidence of each class that stays, float32; infinity = none does."""
        none_K = self.least_K == BINS
        pattern_K = np.where(none_K, 0, self.least_K).astype(np.int16)
        return np.where(none_K, np.float32(np.inf), pattern_K.view(np.float16).astype(np.float32))

    def candidates(self, label: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Return which pixels reach the least confidence of their class, bool."""
        return bits >= self.least_K[label]


def cut(counts_KV: np.ndarray, rule: Rule, ratio: float, share_K: np.ndarray | None = None) -> Cut:
    """Return which confidences stay.

    Args:
        counts_KV: sum of ``count`` over all images, [K, BINS].
        rule: "none" keeps every pixel; "st" the most confident ``ratio`` of all pixels, one threshold for all classes;
            "cbst" those of the pixels predicted as each class (Zou et al., ECCV 2018); "da" as many pixels of each
            class as ``ratio`` of all pixels and the class's share among labelled pixels give (DARS Eq. 4), where equal
            confidences may keep more; "dars" exactly as many (DARS Algorithm 1).
        ratio: α, 0..1.
        share_K: r^l, share of each class among the labelled pixels, for "da" and "dars"; sums to 1.
    """
    predicted_K, total = counts_KV.sum(1), int(counts_KV.sum())
    if rule == "none":
        return Cut(np.zeros_like(predicted_K), predicted_K, predicted_K, predicted_K)
    wanted_K: np.ndarray | None = None
    if rule == "st":
        one = _kth_largest(counts_KV.sum(0, keepdims=True), _floor([ratio * total]))
        least_K = one.repeat(len(counts_KV))
    elif rule == "cbst":
        least_K = _kth_largest(counts_KV, _floor(ratio * predicted_K))
    else:
        assert share_K is not None, "da and dars need the labelled distribution"
        wanted_K = _floor(ratio * total * np.asarray(share_K, dtype=np.float64))  # Eq. 4
        least_K = _kth_largest(counts_KV, wanted_K)
    reached_K = np.where(np.arange(BINS) >= least_K[:, None], counts_KV, 0).sum(1)
    if wanted_K is None:
        return Cut(least_K, reached_K, reached_K, reached_K)
    return Cut(least_K, reached_K, wanted_K, np.minimum(wanted_K, reached_K) if rule == "dars" else reached_K)


def _floor(x: np.ndarray | list[float] | float) -> np.ndarray:
    """Round down; what is a whole number but for float64's last digits stays one."""
    return np.floor(np.asarray(x, dtype=np.float64) * (1 + 4 * np.finfo(np.float64).eps)).astype(np.int64)


def _kth_largest(counts_KV: np.ndarray, k_K: np.ndarray) -> np.ndarray:
    """Return the k-th largest value of each row of a histogram; the least one (0) of fewer than k, BINS for k = 0."""
    atleast_KV = counts_KV[:, ::-1].cumsum(1)[:, ::-1]  # falls with the value
    return np.where(k_K > 0, np.maximum((atleast_KV >= k_K[:, None]).sum(1) - 1, 0), counts_KV.shape[1])


def keys(seed: int, number: int, pixels: int, turn: int = 0) -> np.ndarray:
    """Return the random key of every pixel of an image, uint64 below 2**48.

    Args:
        seed: the run's seed.
        number: of the image in its pool.
        pixels: how many.
        turn: labelling passes of one run draw anew.
    """
    words = Draws(seed, Purpose.SELECTION, step=number, slot=turn).words(pixels)
    return words >> np.uint64(64 - LEVELS * _BITS)


class KeyCut:
    """The largest key of each class that stays: of n̂ pixels the ``stays_K`` with the smallest ones.

    Use: for each level let ``count`` see all images (sum over ranks), and hand the counts to ``descend``. Afterwards
    ``stays``.
    Every set of ``stays_K`` pixels is equally likely, as if they were dropped one by one.

    Args:
        stays_K: how many stay, at most as many as there are candidates.
    """

    def __init__(self, stays_K: np.ndarray) -> None:
        self.last_K = np.zeros(len(stays_K), dtype=np.uint64)
        self._left_K, self._level = np.asarray(stays_K, dtype=np.int64), 0
        self._none_K = self._left_K == 0

    def count(self, counts_KB: np.ndarray, label_N: np.ndarray, key_N: np.ndarray) -> None:
        """Count how many candidates of each class have each next 16 bits.

        Args:
            counts_KB: int64 [K, 65536], added to.
            label_N: classes of an image's candidates.
            key_N: and their keys.
        """
        shift = np.uint64((LEVELS - 1 - self._level) * _BITS)
        head_N = key_N >> shift
        inside_N = head_N >> np.uint64(_BITS) == self.last_K[label_N]
        bucket_N = (head_N[inside_N] & np.uint64(BUCKETS - 1)).astype(np.int64)
        add_counts(counts_KB, label_N[inside_N], bucket_N)

    def descend(self, counts_KB: np.ndarray) -> None:
        """Find the next 16 bits of the last key that stays."""
        upto_KB = counts_KB.cumsum(1)
        bucket_K = np.minimum((upto_KB < self._left_K[:, None]).sum(1), BUCKETS - 1)
        before_K = np.take_along_axis(upto_KB - counts_KB, bucket_K[:, None], axis=1)[:, 0]
        self._left_K = self._left_K - before_K
        self.last_K = self.last_K << np.uint64(_BITS) | bucket_K.astype(np.uint64)
        self._level += 1

    def stays(self, label: np.ndarray, key: np.ndarray) -> np.ndarray:
        """Return which candidates stay, bool."""
        return (key <= self.last_K[label]) & ~self._none_K[label]


def keep_of_image(label: np.ndarray, candidate: np.ndarray, key: np.ndarray, cut: Cut) -> np.ndarray:
    """Return which pixels of one image stay when every image drops its own share: the authors' code of DARS.

    Of its m candidates of class j each image loses floor(m·(1 - s_j)), s_j = n_j/ñ_j (Algorithm 1, line 5).

    Args:
        label: predicted classes of an image.
        candidate: bool, the pixels that reach the least confidence.
        key: random keys.
        cut: of the whole set.
    """
    keep = candidate.copy()
    for j in np.flatnonzero(cut.stays_K < cut.reached_K):
        mine = np.flatnonzero((candidate & (label == j)).ravel())
        lost = int(_floor(len(mine) * (1 - cut.stays_K[j] / cut.reached_K[j])))
        keep.ravel()[mine[np.argsort(key.ravel()[mine], kind="stable")[:lost]]] = False
    return keep


def divergence(share_K: np.ndarray, kept_K: np.ndarray) -> tuple[float | None, list[int]]:
    """Return D_KL(R(labels), R(pseudo-labels)) of DARS Eq. 3, and the labelled classes that no pseudo-label has.

    Those would make it infinite: it is taken over the others, their shares scaled to sum to 1; None without any.

    Args:
        share_K: share of each class among the labelled pixels.
        kept_K: pseudo-labelled pixels of each class.
    """
    share_K, kept_K = np.asarray(share_K, dtype=np.float64), np.asarray(kept_K, dtype=np.float64)
    missing = np.flatnonzero((share_K > 0) & (kept_K == 0)).tolist()
    both_K = (share_K > 0) & (kept_K > 0)
    if not both_K.any():
        return None, missing
    p, q = share_K[both_K] / share_K[both_K].sum(), kept_K[both_K] / kept_K[kept_K > 0].sum()
    return math.fsum(p * np.log(p / q)), missing
