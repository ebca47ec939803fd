"""Masks that come from elsewhere: a folder, an archive or a file of a labelling tool, matched with a data folder."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewmask.batch import IGNORE
from fewmask.data.decode import MAX_PIXELS
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts import read_folder, with_classes
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.errors import DataError

_LARGEST = 50 * 2**30  # bytes that an archive may unpack to
_FILES = 1_000_000


def open_folder(root: Path, remember: bool = True) -> DataIndex:
    """Return a data set whose masks have all been looked at, nothing drawn for val.

    Args:
        root: the folder.
        remember: what is found, for the next command; not of a folder that is gone by then.

    Raises:
        DataError: it cannot be read, or a mask is not what it should be.
    """
    index = read_folder(root, val_fraction=0)
    counts = scan(masked(index), len(index.classes) or None, index.code, cache=None if remember else False)
    counts.raise_first()
    return with_classes(index, counts)


def open_source(source: Path, index: DataIndex, scratch: Path) -> DataIndex:
    """Read what a tool gave back; images that it lacks are those of the data folder.

    Args:
        source: a folder, a zip archive or a JSON file, in any layout that is read.
        index: the data folder.
        scratch: an empty folder, kept as long as the result is used.

    Raises:
        DataError: it cannot be read, or is no such thing.
    """
    if not source.exists():
        raise DataError("no such folder or archive", where=source, todo="check the path")
    if source.is_dir() and _has_images(source):
        return open_folder(source)
    inside = scratch / "source"
    if source.is_dir():
        shutil.copytree(source, inside)
    elif zipfile.is_zipfile(source):
        _unpack(source, inside)
    elif source.suffix.lower() == ".json":
        inside.mkdir()
        shutil.copyfile(source, inside / source.name)
    else:
        raise DataError("is no folder, zip archive or JSON", where=source, todo="give what the tool has exported")
    if not _has_images(inside):
        for item in (i for items in index.items.values() for i in items):
            link = inside / "images" / f"{item.name}{item.image.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                link.symlink_to(item.image.resolve())
            except OSError:  # Windows, without the right to make links
                shutil.copyfile(item.image, link)
    return open_folder(inside, remember=False)


def _has_images(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in ("images", "JPEGImages"))


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive, if it stays in the folder and is of a size that masks have."""
    with zipfile.ZipFile(archive) as file:
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        if len(entries) > _FILES or sum(entry.file_size for entry in entries) > _LARGEST:
            raise DataError("the archive is larger than masks are", where=archive, todo="unpack it and give the folder")
        for entry in entries:
            target = (folder / entry.filename).resolve()
            if not target.is_relative_to(folder.resolve()):
                what = f"{entry.filename[:200]!r} leads out of the archive"
                raise DataError(what, where=archive, todo="do not use it")
            if entry.file_size > 4 * MAX_PIXELS:
                what = f"{entry.filename[:200]!r} is larger than any mask"
                raise DataError(what, where=archive, todo="unpack it and give the folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with file.open(entry) as stream, target.open("wb") as out:
                shutil.copyfileobj(stream, out)


def masked(index: DataIndex) -> list[Item]:
    """Return the items with a mask, of every role, by name."""
    items = (item for found in index.items.values() for item in found if item.mask is not None)
    return sorted(items, key=lambda item: item.name)


def by_name(index: DataIndex) -> dict[str, Item]:
    """Return the items of every role by name."""
    return {item.name: item for found in index.items.values() for item in found}


class Translation:
    """Their masks in our classes; classes meet by name, whatever their case.

    Args:
        found: theirs.
        index: ours.
        source: what errors name.
    """

    def __init__(self, found: DataIndex, index: DataIndex, source: Path) -> None:
        self._found, self._index, self._source = found, index, source
        ours = {name.lower(): i for i, name in enumerate(index.classes)}
        self._table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self._unknown = np.zeros(IGNORE + 1, dtype=bool)
        for i, name in enumerate(found.classes):
            self._table[i] = ours.get(name.lower(), IGNORE)
            self._unknown[i] = name.lower() not in ours and name.lower() != "background"

    def read(self, item: Item) -> np.ndarray:
        """Return the mask of one of their items, our class indices uint8 [H, W].

        Raises:
            DataError: it holds a class that is none of ours.
        """
        assert item.mask is not None, "matched() gives masked items"
        mask = read_mask(item.mask, self._found.code)
        if self._unknown[mask].any():
            name = self._found.classes[int(mask[self._unknown[mask]][0])]
            raise DataError(
                f"class {name!r} is none of the data folder's ({', '.join(self._index.classes[:20])})",
                where=self._source, todo="rename it in the tool, or declare it in data.yaml",
            )  # fmt: skip
        return self._table[mask]


def matched(found: DataIndex, index: DataIndex) -> tuple[dict[str, Item], list[str]]:
    """Return their masked items by the name of our image, and the names of those that we do not have.

    Raises:
        DataError: two of them are of one image.
    """
    ours = by_name(index)
    ends: dict[str, list[str]] = {}
    for name in ours:
        ends.setdefault(name.rpartition("/")[2], []).append(name)
    out, unknown = dict[str, Item](), list[str]()
    for item in masked(found):
        short = item.name.removeprefix("images/")
        hits: Sequence[str] = [short] if short in ours else ends.get(short.rpartition("/")[2], [])
        if len(hits) != 1:
            unknown.append(item.name)
        elif hits[0] in out:
            raise DataError(f"two masks are of image {hits[0]!r}", where=found.root, todo="take one of them away")
        else:
            out[hits[0]] = item
    return out, unknown
