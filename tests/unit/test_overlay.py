"""The mask laid over the photograph: the same picture as ever, and no more memory than a few copies of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fewmask.data.palette import palette
from fewmask.report import pictures
from fewmask.report.pictures import overlay


@pytest.mark.parametrize("opacity", [0.5, 0.3])
@pytest.mark.parametrize("size", [(45, 38), (1, 200), (64, 1)])
def test_bands_of_rows_are_the_whole(opacity, size, monkeypatch):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (*size, 3), np.uint8), rng.integers(0, 256, size, np.uint8)
    mask[0, ::3] = 255
    mixed = np.where(mask[..., None] == 255, image, (1 - opacity) * image + opacity * palette()[mask]).round()
    monkeypatch.setattr(pictures, "_AT_ONCE", 100)
    assert (np.asarray(overlay(image, mask, opacity)) == mixed).all()


def test_memory():
    image, mask = np.zeros((1500, 2000, 3), np.uint8), np.zeros((1500, 2000), np.uint8)
    tracemalloc.start()
    overlay(image, mask)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / mask.size < 15, "bytes a pixel"
