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

_MOST_SAID = 2**20  # bytes of a file beside an image that are looked through


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
    """Return what says where a TIFF's pixels lie, as rasterio takes it; empty = nothing does.

    That is ``crs`` and ``transform``, or ``crs`` and ``gcps`` (ground control points), or ``rpcs`` (a satellite's
    camera), or the ``transform`` of a world file beside it.

    Raises:
        ConfigError: the extra is not installed.
        DataError: the file cannot be read.
    """
    with raster(path, max_pixels=None) as dataset:
        return place_of(dataset, path)


def place_of(dataset: Any, path: Path) -> dict[str, Any]:
    """Return the same of what ``raster`` has opened."""
    if not dataset.transform.is_identity:
        return {"crs": dataset.crs, "transform": dataset.transform}
    points, crs = dataset.gcps
    if points:
        return {"crs": crs, "gcps": points}
    if dataset.rpcs is not None:
        return {"rpcs": dataset.rpcs}
    if (transform := _world(path)) is not None:
        return {"crs": dataset.crs, "transform": transform}
    return {} if dataset.crs is None else {"crs": dataset.crs, "transform": dataset.transform}


def unread_place(path: Path) -> Path | None:
    """Return the file beside an image that may say where its pixels lie; None = there is none.

    It is for images that ``georeference`` finds nothing of: only the world files of TIFF are read.
    """
    world = _world_file(path)
    if world is not None or not isinstance(path, Path):
        return world
    more = path.with_name(f"{path.name}.aux.xml")
    try:
        with more.open("rb") as file:  # most hold statistics alone
            said = file.read(_MOST_SAID)
    except OSError:
        return None
    return more if b"<GeoTransform" in said or b"<GCPList" in said else None


def _world_file(path: Path) -> Path | None:
    if not isinstance(path, Path):  # of files elsewhere no others are asked for
        return None
    end = path.suffix[1:].lower()
    names = (f"{end[:1]}{end[-1:]}w", f"{end}w", "wld")
    every = (path.with_suffix(f".{name}") for lower in names for name in (lower, lower.upper()))
    return next((file for file in every if file.is_file()), None)


def _world(path: Path) -> Any:
    """Return the transform that a world file says: of the middle of the upper left pixel. None = no six numbers."""
    if (file := _world_file(path)) is None:
        return None
    try:
        a, d, b, e, x, y = map(float, file.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return None  # ``unread_place`` names it
    known = a * e != b * d and np.isfinite([a, b, d, e, x, y]).all()
    return library(path).Affine(a, b, x - (a + b) / 2, d, e, y - (d + e) / 2) if known else None


def mask_bytes(ids_HW: np.ndarray, where: dict[str, Any], nothing: int) -> bytes:
    """Return class ids as the content of a GeoTIFF file.

    Args:
        ids_HW: uint8 or uint16.
        where: what ``georeference`` returned.
        nothing: the file's nodata value.
    """
    rasterio = library(Path())
    height, width = ids_HW.shape
    shape = {"height": height, "width": width, "count": 1, "dtype": ids_HW.dtype.name, "nodata": nothing}
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
