"""UCC (Fan et al., CVPR 2022), pixel by pixel in float64, from the paper's equations and its decided readings.

Maps of probabilities are [B, K, H, W], labels [B, H, W] with 255 = no ground truth; a pair holds one map of each head.
"""

import math

import numpy as np

VOID = 255

Pair = tuple[np.ndarray, np.ndarray]


def pixels(shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Return (image, row, column) of every pixel of [B, ..., H, W], in reading order."""
    return [(i, y, x) for i in range(shape[0]) for y in range(shape[-2]) for x in range(shape[-1])]


def surest(p: np.ndarray) -> tuple[float, int]:
    """Return w, Eq. 5, and q, Eq. 1, of one pixel's K probabilities: the largest, and the first class that has it."""
    best = 0
    for c in range(1, len(p)):
        if p[c] > p[best]:
            best = c
    return float(p[best]), best


def factor(own: float, peer: float, reading: str) -> float:
    """Return u, Eq. 9, of a head's label from its own and the other head's confidence.

    ``text``: the label counts where its head is the surer one, with its confidence; ``printed``: where it is the less
    sure one, as Eq. 7 and 8 stand; ``none``: everywhere, with 1.
    """
    if reading == "none":
        return 1.0
    teaches = own > peer if reading == "text" else peer > own
    return own if teaches else 0.0


def paste(own: np.ndarray, donor: np.ndarray, pasted: np.ndarray) -> np.ndarray:
    """Return M ⊙ donor + (1 - M) ⊙ own, Eq. 3, of labels [B, H, W] or maps [B, K, H, W]."""
    out = own.copy()
    for i, y, x in pixels(own.shape):
        if pasted[i, y, x]:
            out[i, ..., y, x] = donor[i, ..., y, x]
    return out


def taught(
    weak: Pair, valid: np.ndarray, truth: np.ndarray, pasted: np.ndarray, reading: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return q_1, q_2, u_1, u_2 after pasting.

    Args:
        weak: both heads' maps on the weak views.
        valid: bool [B, H, W], False in the padding, where no label counts.
        truth: ground truth of each image's donor.
        pasted: M: these pixels have the ground truth and weight 1 for both heads, whatever they covered.
        reading: see ``factor``.
    """
    q = [np.zeros(valid.shape, dtype=int) for _ in range(2)]
    u = [np.zeros(valid.shape) for _ in range(2)]
    for place in pixels(valid.shape):
        i, y, x = place
        sure = [surest(p[i, :, y, x]) for p in weak]
        for m in range(2):
            if pasted[place]:
                q[m][place], u[m][place] = truth[place], 1.0
            else:
                q[m][place] = sure[m][1]
                u[m][place] = factor(sure[m][0], sure[1 - m][0], reading) if valid[place] else 0.0
    return q[0], q[1], u[0], u[1]


def weighted_mean(p: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """Return Σ_j u_j·ℓ_ce / Σ_j u_j of one image [K, H, W]; 0 where no pixel has weight."""
    above, below = [], []
    for y in range(p.shape[1]):
        for x in range(p.shape[2]):
            if weight[y, x] > 0:
                above.append(-weight[y, x] * math.log(p[label[y, x], y, x]))
                below.append(weight[y, x])
    return math.fsum(above) / math.fsum(below) if below else 0.0


def unsupervised(strong: Pair, q1: np.ndarray, q2: np.ndarray, u1: np.ndarray, u2: np.ndarray) -> float:
    """Return L_u, the display after Eq. 9: head 1's labels on head 2's strong view, and the other way round."""
    images = range(len(q1))
    first = math.fsum(weighted_mean(strong[1][i], q1[i], u1[i]) for i in images)
    second = math.fsum(weighted_mean(strong[0][i], q2[i], u2[i]) for i in images)
    return (first + second) / len(q1)


def supervised(p: Pair, labels: np.ndarray) -> float:
    """Return L_s: the mean over the pixels with ground truth of both heads' cross-entropies, added."""
    terms = []
    for i, y, x in pixels(labels.shape):
        c = labels[i, y, x]
        if c != VOID:
            terms.append(-math.log(p[0][i, c, y, x]) - math.log(p[1][i, c, y, x]))
    return math.fsum(terms) / len(terms) if terms else 0.0


def averaged(sigma: list[float], p: Pair, labels: np.ndarray, alpha: float) -> list[float]:
    """Return σ̂_t, Eq. 4: σ_t,c is the mean probability of c over its pixels and both heads; none = no change."""
    found: list[list[float]] = [[] for _ in sigma]
    for i, y, x in pixels(labels.shape):
        c = labels[i, y, x]
        if c != VOID:
            found[c] += [float(p[0][i, c, y, x]), float(p[1][i, c, y, x])]
    return [alpha * s + (1 - alpha) * math.fsum(f) / len(f) if f else s for s, f in zip(sigma, found, strict=True)]


def class_law(sigma: list[float], shown: list[bool]) -> list[float]:
    """Return p(c) ∝ exp((1 - σ̂_c)^½) among the classes that the donor shows (Hu et al., NeurIPS 2021)."""
    mass = [math.exp(math.sqrt(1 - s)) if here else 0.0 for s, here in zip(sigma, shown, strict=True)]
    return [m / math.fsum(mass) for m in mass]
