"""Images that are too large for one forward pass: overlapping tiles, a band of rows in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np

from fewmask.engine.files import replacing, write_errors


def starts(length: int, window: int, overlap: int) -> list[int]:
    """Return where tiles of one side begin: as few as cover it with at least this overlap, evenly spaced.

    Args:
        length: of the side, pixels.
        window: of a tile.
        overlap: least pixels that neighbours share, below ``window``.
    """
    assert 0 <= overlap < window, (overlap, window)
    if length <= window:
        return [0]
    count = -(-(length - overlap) // (window - overlap))
    return [round(n * (length - window) / (count - 1)) for n in range(count)]


class Windowed(Protocol):
    """An array, or what returns windows of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[H, W, C]."""
        ...

    def __getitem__(self, where: tuple[slice, slice], /) -> np.ndarray:
        """Return a window, uint8 [h, w, C]."""
        ...


def bands(
    predict: Callable[[np.ndarray], np.ndarray], image_HW3: Windowed, window: int, overlap: int
) -> Iterator[tuple[int, np.ndarray]]:  # fmt: skip
    """Yield (row, class probabilities float32 [K, rows, W]) from the top of an image to its bottom.

    Where tiles overlap, their probabilities are averaged with weights that fall towards a tile's edge, so that no seam
    is seen. Memory is that of a tile and of a band of ``window`` rows.

    Args:
        predict: image uint8 [h, w, 3] to class probabilities float32 [K, h, w].
        image_HW3: uint8, whole or by windows.
        window: side of a tile.
        overlap: least pixels that neighbours share.
    """
    height, width = image_HW3.shape[:2]
    rows, columns = starts(height, window, overlap), starts(width, window, overlap)
    band: np.ndarray | None = None
    total = np.zeros((min(window, height), width), dtype=np.float32)
    for n, top in enumerate(rows):
        for left in columns:
            tile = image_HW3[top : top + window, left : left + window]
            p = predict(np.ascontiguousarray(tile))
            if band is None:
                band = np.zeros((len(p), *total.shape), dtype=np.float32)
            weight = np.outer(_ramp(tile.shape[0], overlap), _ramp(tile.shape[1], overlap))
            band[:, :, left : left + tile.shape[1]] += p * weight
            total[:, left : left + tile.shape[1]] += weight
        assert band is not None  # there is a column
        done = (rows[n + 1] if n + 1 < len(rows) else height) - top
        yield top, band[:, :done] / total[:done]
        for kept in (band, total):  # what the next tiles add to moves up
            kept[..., : kept.shape[-2] - done, :] = kept[..., done:, :].copy()
            kept[..., kept.shape[-2] - done :, :] = 0


@contextmanager
def npy_file(path: Path, shape_KHW: tuple[int, int, int]) -> Iterator[Callable[[int, np.ndarray], None]]:
    """Open a .npy of float16, and yield a function (row, values [K, rows, W]) that writes a band; none may be missing.

    No memory map: what a full disk does to one is a signal, not an error.

    Raises:
        WriteError: the disk refused; there is no file then.
    """
    header = BytesIO()
    fields = {"descr": "<f2", "fortran_order": False, "shape": shape_KHW}
    np.lib.format.write_array_header_1_0(header, fields)
    start = len(header.getvalue())
    classes, height, width = shape_KHW
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, start + 2 * classes * height * width) as handle:
        handle.write(header.getvalue())

        def write(row: int, values: np.ndarray) -> None:
            for k, plane in enumerate(values.astype("<f2")):
                handle.seek(start + 2 * (k * height + row) * width)
                handle.write(plane.tobytes())

        yield write


def _ramp(length: int, overlap: int) -> np.ndarray:
    """Return the weights of a tile's pixels along one side: 1 inside, falling over the overlap, above 0 at the edge."""
    edge = np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)).astype(np.float32)
    return np.minimum(1.0, edge / (overlap + 1)).astype(np.float32)
