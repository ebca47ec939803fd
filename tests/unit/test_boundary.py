"""The boundary F-measure on squares whose outlines are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewmask.ops.boundary import boundary_f
from fewmask.ops.metrics import dice


def square(side: int, top: int, left: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def test_equal_masks_are_whole():
    mask = square(10, 5, 5)
    assert boundary_f(mask, mask, 3) == [100.0, 100.0, None]


def test_a_shift_within_the_tolerance_costs_nothing_and_beyond_it_something():
    """A shift of a pixel is within reach: 0.0075 of a diagonal of 57 is less than a pixel, and one is the least."""
    truth = square(10, 10, 10)
    assert boundary_f(square(10, 10, 11), truth, 2)[1] == 100.0
    # three columns further: of the 36 pixels of an outline the top and bottom rows share columns 13 to 19 (7 each), one
    # more of each is a pixel away from them, and of the column that lies between them the two pixels next to those rows
    far = boundary_f(square(10, 10, 13), truth, 2)[1]
    outline, near = 36, 2 * (7 + 1) + 2
    assert far == pytest.approx(100 * near / outline)
    assert boundary_f(square(10, 10, 13), truth, 2, tolerance=3.1 / np.hypot(40, 40))[1] == 100.0


def test_precision_and_recall_are_different_things():
    """A second square of which the truth knows nothing: recall 1, precision a half."""
    truth, twice = square(10, 2, 2), square(10, 2, 2) | square(10, 25, 25)
    assert boundary_f(twice, truth, 2)[1] == pytest.approx(100 * 2 * 0.5 / 1.5)
    assert boundary_f(truth, twice, 2)[1] == pytest.approx(100 * 2 * 0.5 / 1.5)


def test_what_only_one_of_them_has_is_zero():
    truth = square(10, 5, 5)
    assert boundary_f(np.zeros_like(truth), truth, 2) == [0.0, 0.0]
    assert boundary_f(truth, np.zeros_like(truth), 2) == [0.0, 0.0]
    assert boundary_f(np.zeros_like(truth), np.zeros_like(truth), 2) == [None, None], "no outline, nothing to measure"


def test_ignored_pixels_make_an_outline_and_the_edge_none():
    """A class that fills the left half: its outline are the pixels on either side of the middle."""
    truth = np.zeros((8, 8), np.uint8)
    truth[:, 4:] = 1
    assert boundary_f(truth, truth, 2) == [100.0, 100.0]
    hidden = truth.copy()
    hidden[:, 3:5] = 255  # a rim between them: the outlines lie beside it
    wrong = truth.copy()
    wrong[:, 3:5] = 1 - wrong[:, 3:5]
    assert boundary_f(truth, hidden, 2) == [100.0, 100.0]
    assert boundary_f(wrong, hidden, 2) == [100.0, 100.0], "predictions there do not count"
    small = truth.copy()
    small[:, 1:3] = 1  # the first class is column 0, which is its outline; the truth's is column 2
    assert boundary_f(small, hidden, 2)[0] == 0.0


def test_dice_by_hand():
    matrix = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert dice(matrix) == [pytest.approx(100 * 12 / (8 + 7)), pytest.approx(100 * 6 / (4 + 5)), None]
