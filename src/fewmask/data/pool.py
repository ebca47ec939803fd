"""A pool of unlabelled images that an index file lists: JSONL, one object ``{"image": path, "name"?: text}`` a line.

A path is one of this machine's disks, or a URI (``remote.py``).

For pools that outgrow a folder walk and a scan. Of the file only the place of each line is held in memory, 8 bytes an
image; an item is read when its turn comes. The images are not opened before training: see ``data.on_bad_unlabelled``.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from array import array
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from fewmask.data.files import is_below
from fewmask.data.index import PHOTOGRAPH, ImageCode, Item
from fewmask.data.remote import is_uri, remote_path
from fewmask.errors import DataError

SUFFIX = ".jsonl"
_LONGEST_LINE = 3 * 4096


class _Pool(Sequence[Item]):
    """Items that are made when they are asked for; a slice is a tuple."""

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, place: int | slice) -> Item | tuple[Item, ...]:
        """Return the item of a place, or those of a slice."""
        places = range(len(self))[place]
        return tuple(map(self._item, places)) if isinstance(places, range) else self._item(places)

    @abstractmethod
    def _item(self, i: int) -> Item:
        """Make item i, 0 <= i < N."""


class IndexPool(_Pool):
    """The items of an index file, in its order; see ``read_index``.

    Args:
        path: the file.
        starts: place of the first byte of each line, and the end of the file, int64 [N + 1].
        digest: 16 hex digits of the file's content.
        code: how the images become pixels.
    """

    def __init__(self, path: Path, starts: np.ndarray, digest: str, code: ImageCode = PHOTOGRAPH) -> None:
        self.path, self.digest, self._starts, self._prefix = path, digest, starts, _prefix(path.parent)
        self._code = code
        self._handle: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._starts) - 1

    def _item(self, i: int) -> Item:
        """Return the item of a line; lines that ``read_index`` has passed only fail if the file was changed since."""
        start, stop = int(self._starts[i]), int(self._starts[i + 1])
        handle = self._open()
        os.lseek(handle, start, os.SEEK_SET)
        line = os.read(handle, stop - start)
        try:
            name, image = _entry(line, self._prefix)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                "the index was changed while it is used", where=f"{self.path} line {i + 1}", todo="start another run"
            ) from error
        return Item(name, remote_path(image) if is_uri(image) else Path(image), code=self._code)

    def _open(self) -> int:
        """Return a descriptor of this process: one that was forked would share its state with the others."""
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = os.getpid(), os.open(self.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._handle[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}


class Joined(_Pool):
    """Two pools one after the other, without a copy of either."""

    def __init__(self, first: Sequence[Item], second: Sequence[Item]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def _item(self, i: int) -> Item:
        """Return an item of the first pool without its mask, or one of the second."""
        return self._first[i].without_mask() if i < len(self._first) else self._second[i - len(self._first)]


def read_index(
    path: Path, inside: Path, known: Collection[Path], *, anywhere: bool = False, code: ImageCode = PHOTOGRAPH
) -> IndexPool:
    """Read every line of an index file once and return the pool.

    Args:
        path: the file; relative images lie below its folder.
        inside: the data folder, below which images may lie too.
        known: image files that are labelled, or scored on: none of them may be in the pool.
        anywhere: images may lie wherever the file says.
        code: how the images become pixels.

    Raises:
        DataError: it cannot be read; a line is no such object, leads elsewhere, or names an image of ``known``.
    """
    path = Path(os.path.abspath(path))
    remote = ""
    taken = {os.path.abspath(p) for p in known}
    prefix = _prefix(path.parent)
    homes = (prefix, _prefix(inside))
    starts, digest = array("q", [0]), hashlib.sha256()
    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                starts.append(starts[-1] + len(line))
                _, image = _entry(line, prefix)
                if not anywhere and not image.startswith(homes):
                    what = "lies outside, which only data.outside=true allows (check: --outside)"
                    raise ValueError(f"{image[:200]!r} {what}")
                if not remote and is_uri(image):
                    remote = image
                if image in taken:
                    raise ValueError(f"{image!r} is labelled, or is scored on")
    except OSError as error:
        raise DataError(f"cannot read the index: {error.strerror}", where=path, todo="check the path") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(
            f"the index has a line that cannot be used: {str(error)[:300]}", where=f"{path} line {len(starts) - 1}",
            todo='write {"image": "path"}, one a line, or take the line out',
        ) from error  # fmt: skip
    if remote:
        remote_path(remote)  # what it needs is missing before step 0, not in it
    if len(starts) == 1:
        raise DataError("the index names no image", where=path, todo="write one object a line")
    return IndexPool(path, np.frombuffer(starts, np.int64), digest.hexdigest()[:16], code)


def _prefix(folder: Path) -> str:
    return os.path.join(os.path.abspath(folder), "")


def _entry(line: bytes, prefix: str) -> tuple[str, str]:
    """Return the name and the absolute path of one line's image, or its URI."""
    if len(line) > _LONGEST_LINE:
        raise ValueError(f"a line of {len(line)} bytes")
    entry = json.loads(line)
    image, name = entry["image"], entry.get("name")
    if not isinstance(image, str) or not image or "\0" in image or not isinstance(name or "", str):
        raise ValueError("image or name is no text")
    if name and not is_below(name):
        raise ValueError(f"the name {name[:200]!r} is no path below a folder")
    # most are plain paths below the folder; normpath takes longer than everything else
    plain = image[0] != "/" and "//" not in image and "./" not in image and os.sep == "/"
    if plain:
        return name or os.path.splitext(image)[0], prefix + image
    place = image if is_uri(image) else os.path.normpath(os.path.join(prefix, image))
    return name or _named(place, prefix), place


def _named(place: str, prefix: str) -> str:
    """Return a name for an image that lies where the index says in another way: its path below the index, if it is."""
    if place.startswith(prefix):
        place = place[len(prefix) :]
    name = os.path.splitext(place.replace(os.sep, "/"))[0]
    if is_below(name):
        return name
    return f"elsewhere/{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"
