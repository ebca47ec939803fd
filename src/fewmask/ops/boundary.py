"""How well the outlines of a prediction follow those of the truth: the boundary F-measure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fewmask.ops.metrics import IGNORE

TOLERANCE = 0.0075
"""How far apart outlines may lie, as a share of the image's diagonal: Csurka et al., BMVC 2013."""

Bools = NDArray[np.bool_]


def boundary_f(
    prediction_HW: np.ndarray, truth_HW: np.ndarray, classes: int, tolerance: float = TOLERANCE
) -> list[float | None]:
    """Return each class's boundary F-measure in one image, in percent.

    Precision is the share of the predicted outline's pixels that lie within ``tolerance`` of the true outline, recall
    the share of the true outline's within it of the predicted one; F = 2·P·R / (P + R) (Csurka, Larlus, Perronnin and
    Meylan: What is a good evaluation measure for semantic segmentation?, BMVC 2013). The outline of a class are its
    pixels beside another class or an ignored pixel, above, below, left or right; the image's edge makes no outline.
    Predictions of ignored pixels count as ignored, so that masks with a rim of them around each object are measured
    too, and a prediction that leaves such a rim alone meets the truth there.

    Args:
        prediction_HW: class indices 0..K-1.
        truth_HW: class indices 0..K-1 or IGNORE.
        classes: K.
        tolerance: share of the diagonal, at least a pixel.

    Returns:
        0 for a class that only one of the two has an outline of, None for one that has none in either.
    """
    counted = truth_HW != IGNORE if classes <= IGNORE else np.ones(truth_HW.shape, bool)
    reach = max(1.0, tolerance * math.hypot(*truth_HW.shape))
    out: list[float | None] = []
    for k in range(classes):
        ours, theirs = (_outline((mask == k) & counted) for mask in (prediction_HW, truth_HW))
        if not ours.any() and not theirs.any():
            out.append(None)
            continue
        precision, recall = _near(ours, theirs, reach), _near(theirs, ours, reach)
        out.append(200 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return out


def _outline(mask_HW: Bools) -> Bools:
    """Return the pixels of a mask that touch a pixel outside it."""
    outside, beside = ~mask_HW, np.zeros_like(mask_HW)
    beside[1:] |= outside[:-1]
    beside[:-1] |= outside[1:]
    beside[:, 1:] |= outside[:, :-1]
    beside[:, :-1] |= outside[:, 1:]
    return mask_HW & beside


def _near(ours_HW: Bools, theirs_HW: Bools, reach: float) -> float:
    """Return the share of one outline that lies within so many pixels of the other; 0 where one is empty."""
    if not ours_HW.any() or not theirs_HW.any():
        return 0.0
    from scipy.ndimage import distance_transform_edt  # a quarter of a second of import

    apart_HW = np.asarray(distance_transform_edt(~theirs_HW))
    return float((apart_HW[ours_HW] <= reach).mean())
