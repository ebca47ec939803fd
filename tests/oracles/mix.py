"""The laws of the CutMix boxes, integrated numerically, and masks painted pixel by pixel."""

import math

import numpy as np

Box = tuple[int, int, int, int]  # top, left, height, width


def union(boxes: list[Box], height: int, width: int) -> np.ndarray:
    """Return bool [H, W]: pixels that lie in some box."""
    return np.array([[cover(boxes, y, x) > 0 for x in range(width)] for y in range(height)])


def toggled(boxes: list[Box], height: int, width: int) -> np.ndarray:
    """Return bool [H, W]: pixels that lie in an odd number of boxes."""
    return np.array([[cover(boxes, y, x) % 2 == 1 for x in range(width)] for y in range(height)])


def cover(boxes: list[Box], y: int, x: int) -> int:
    """Return how many boxes hold the pixel."""
    return sum(1 for top, left, h, w in boxes if top <= y < top + h and left <= x < left + w)


def cps_sides(height: int, width: int, grid: int = 100) -> list[tuple[int, int]]:
    """Return equally likely (height, width) of a box of CPS's law: midpoints of a grid over its two draws.

    French et al., BMVC 2020, as CPS uses it: area a of the image, U(0.25, 0.5), divided by three boxes; relative
    height a^u, u of U(0, 1); relative width a / a^u.
    """
    sides = []
    for i in range(grid):
        a = 0.25 + 0.25 * (i + 0.5) / grid
        for j in range(grid):
            tall = a ** ((j + 0.5) / grid)
            sides.append((round(height * tall / math.sqrt(3)), round(width * (a / tall) / math.sqrt(3))))
    return sides


def inside(side: int, length: int) -> np.ndarray:
    """Return for each position of a line the probability that a segment, placed uniformly inside, covers it."""
    places = length - side + 1
    hits = np.zeros(length)
    for first in range(places):
        hits[first : first + side] += 1
    return hits / places


def cps_share(height: int, width: int) -> float:
    """Return the expected share of True pixels of CPS's mask: an odd number of three independent boxes."""
    rows = {h: inside(h, height) for h in range(height + 1)}
    columns = {w: inside(w, width) for w in range(width + 1)}
    sides = cps_sides(height, width)
    p = sum(np.outer(rows[h], columns[w]) for h, w in sides) / len(sides)
    return float(np.mean((1 - (1 - 2 * p) ** 3) / 2))


def unimatch_law(height: int, width: int, grid: int = 100) -> tuple[float, float]:
    """Return (expected area as a share of the image, chance of a box relatively taller than wide) of UniMatch's law.

    Area U(0.02, 0.4) of the image; then aspect height/width U(0.3, 1/0.3) and a uniform corner, drawn anew until the
    box fits. So an aspect counts by its share of corners that fit.
    """
    share, tall = 0.0, 0.0
    for i in range(grid):
        area = (0.02 + 0.38 * (i + 0.5) / grid) * height * width
        accepted, areas, talls = 0.0, 0.0, 0.0
        for j in range(grid):
            aspect = (0.3 + (1 / 0.3 - 0.3) * (j + 0.5) / grid) * height / width
            h, w = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
            # corners 0..H-1 with top + h <= H: an empty side fits everywhere
            corners = max(0, min(height, height - h + 1)) * max(0, min(width, width - w + 1))
            accepted += corners
            areas += corners * h * w / (height * width)
            talls += corners * (h * width > w * height)
        share += areas / accepted / grid
        tall += talls / accepted / grid
    return share, tall
