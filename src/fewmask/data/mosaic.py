"""Images that no memory holds: a TIFF that is read window by window, by rasterio of the extra ``geo``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.decode import MAX_PIXELS, is_tiff, refuse_large
from fewmask.data.findings import BadFile
from fewmask.data.geo import installed, place_of, raster
from fewmask.data.images import check_count, proposal_for
from fewmask.data.index import ImageCode

MOST_PIXELS = 20_000_000_000
"""Largest image that is read in windows."""

_ROWS = 512
_COLOURS = (("gray",), ("gray", "alpha"), ("red", "green", "blue"), ("red", "green", "blue", "alpha"))
"""What GDAL calls the bands of a picture that needs no declaration."""


class Mosaic:
    """What a large TIFF shows as an array uint8 [H, W, C] would: its shape, and windows of it.

    Args:
        dataset: rasterio's.
        code: how its pixels are to be read.
        path: the file, for messages.

    Raises:
        DataError: bands of a kind that is not read without declaration, or fewer than are declared.
    """

    def __init__(self, dataset: Any, code: ImageCode, path: Path) -> None:
        self._dataset, self._bands = dataset, code.bands
        if self._bands:
            check_count(self._bands, dataset.count, path)
        else:
            kinds = tuple(kind.name for kind in dataset.colorinterp)
            if kinds not in _COLOURS or set(dataset.dtypes) != {"uint8"}:
                what = f"{dataset.dtypes[0]} images of {', '.join(kinds)} are not read without declaration"
                raise BadFile("pixel_format", what, where=path, todo=proposal_for(path, max_pixels=None))
            self._numbers = (1, 1, 1) if kinds[0] == "gray" else (1, 2, 3)
        self.shape = (dataset.height, dataset.width, len(self._bands) or 3)
        self.place = place_of(dataset)

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        """Return a window, uint8 [h, w, C]; what holds nothing is 0 there."""
        window = self._window(where)
        if not self._bands:
            return np.stack([self._dataset.read(n, window=window) for n in self._numbers], axis=2)
        out = []
        for band in self._bands:
            values, nothing = self._dataset.read(band.number, window=window), self._dataset.nodatavals[band.number - 1]
            out.append(band.stretch(values if nothing is None else np.ma.masked_equal(values, nothing)))
        return np.stack(out, axis=2)

    def empty(self, where: tuple[slice, slice]) -> np.ndarray:
        """Return which pixels of a window hold nothing, bool [h, w]: the file's nodata value, or not opaque."""
        return self._dataset.dataset_mask(window=self._window(where)) < 255

    def _window(self, where: tuple[slice, slice]) -> tuple[tuple[int, int], tuple[int, int]]:
        (top, bottom, _), (left, right, _) = (part.indices(side) for part, side in zip(where, self.shape, strict=False))
        return (top, bottom), (left, right)


def is_mosaic(path: Path) -> bool:
    """Return whether a file is a TIFF of more pixels than are read at once, and can be read in windows.

    Raises:
        DataError: the file cannot be read.
    """
    if not is_tiff(path) or not installed():
        return False
    with raster(path, max_pixels=None) as dataset:
        return dataset.width * dataset.height > MAX_PIXELS


@contextmanager
def opened_mosaic(path: Path, code: ImageCode) -> Iterator[Mosaic]:
    """Open a TIFF of any size.

    Raises:
        ConfigError: rasterio is not installed.
        DataError: see ``Mosaic``; damaged, also while its windows are read.
    """
    with raster(path, max_pixels=None) as dataset:
        # a header may claim anything: some rows of pixels are in memory, and all of the mask goes to the disk
        refuse_large(dataset.width * _ROWS, MAX_PIXELS, path)
        refuse_large(dataset.width * dataset.height, MOST_PIXELS, path)
        yield Mosaic(dataset, code, path)


def preview_step(height: int, width: int, side: int = 2048) -> int:
    """Return every how-many-th pixel of an image makes a picture of at most so many pixels a side."""
    return max(1, math.ceil(max(height, width) / side))
