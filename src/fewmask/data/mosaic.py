"""Images that no memory holds: a TIFF that is read window by window, by rasterio of the extra ``geo``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from fewmask.data.decode import MAX_PIXELS, is_tiff, opened, refuse_frames, refuse_large
from fewmask.data.findings import BadFile
from fewmask.data.geo import installed, place_of, raster
from fewmask.data.images import check_count, proposal_for
from fewmask.data.index import ImageCode

MOST_PIXELS = 20_000_000_000
"""Largest image that is read in windows."""

_ROWS = 512
_COLOURS = (("gray",), ("gray", "alpha"), ("red", "green", "blue"), ("red", "green", "blue", "alpha"))
"""What GDAL calls the bands of a picture that needs no declaration."""

_BITS, _TURNED = 258, 274  # TIFF tags


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
        self._dataset, self._bands, self._path = dataset, code.bands, path
        if self._bands:
            check_count(self._bands, dataset.count, path)
        else:
            kinds = tuple(kind.name for kind in dataset.colorinterp)
            kinds = kinds[:3] if code.colours_only and kinds[:3] == _COLOURS[2] else kinds
            if kinds not in _COLOURS or set(dataset.dtypes) != {"uint8"}:
                what = f"{dataset.dtypes[0]} images of {', '.join(kinds)} are not read without declaration"
                raise BadFile("pixel_format", what, where=path, todo=proposal_for(path, max_pixels=None))
            _refuse_others(path)
            self._numbers = (1, 1, 1) if kinds[0] == "gray" else (1, 2, 3)
        self.shape = (dataset.height, dataset.width, len(self._bands) or 3)
        self.place = place_of(dataset, path)

    def __getitem__(self, where: tuple[slice, slice]) -> np.ndarray:
        """Return a window, uint8 [h, w, C]; what holds nothing is 0 there."""
        if not self._bands:
            return np.stack([self._read(self._dataset.read, n, where) for n in self._numbers], axis=2)
        out = []
        for band in self._bands:
            values = self._read(self._dataset.read, band.number, where)
            nothing = self._dataset.nodatavals[band.number - 1]
            out.append(band.stretch(values if nothing is None else np.ma.masked_equal(values, nothing)))
        return np.stack(out, axis=2)

    def empty(self, where: tuple[slice, slice]) -> np.ndarray:
        """Return which pixels of a window hold nothing, bool [h, w].

        That is the file's nodata value in all bands that are read, or what its mask or its alpha band makes less than
        opaque. A band that is declared as one of the image's is no alpha band, whatever the file says of it.
        """
        numbers = [band.number for band in self._bands] or list(dict.fromkeys(self._numbers))
        return _empty(self._dataset, numbers, lambda n: self._read(self._dataset.read_masks, n, where))

    def _read(self, what: Callable[..., np.ndarray], number: int, where: tuple[slice, slice]) -> np.ndarray:
        """Return a band's window; what is wrong with the file is told as such, also while a mask is being written."""
        try:
            return what(number, window=self._window(where))
        except Exception as error:  # damaged files make GDAL raise nearly anything
            todo = "replace or remove this file"
            raise BadFile("damaged_file", f"cannot be read: {error}", where=self._path, todo=todo) from error

    def _window(self, where: tuple[slice, slice]) -> tuple[tuple[int, int], tuple[int, int]]:
        (top, bottom, _), (left, right, _) = (part.indices(side) for part, side in zip(where, self.shape, strict=False))
        return (top, bottom), (left, right)


def _empty(dataset: Any, numbers: Sequence[int], masks: Callable[[int], np.ndarray]) -> np.ndarray:
    """Return which pixels hold nothing in all of the bands ``numbers``; ``masks`` reads what the file says of one."""
    kinds = [kind.name for kind in dataset.colorinterp]
    alpha = kinds.index("alpha") + 1 if "alpha" in kinds else None
    holds = None
    for number in numbers:
        by_alpha = any(flag.name == "alpha" for flag in dataset.mask_flag_enums[number - 1])
        here = masks(number) == 255
        if by_alpha and alpha in numbers:
            return np.zeros(here.shape, bool)
        holds = here if holds is None else holds | here
    assert holds is not None  # an image has a band
    return ~holds


def pixels_without_content(path: Path, code: ImageCode) -> np.ndarray | None:
    """Return which pixels of an image that is read at once hold nothing, bool [H, W], as ``Mosaic.empty`` does.

    None = the file does not say so of any: it is no TIFF, or rasterio is not there.

    Raises:
        DataError: the file cannot be read.
    """
    if not is_tiff(path) or not installed():
        return None
    with raster(path) as dataset:
        numbers = [band.number for band in code.bands] or [1, 2, 3][: 3 if dataset.count >= 3 else 1]
        if all(flag.name == "all_valid" for n in numbers for flag in dataset.mask_flag_enums[n - 1]):
            return None
        found = _empty(dataset, numbers, dataset.read_masks)
    if code.bands:
        return found  # they come as stored
    with opened(path, MAX_PIXELS) as (image, _):
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        turned = Image.fromarray(found)
        turned.getexif()[_TURNED] = image.tag_v2.get(_TURNED, 1)
    return np.array(ImageOps.exif_transpose(turned))  # as Pillow turned the image itself


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
        if dataset.width * _ROWS > MAX_PIXELS:
            what = f"image is {dataset.width} pixels wide, more than the {MAX_PIXELS // _ROWS} of which rows are read"
            raise BadFile("too_large", what, where=path, todo="cut it into smaller images", value=dataset.width)
        refuse_large(dataset.width * dataset.height, MOST_PIXELS, path)
        yield Mosaic(dataset, code, path)


def _refuse_others(path: Path) -> None:
    """Refuse what an image that is read at once is refused or turned for, and GDAL passes over.

    Raises:
        DataError: other than 8 bits, an orientation, or several pages.
    """
    with opened(path, MOST_PIXELS) as (image, _):
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        todo = "convert it to 8-bit RGB or grey, upright"
        if image.tag_v2.get(_BITS, (8,))[0] != 8:
            raise BadFile("pixel_format", "an image of this size is read with 8 bits only", where=path, todo=todo)
        if image.tag_v2.get(_TURNED, 1) != 1:
            raise BadFile("orientation", "an image of this size is read upright only", where=path, todo=todo)
        refuse_frames(image, path)


def preview_step(height: int, width: int, side: int = 2048) -> int:
    """Return every how-many-th pixel of an image makes a picture of at most so many pixels a side."""
    return max(1, math.ceil(max(height, width) / side))
