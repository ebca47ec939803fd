"""Masks that come from elsewhere: a folder, an archive or a file of a labelling tool, matched with a data folder."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fewmask.batch import IGNORE
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts import read_folder, with_classes
from fewmask.data.masks import MAX_PIXELS, read_mask
from fewmask.data.scan import scan
from fewmask.errors import DataError

_LARGEST = 50 * 2**30  # bytes that an archive may unpack to
_FILES = 1_000_000


def open_folder(root: Path) -> DataIndex:
    """Return a data set whose masks have all been looked at, nothing drawn for val.

    Raises:
        DataError: it cannot be read, or a mask is not what it should be.
    """
    index = read_folder(root, val_fraction=0)
    counts = scan(masked(index), len(index.classes) or None, index.code)
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
    if source.is_dir() and any(source.rglob("images")):
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
    if not any((inside / name).is_dir() for name in ("images", "JPEGImages")):
        for item in (i for items in index.items.values() for i in items):
            link = inside / "images" / f"{item.name}{item.image.suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                link.symlink_to(item.image.resolve())
            except OSError:  # Windows, without the right to make links
                shutil.copyfile(item.image, link)
    return open_folder(inside)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip archive, if it stays in the folder and is of a size that masks have."""
    with zipfile.ZipFile(archive) as file:
        entries = [entry for entry in file.infolist() if not entry.is_dir()]
        if len(entries) > _FILES or sum(entry.file_size for entry in entries) > _LARGEST:
            raise DataError("the archive is larger than masks are", where=archive, todo="unpack it and give the folder")
        for entry in entries:
            target = (folder / entry.filename).resolve()
            if not target.is_relative_to(folder.resolve()) or entry.file_size > 4 * MAX_PIXELS:
                raise DataError(
                    f"{entry.filename[:200]!r} leads out of the archive", where=archive, todo="do not use it"
                )
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


def class_table(found: DataIndex, index: DataIndex, source: Path) -> np.ndarray:
    """Return their class index to ours, uint8 [256]; classes meet by name, whatever their case.

    Raises:
        DataError: a class that they use is none of ours.
    """
    ours = {name.lower(): i for i, name in enumerate(index.classes)}
    table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
    used = set(_used(found))
    for i, name in enumerate(found.classes):
        if name.lower() in ours:
            table[i] = ours[name.lower()]
        elif i in used and name.lower() != "background":
            raise DataError(
                f"class {name!r} is none of the data folder's ({', '.join(index.classes[:20])})", where=source,
                todo="rename it in the tool, or declare it in data.yaml",
            )  # fmt: skip
    return table


def _used(index: DataIndex) -> Iterator[int]:
    for item in masked(index):
        assert item.mask is not None
        yield from np.unique(read_mask(item.mask, index.code)).tolist()


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
