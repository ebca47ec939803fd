"""Masks as pictures: palette, index PNG, overlay, and image | truth | prediction side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE
from fewmask.data.palette import palette

_AT_ONCE = 2**18  # pixels that are mixed at once


def index_image(mask_HW: np.ndarray) -> Image.Image:
    """Return a paletted image whose pixels are the ids of a uint8 mask [H, W]; a 16-bit grey one of a uint16 mask."""
    image = Image.fromarray(mask_HW)
    if mask_HW.dtype == np.uint16:
        return image
    image.putpalette(palette().tobytes())  # turns the grey image into a paletted one with the same indices
    return image


def colour_image(mask_HW: np.ndarray) -> Image.Image:
    """Return the mask in colour, RGB."""
    return Image.fromarray(palette()[mask_HW])


def overlay(image_HW3: np.ndarray, mask_HW: np.ndarray, opacity: float = 0.5) -> Image.Image:
    """Return the mask laid over the photograph; ignored pixels show the photograph alone."""
    height, width = mask_HW.shape
    shown, rows = np.empty((height, width, 3), np.uint8), max(1, _AT_ONCE // width)
    for row in range(0, height, rows):  # the mixture takes ten times the memory of what it becomes
        image, mask = image_HW3[row : row + rows], mask_HW[row : row + rows]
        mixed = (1 - opacity) * image + opacity * palette()[mask]
        shown[row : row + rows] = np.where((mask == IGNORE)[..., None], image, mixed).round()
    return Image.fromarray(shown)


def side_by_side(image_HW3: np.ndarray, truth_HW: np.ndarray, prediction_HW: np.ndarray) -> Image.Image:
    """Return image, truth and prediction in one row, with a gap; pixels the truth ignores are dark in both masks."""
    hidden = truth_HW == IGNORE
    truth, predicted = palette()[truth_HW], palette()[prediction_HW]
    truth[hidden] = predicted[hidden] = 40
    gap = np.full((image_HW3.shape[0], 6, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([image_HW3, gap, truth, gap, predicted], axis=1))


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")
