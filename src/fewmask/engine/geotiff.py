"""A mask that no memory holds, written as a GeoTIFF while it is made, by rasterio of the extra ``geo``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.geo import library
from fewmask.engine.files import sync_folder, temporary_path, write_errors

_BLOCK = 512


@contextmanager
def mask_file(
    path: Path, shape_HW: tuple[int, int], dtype: np.dtype[Any], nothing: int, where: dict[str, Any]
) -> Iterator[Callable[[np.ndarray], None]]:  # fmt: skip
    """Open a GeoTIFF, and yield a function that writes the next rows, ids [rows, W], from the top to the bottom.

    Args:
        path: the file, which takes its name when it is whole; if the block raises, there is none.
        shape_HW: of the image.
        dtype: of the ids, uint8 or uint16.
        nothing: the file's nodata value.
        where: what ``georeference`` returned.

    Raises:
        WriteError: the disk refused.
    """
    rasterio, (height, width) = library(path), shape_HW
    temporary = temporary_path(path.parent)
    shape = {"height": height, "width": width, "count": 1, "dtype": dtype.name, "nodata": nothing}
    layout = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "deflate", "bigtiff": "if_safer"}
    with write_errors(path):
        try:
            with rasterio.open(temporary, "w", driver="GTiff", **shape, **layout, **where) as file:
                held, row = np.empty((0, width), dtype), 0

                def write(ids_RW: np.ndarray) -> None:
                    """Hand whole blocks on: a block that is written twice lies in the file twice."""
                    nonlocal held, row
                    held = np.concatenate([held, ids_RW])
                    ready = len(held) if row + len(held) == height else len(held) // _BLOCK * _BLOCK
                    if ready:
                        file.write(held[:ready], 1, window=((row, row + ready), (0, width)))
                        held, row = held[ready:].copy(), row + ready

                yield write
                assert row == height, "rows are missing"
            with rasterio.open(temporary) as file:  # what GDAL could not flush when it closed, it does not say
                file.read(1, window=((height - 1, height), (0, width)))
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
