"""TIFF of any bands and depths, and where on earth its pixels lie, by rasterio of the extra ``geo``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.decode import MAX_PIXELS, readable, refuse_large
from fewmask.errors import ConfigError


@contextmanager
def raster(path: Path, *, max_pixels: int | None = MAX_PIXELS) -> Iterator[Any]:
    """Open a TIFF file as rasterio's dataset.

    Args:
        path: the file.
        max_pixels: refuse larger ones; None = it is read in windows.

    Raises:
        ConfigError: the extra is not installed.
        DataError: no such file, no TIFF, damaged (while it is read, too), or too large.
    """
    rasterio = library(path)
    with readable(path) as file:
        # its driver by name: GDAL knows formats that are made of other files; and no sidecar files are looked for
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            local = isinstance(path, Path)
            with rasterio.open(path if local else file, driver="GTiff") as dataset:
                if max_pixels is not None:
                    refuse_large(dataset.width * dataset.height, max_pixels, path)
                yield dataset


def georeference(path: Path) -> dict[str, Any]:
    """Return what says where a TIFF's pixels lie, as rasterio takes it (``crs``, ``transform``); empty = nothing does.

    Raises:
        ConfigError: the extra is not installed.
        DataError: the file cannot be read.
    """
    with raster(path) as dataset:
        return place_of(dataset)


def place_of(dataset: Any) -> dict[str, Any]:
    """Return the same of what ``raster`` has opened."""
    if dataset.crs is None and dataset.transform.is_identity:
        return {}
    return {"crs": dataset.crs, "transform": dataset.transform}


def mask_bytes(ids_HW: np.ndarray, where: dict[str, Any]) -> bytes:
    """Return class ids as the content of a GeoTIFF file.

    Args:
        ids_HW: uint8 or uint16.
        where: what ``georeference`` returned.
    """
    rasterio = library(Path())
    height, width = ids_HW.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": ids_HW.dtype.name}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", compress="deflate", **shape, **where) as file:
            file.write(ids_HW, 1)
        return bytes(memory.getbuffer())


def installed() -> bool:
    """Return whether the extra is there."""
    return _rasterio() is not None


def library(path: Path) -> Any:
    """Return rasterio.

    Raises:
        ConfigError: it is not installed.
    """
    if (found := _rasterio()) is None:
        raise ConfigError(
            "a TIFF file of such bands is read by rasterio, which is not installed", where=path,
            todo="pip install 'fewmask[geo]'",
        )  # fmt: skip
    return found


@cache
def _rasterio() -> Any:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError:
        return None
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # most pictures have no place on earth
    return rasterio
