"""U2PL (Wang et al., CVPR 2022), pixel by pixel in float64, from the paper's equations and its decided readings.

Maps of probabilities are [B, K, H, W], labels [B, H, W] with 255 = no ground truth. Cells are those of the feature
grid, (image, row, column), the labelled images first. Features of a cell are vectors of length D.
"""

import math

import numpy as np

VOID = 255

Cell = tuple[int, int, int]


def places(height: int, width: int, images: int) -> list[Cell]:
    """Return (image, row, column) of every pixel or cell, in reading order."""
    return [(i, y, x) for i in range(images) for y in range(height) for x in range(width)]


def entropy(p: np.ndarray) -> float:
    """Return H of one pixel's K probabilities, Eq. 5; a class without probability adds 0."""
    return -math.fsum(v * math.log(v) for v in p if v > 0)


def share(alpha: float, epoch: int, epochs: int, dynamic: bool) -> float:
    """Return α_t, Eq. 7; without the dynamic adjustment α_0."""
    return alpha * (1 - epoch / epochs) if dynamic else alpha


def entropies(p: np.ndarray, valid: np.ndarray) -> dict[Cell, float]:
    """Return the entropy of every pixel that is not padding."""
    return {(i, y, x): entropy(p[i, :, y, x]) for i, y, x in places(*valid.shape[1:], len(valid)) if valid[i, y, x]}


def threshold(values: list[float], q: float) -> float:
    """Return the q-quantile, the paper's np.percentile below Eq. 6; of nothing it is infinite."""
    return float(np.percentile(values, 100 * q)) if values else math.inf


def reliable(p: np.ndarray, valid: np.ndarray, alpha: float) -> tuple[np.ndarray, float]:
    """Return where the label counts, Eq. 6 with ties as reliable, and γ_t."""
    high = entropies(p, valid)
    gamma = threshold(list(high.values()), 1 - alpha)
    out = np.zeros(valid.shape, dtype=bool)
    for place, value in high.items():
        out[place] = value <= gamma
    return out, gamma


def surest(p: np.ndarray, valid: np.ndarray, alpha: float) -> np.ndarray:
    """Return the α_t pixels of the lowest entropy: Table 4's "reliable", and the code's anchors."""
    high = entropies(p, valid)
    low = threshold(list(high.values()), alpha)
    out = np.zeros(valid.shape, dtype=bool)
    for place, value in high.items():
        out[place] = value <= low
    return out


def supervised(p: np.ndarray, y: np.ndarray) -> float:
    """Return L_s, Eq. 2: the mean over the pixels with ground truth."""
    terms = [-math.log(p[i, y[i, r, x], r, x]) for i, r, x in places(*y.shape[1:], len(y)) if y[i, r, x] != VOID]
    return math.fsum(terms) / len(terms) if terms else 0.0


def weighted_unsupervised(p: np.ndarray, label: np.ndarray, counts: np.ndarray, valid: np.ndarray, eta: float) -> float:
    """Return λ_u·L_u, Eq. 3 and 8: the mean over reliable pixels, over the share that they are; 0 without any."""
    terms = [-math.log(p[i, label[i, r, x], r, x]) for i, r, x in places(*label.shape[1:], len(p)) if counts[i, r, x]]
    if not terms:
        return 0.0
    lam = eta * int(valid.sum()) / len(terms)
    return lam * math.fsum(terms) / len(terms)


def order(p: np.ndarray) -> list[int]:
    """Return O of one pixel: each class's place among its probabilities, 0 = the largest; of equals the first."""
    return [sum(bool(p[k] > p[c] or (p[k] == p[c] and k < c)) for k in range(len(p))) for c in range(len(p))]


def source(cell: Cell, grid: tuple[int, int], size: tuple[int, int]) -> Cell:
    """Return the pixel that is a cell's nearest: floor(cell · size / grid)."""
    i, y, x = cell
    return i, y * size[0] // grid[0], x * size[1] // grid[1]


class Sets:
    """A_c of Eq. 9-11 and N_c of Eq. 13-16 on the cells of a grid.

    Args:
        p: the teacher's probabilities of the labelled and then the mixed unlabelled images.
        y: ground truth of the labelled ones.
        label: pseudo-labels of the others.
        valid: False in the padding of the others.
        grid: (h, w).
        alpha: α_t.
        constants: delta, r_low, r_high, ranked, negatives ("paper" or "authors_code") and negatives_from.
    """

    def __init__(
        self, p: np.ndarray, y: np.ndarray, label: np.ndarray, valid: np.ndarray, grid: tuple[int, int], alpha: float,
        constants: dict,
    ) -> None:  # fmt: skip
        self.p, self.y, self.label, self.valid, self.constants = p, y, label, valid, constants
        self.classes, self.code = p.shape[1], constants["negatives"] == "authors_code"
        p_u = p[len(y) :]
        self.counts, _ = reliable(p_u, valid, alpha)
        self.sure = surest(p_u, valid, alpha)
        self.cells = places(*grid, len(p))
        self.pixels = {cell: source(cell, grid, p.shape[2:]) for cell in self.cells}

    def is_anchor(self, cell: Cell, c: int) -> bool:
        """Return whether a cell belongs to A_c."""
        i, y, x = self.pixels[cell]
        if not self.p[i, c, y, x] > self.constants["delta"]:
            return False
        if i < len(self.y):
            return self.y[i, y, x] == c
        j = i - len(self.y)
        usable = self.sure if self.code else self.counts
        return bool(usable[j, y, x] and self.label[j, y, x] == c)

    def is_negative(self, cell: Cell, c: int) -> bool:
        """Return whether a cell belongs to N_c; r_l is at most K - 1 and r_h at most K."""
        i, y, x = self.pixels[cell]
        low, high = min(self.constants["r_low"], self.classes - 1), min(self.constants["r_high"], self.classes)
        place = order(self.p[i, :, y, x])[c]
        if i < len(self.y):
            near = place < low or not self.constants["ranked"]
            # the code wants the label c besides y ≠ c: never
            return not self.code and self.y[i, y, x] not in (c, VOID) and near
        j = i - len(self.y)
        if not self.valid[j, y, x] or (self.code and self.label[j, y, x] != c):
            return False
        unreliable = not self.counts[j, y, x]
        pool = {"unreliable": unreliable, "reliable": self.sure[j, y, x], "all": True}
        return bool(pool[self.constants["negatives_from"]] and (low <= place < high or not self.constants["ranked"]))

    def anchors(self) -> list[list[bool]]:
        """Return [K][N], in the cells' reading order."""
        return [[bool(self.is_anchor(cell, c)) for cell in self.cells] for c in range(self.classes)]

    def negatives(self) -> list[list[bool]]:
        """Return [K][N]."""
        return [[bool(self.is_negative(cell, c)) for cell in self.cells] for c in range(self.classes)]


class Fifo:
    """Q_c: a list for each class; what is older than the last L leaves."""

    def __init__(self, classes: int, length: int) -> None:
        self.length = length
        self.queues: list[list[list[float]]] = [[] for _ in range(classes)]

    def push(self, c: int, feature: list[float]) -> None:
        """Append a feature, and drop the oldest if there are too many."""
        self.queues[c].append(feature)
        if len(self.queues[c]) > self.length:
            self.queues[c].pop(0)


def centre(features: list[np.ndarray]) -> np.ndarray:
    """Return z_c+, Eq. 12."""
    return np.array([math.fsum(f[d] for f in features) / len(features) for d in range(len(features[0]))])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return <a, b>."""
    norms = math.sqrt(math.fsum(v * v for v in a)) * math.sqrt(math.fsum(v * v for v in b))
    return math.fsum(v * w for v, w in zip(a, b, strict=True)) / norms


def anchor_loss(anchor: np.ndarray, positive: np.ndarray, negatives: list[np.ndarray], temperature: float) -> float:
    """Return one summand of Eq. 4."""
    above = math.exp(cosine(anchor, positive) / temperature)
    below = math.fsum(math.exp(cosine(anchor, n) / temperature) for n in negatives)
    return -math.log(above / (above + below))


def contrast(
    anchors: list[list[np.ndarray]], positives: list[np.ndarray], negatives: list[list[list[np.ndarray]]], tau: float
) -> float:
    """Return L_c, Eq. 4, for the anchors and negatives that were drawn.

    Args:
        anchors: [C][M], for the classes with anchors and negatives.
        positives: [C].
        negatives: [C][M][N].
        tau: τ.
    """
    each = [
        anchor_loss(anchor, positives[c], negatives[c][i], tau)
        for c, drawn in enumerate(anchors)
        for i, anchor in enumerate(drawn)
    ]
    return math.fsum(each) / len(each) if each else 0.0
