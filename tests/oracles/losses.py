"""Losses pixel by pixel, in float64. Logits are [B, K, H, W], labels [B, H, W] with 255 = ignored."""

import math

import numpy as np

IGNORE = 255


def softmax(scores: np.ndarray) -> np.ndarray:
    """Return the probabilities of one pixel's K scores."""
    e = np.array([math.exp(s - max(scores)) for s in scores])
    return e / math.fsum(e)


def pixels(logits: np.ndarray, labels: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Return (probabilities, label) of every pixel that is not ignored, in reading order."""
    b, _, h, w = logits.shape
    return [
        (softmax(logits[i, :, y, x]), int(labels[i, y, x]))
        for i in range(b)
        for y in range(h)
        for x in range(w)
        if labels[i, y, x] != IGNORE
    ]


def cross_entropy(logits: np.ndarray, labels: np.ndarray, weight: list[float] | None = None) -> float:
    """Return the (class-weighted) mean of -log p[label]; 0 where no weight is."""
    above, below = 0.0, 0.0
    for p, y in pixels(logits, labels):
        w = 1.0 if weight is None else weight[y]
        above += -w * math.log(p[y])
        below += w
    return above / below if below else 0.0


def weighted_cross_entropy(logits: np.ndarray, labels: np.ndarray, weight: np.ndarray, denominator: float) -> float:
    """Return the sum over the pixels of weight times -log p[label], over the denominator."""
    b, _, h, w = logits.shape
    total = 0.0
    for i in range(b):
        for y in range(h):
            for x in range(w):
                label = int(labels[i, y, x])
                if label != IGNORE:
                    total += -float(weight[i, y, x]) * math.log(softmax(logits[i, :, y, x])[label])
    return total / denominator


def ohem(logits: np.ndarray, labels: np.ndarray, threshold: float, min_kept: int) -> float:
    """Return the mean -log p over the hard pixels.

    Sort p of the true class over the labelled pixels; the threshold is raised to the min_kept-th smallest; keep what
    is not above it. No mining with fewer than min_kept labelled pixels.
    """
    p = np.array([p[y] for p, y in pixels(logits, labels)])
    if len(p) == 0:
        return 0.0
    if min_kept <= len(p):
        if min_kept > 0:
            threshold = max(threshold, p[np.argsort(p)][min_kept - 1])
        p = p[p <= threshold]
    return math.fsum(-math.log(v) for v in p) / len(p) if len(p) else 0.0


def focal(logits: np.ndarray, labels: np.ndarray, gamma: float) -> float:
    """Return the mean of -(1 - p)^gamma · log p: Lin et al., ICCV 2017, Eq. 4."""
    values = [-((1 - p[y]) ** gamma) * math.log(p[y]) for p, y in pixels(logits, labels)]
    return math.fsum(values) / len(values) if values else 0.0


def dice(logits: np.ndarray, labels: np.ndarray, eps: float = 1.0) -> float:
    """Return 1 - mean over the classes that occur of (2·Σ p·y + eps) / (Σ p + Σ y + eps)."""
    every = pixels(logits, labels)
    losses = []
    for c in sorted({y for _, y in every}):
        overlap = math.fsum(p[c] for p, y in every if y == c)
        mass = math.fsum(p[c] for p, _ in every)
        truth = sum(1 for _, y in every if y == c)
        losses.append(1 - (2 * overlap + eps) / (mass + truth + eps))
    return math.fsum(losses) / len(losses) if losses else 0.0


def mean_square(a: np.ndarray, b: np.ndarray, valid: np.ndarray) -> float:
    """Return the mean over valid pixels and over classes of (a - b)²."""
    n, k, h, w = a.shape
    values = [
        (float(a[i, c, y, x]) - float(b[i, c, y, x])) ** 2
        for i in range(n)
        for c in range(k)
        for y in range(h)
        for x in range(w)
        if valid[i, y, x]
    ]
    return math.fsum(values) / len(values) if values else 0.0


def median_frequency(frequency: list[float]) -> list[float]:
    """Return median(f) / f_c over the classes that occur, 1 for the others (Eigen and Fergus, ICCV 2015)."""
    seen = [f for f in frequency if f > 0]
    median = float(np.median(seen)) if seen else 1.0
    return [median / f if f > 0 else 1.0 for f in frequency]
