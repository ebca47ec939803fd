"""AEL's augmentations (Hu et al., NeurIPS 2021, 2110.05474), pixel by pixel: what is cut out and what is pasted.

Labels are [H, W]; what is False in ``valid`` is padding. The uniform numbers that decide come in. Shares of the image
are compared in whole numbers: a class needs 1 % of its pixels or more, an object more than 0.5 %.
"""

import math

import numpy as np

Pixel = tuple[int, int]


def flooded(where: np.ndarray, start: Pixel, seen: set[Pixel]) -> list[Pixel]:
    """Return the pixels of ``where`` that a flood from ``start`` reaches, over sides and corners; marks them seen."""
    found, front = [], [start]
    seen.add(start)
    while front:
        y, x = front.pop()
        found.append((y, x))
        for ny in (y - 1, y, y + 1):
            for nx in (x - 1, x, x + 1):
                inside = 0 <= ny < where.shape[0] and 0 <= nx < where.shape[1]
                if inside and where[ny, nx] and (ny, nx) not in seen:
                    seen.add((ny, nx))
                    front.append((ny, nx))
    return found


def objects(labels: np.ndarray, valid: np.ndarray, c: int) -> list[list[Pixel]]:
    """Return the 8-connected objects of a class outside the padding, in the reading order of their first pixels."""
    where = np.array([[bool(valid[y, x]) and labels[y, x] == c for x in range(labels.shape[1])]
                      for y in range(labels.shape[0])])  # fmt: skip
    seen: set[Pixel] = set()
    return [
        flooded(where, (y, x), seen)
        for y in range(labels.shape[0])
        for x in range(labels.shape[1])
        if where[y, x] and (y, x) not in seen
    ]


def pick(weights: list[float], u: float) -> int | None:
    """Return the first place whose cumulative share of the weights exceeds u; None where all weights are 0."""
    total, upto = math.fsum(weights), 0.0
    for place, weight in enumerate(weights):
        upto += weight
        if weight > 0 and u * total < upto:
            return place
    return None


def cut_weights(labels: np.ndarray, valid: np.ndarray, sigma: list[float]) -> list[float]:
    """Return exp(1 - σ) of each class that covers 1 % of the image outside the padding, 0 of the others."""
    height, width = labels.shape
    area = [0] * len(sigma)
    for y in range(height):
        for x in range(width):
            if valid[y, x]:
                area[labels[y, x]] += 1
    return [math.exp(max(0.0, 1 - s)) if a and 100 * a >= height * width else 0.0
            for s, a in zip(sigma, area, strict=True)]  # fmt: skip


def object_box(
    labels: np.ndarray, valid: np.ndarray, sigma: list[float], u_class: float, u_object: float
) -> np.ndarray | None:
    """Return bool [H, W]: the bounding box of the object that is drawn; None where there is none to draw."""
    c = pick(cut_weights(labels, valid, sigma), u_class)
    if c is None:
        return None
    large = [pixels for pixels in objects(labels, valid, c) if 200 * len(pixels) > labels.size]
    if not large:
        return None
    chosen = large[int(u_object * len(large))]
    box = np.zeros(labels.shape, dtype=bool)
    for y in range(min(y for y, _ in chosen), max(y for y, _ in chosen) + 1):
        for x in range(min(x for _, x in chosen), max(x for _, x in chosen) + 1):
            box[y, x] = True
    return box


def pasted(donor: np.ndarray, sigma: list[float], u_chance: float, chance: float, u_classes: list[float]) -> np.ndarray:
    """Return bool [H, W]: all pixels of the classes drawn, ∝ exp(√(1 - σ)) among those that the donor shows."""
    shown = [bool((donor == c).any()) for c in range(len(sigma))]
    weights = [math.exp(math.sqrt(max(0.0, 1 - s))) if here else 0.0 for s, here in zip(sigma, shown, strict=True)]
    drawn = {pick(weights, u) for u in u_classes} - {None} if u_chance < chance else set()
    return np.array([[int(label) in drawn for label in row] for row in donor])


def true_class(p: list[np.ndarray], labels: np.ndarray) -> tuple[list[float], list[int]]:
    """Return for each class the sum over its pixels of its probability, mean of the predictors, and their number."""
    classes = p[0].shape[1]
    found: list[list[float]] = [[] for _ in range(classes)]
    for i in range(len(labels)):
        for y in range(labels.shape[1]):
            for x in range(labels.shape[2]):
                c = int(labels[i, y, x])
                if 0 <= c < classes:
                    found[c].append(math.fsum(float(q[i, c, y, x]) for q in p) / len(p))
    return [math.fsum(f) for f in found], [len(f) for f in found]
