"""Masks that are described as shapes (polygons, run lengths): drawn once, as index PNGs in the user's cache.

Class 0 is what no shape covers. Where shapes overlap, the higher level lies on top, of one level the smaller shape.
Pixels are those of pycocotools, by the extra ``coco``.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.data.decode import MAX_PIXELS
from fewmask.data.files import cache_folder
from fewmask.data.layouts.brush import Brush
from fewmask.errors import ConfigError, DataError, WriteError

BACKGROUND = "background"
_VERSION = 2  # of what is drawn for the same shapes
_DONE = "DONE"
_LONGEST = 100  # outlines of objects are not a hundred times as long as the image is high and wide


@dataclass(frozen=True)
class Shape:
    """One object.

    Attributes:
        kind: its class index.
        outline: polygons [[x1, y1, x2, y2, …], …], or run lengths {"size": [H, W], "counts": …}, as COCO has them; or a
            ``Brush``.
        label: names it in errors.
        level: what has a higher one lies on top.
    """

    kind: int
    outline: Any
    label: str
    level: int = 0


@dataclass
class Drawing:
    """The mask of one image.

    Attributes:
        name: of the image.
        height, width: of the mask.
        shapes: in any order.
    """

    name: str
    height: int
    width: int
    shapes: list[Shape] = field(default_factory=list)


def draw(drawings: Sequence[Drawing], content: Iterable[bytes], where: Path) -> dict[str, Path]:
    """Return a mask file for each image, drawn now if it was not before.

    Args:
        drawings: what to draw.
        content: bytes that it depends on: the files that describe it.
        where: the file that errors name.

    Raises:
        ConfigError: pycocotools is not installed.
        DataError: a shape is none, or an image is too large.
        WriteError: the cache cannot be written.
    """
    digest = hashlib.sha256(f"{_VERSION}".encode())
    for part in content:
        digest.update(hashlib.sha256(part).digest())
    for one in drawings:
        digest.update(f"\0{one.name}\0{one.height}\0{one.width}".encode("utf-8", "surrogateescape"))
    cache = cache_folder() / "masks"
    folder = cache / digest.hexdigest()[:24]
    files = {one.name: folder / f"{n:07d}.png" for n, one in enumerate(drawings)}
    if (folder / _DONE).is_file():
        return files
    try:
        cache.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=cache, prefix=".making-"))
        try:
            for n, one in enumerate(drawings):
                Image.fromarray(paint(one, where)).save(making / f"{n:07d}.png")
            (making / _DONE).touch()
            if folder.exists() and not (folder / _DONE).is_file():  # what a crash has left
                shutil.rmtree(folder, ignore_errors=True)
            os.replace(making, folder)  # refused where another process was faster
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        if not (folder / _DONE).is_file():  # else another process was faster
            raise WriteError(
                f"cannot write the masks that are drawn from shapes: {error.strerror}", where=cache,
                todo="make room, or name another folder in XDG_CACHE_HOME",
            ) from error  # fmt: skip
    return files


def paint(one: Drawing, where: Path) -> np.ndarray:
    """Return a mask, class indices uint8 [H, W].

    Raises:
        ConfigError: pycocotools is not installed.
        DataError: a shape is none, or the image is too large.
    """
    if not (0 < one.height and 0 < one.width and one.height * one.width <= MAX_PIXELS):
        raise DataError(f"{one.name!r} is said to be {one.width}x{one.height}", where=where, todo="mend its size")
    parts: list[tuple[tuple[int, int], int, Any]] = []
    for shape in one.shapes:
        try:
            area, outline = _measured(shape.outline, one.height, one.width, where)
            parts.append(
                ((shape.level, -area), shape.kind, outline)
            )  # not its pixels: thousands of objects are thinkable
        except ConfigError:  # which is a ValueError, too
            raise
        except (ValueError, TypeError, KeyError, OverflowError, AttributeError) as error:
            raise DataError(
                f"{shape.label} of {one.name!r} has no shape that can be drawn: {str(error)[:200]}", where=where,
                todo="mend it, or take it out",
            ) from error  # fmt: skip
    mask = np.zeros((one.height, one.width), dtype=np.uint8)
    for _, kind, outline in sorted(parts, key=lambda part: part[0]):  # a stable sort: of equal ones the later wins
        mask[_pixels(outline, where)] = kind
    return mask


def _measured(outline: Any, height: int, width: int, where: Path) -> tuple[int, Any]:
    """Return how many pixels a shape covers, and what ``_pixels`` takes."""
    if isinstance(outline, Brush):
        return int(outline.pixels().sum()), outline
    rle = _pycocotools(where)
    runs = _runs(outline, height, width, rle)
    return int(rle.area(runs)), runs


def _pixels(outline: Any, where: Path) -> np.ndarray:
    """Return the pixels of a shape, bool [H, W]."""
    if isinstance(outline, Brush):
        return outline.pixels()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # of pycocotools with numpy 2
        return _pycocotools(where).decode(outline).astype(bool)


def _pycocotools(where: Path) -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ConfigError(
            "masks are shapes, which pycocotools draws", where=where, todo="pip install 'fewmask[coco]'"
        ) from error
    return mask


def _runs(outline: Any, height: int, width: int, rle: Any) -> Any:
    """Return COCO's compressed run lengths of a shape, after checks that pycocotools' C code does not make."""
    if isinstance(outline, dict):
        counts, size = outline["counts"], [int(v) for v in outline["size"]]
        if size != [height, width]:
            raise ValueError(f"run lengths of {size[1]}x{size[0]} in an image of {width}x{height}")
        if isinstance(counts, list):
            if sum(int(c) for c in counts) != height * width or min(counts, default=-1) < 0:
                raise ValueError("run lengths do not fill the image")
            return rle.frPyObjects({"size": size, "counts": [int(c) for c in counts]}, height, width)
        return {"size": size, "counts": _checked(str(counts), height * width)}
    polygons = outline if outline and isinstance(outline[0], list) else [outline]
    far = 10 * max(height, width)
    out = []
    for polygon in polygons:
        points = [float(v) for v in polygon]
        if len(points) % 2 or not all(math.isfinite(v) and abs(v) <= far for v in points):
            raise ValueError("coordinates that are odd in number, or far outside")
        if _length(points) > _LONGEST * (height + width):  # the C code takes 40 bytes for each pixel of it, unchecked
            raise ValueError(f"an outline that is {_LONGEST} times as long as the image is high and wide")
        if len(points) >= 6:  # two points are taken for a box there, and cover nothing here
            out.append(points)
    if not out:
        return rle.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
    return rle.merge(rle.frPyObjects(out, height, width))


def _length(points: Sequence[float]) -> float:
    """Return how many pixels an outline passes, once around."""
    xy = np.array(points).reshape(-1, 2)
    return float(np.abs(xy - np.roll(xy, 1, axis=0)).max(axis=1, initial=0).sum())


def _checked(counts: str, pixels: int) -> bytes:
    """Return compressed run lengths if they fill the image: the decoder writes wherever they lead."""
    runs: list[int] = []
    place = 0
    data = counts.encode("ascii")
    while place < len(data):
        value, shift, more = 0, 0, True
        while more:
            byte = data[place] - 48
            if not 0 <= byte < 64 or shift > 60:
                raise ValueError("run lengths that are none")
            value |= (byte & 31) << shift
            more, shift, place = bool(byte & 32), shift + 5, place + 1
            if not more and byte & 16:
                value |= -1 << shift
            if more and place >= len(data):
                raise ValueError("run lengths that are cut off")
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            raise ValueError("a run length below 0")
    if sum(runs) != pixels:
        raise ValueError("run lengths do not fill the image")
    return data
