"""fewmask.ops.mix.half_area_mask: one rectangle of half the area, U2PL's CutMix."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from fewmask.ops import mix
from fewmask.ops.rng import Draws, Purpose

DRAWS = 3000


def draws(n: int, step: int = 0) -> list[Draws]:
    return [Draws(7, Purpose.MIX, step, slot) for slot in range(n)]


def boxes(mask: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """Return (top, left, height, width) of each image that has a box, and see that it is a whole rectangle."""
    out = []
    for image in mask:
        rows, columns = image.any(1).nonzero().flatten(), image.any(0).nonzero().flatten()
        if len(rows):
            top, left = int(rows[0]), int(columns[0])
            h, w = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
            assert image[top : top + h, left : left + w].all() and image.sum() == h * w
            out.append((top, left, h, w))
    return out


def near(count: float, p: float, n: int) -> bool:
    return abs(count - n * p) <= 4 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 21), (33, 10), (5, 4)])
def test_law(height: int, width: int) -> None:
    mask = mix.half_area_mask(draws(DRAWS), height, width, 1.0)
    assert mask.shape == (DRAWS, height, width) and mask.dtype == torch.bool and mask.device.type == "cpu"
    found = boxes(mask)
    assert len(found) == DRAWS
    for _, _, h, w in found:
        assert width / 2 < w <= width and h <= height
        assert abs(h * w - height * width / 2) <= w / 2  # the height is rounded to a pixel
    # U(W/2, W) over whole numbers
    widths = Counter(w for _, _, _, w in found)
    allowed = [w for w in range(width) if w > width / 2]
    assert set(widths) == set(allowed) and all(near(widths[w], 1 / len(allowed), DRAWS) for w in allowed)


def test_place_is_uniform() -> None:
    """8x8: of width 5 the height is 6 and there are 3·4 corners, of 6 (5) 4·3, of 7 (5) 4·2."""
    found = boxes(mix.half_area_mask(draws(DRAWS), 8, 8, 1.0))
    for w, h in ((5, 6), (6, 5), (7, 5)):
        corners = Counter((top, left) for top, left, hh, ww in found if (hh, ww) == (h, w))
        places = {(top, left) for top in range(8 - h + 1) for left in range(8 - w + 1)}
        assert set(corners) == places
        n = corners.total()
        assert all(near(corners[p], 1 / len(places), n) for p in places)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_probability(probability: float) -> None:
    n = len(boxes(mix.half_area_mask(draws(DRAWS), 6, 6, probability)))
    assert near(n, probability, DRAWS)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 8), (8, 1), (2, 2), (3, 3), (2, 3)])
def test_small_images(height: int, width: int) -> None:
    for top, left, h, w in boxes(mix.half_area_mask(draws(50), height, width, 1.0)):
        assert top + h <= height and left + w <= width and w > width / 2


def test_masks_depend_on_step_and_slot_alone() -> None:
    whole = mix.half_area_mask(draws(6, step=3), 20, 20, 1.0)
    assert torch.equal(whole[2:5], mix.half_area_mask(draws(6, step=3)[2:5], 20, 20, 1.0))
    assert not torch.equal(whole, mix.half_area_mask(draws(6, step=4), 20, 20, 1.0))
    assert len({tuple(m.flatten().tolist()) for m in whole}) == 6
