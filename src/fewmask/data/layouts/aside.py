"""Images that lie beside what a layout reads: those of a folder "unlabelled" are read too, others are told."""

from __future__ import annotations

from pathlib import Path
from typing import TypeGuard

from fewmask.data.files import hidden, image_files
from fewmask.data.index import Item
from fewmask.data.layouts.found import Found, single
from fewmask.data.layouts.sources import drawn_for, is_of_masks
from fewmask.data.layouts.tools import UNLABELLED
from fewmask.errors import DataError

_OPEN = ("folders", "beside", "voc with labelmap.txt")
"""Layouts of people's own folders: where an image is left out there, nobody meant it."""


def add_unlabelled(root: Path, found: Found) -> None:
    """Add the images of folders "unlabelled" that the layout has not read, whatever it is.

    Raises:
        DataError: one is called as an image that is there.
    """
    items = {item.name: item for role in found.roles.values() for item in role}
    known = {item.image for item in items.values()}
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and p.name.lower() in UNLABELLED):
        files = image_files(root, folder.name, [])
        images = {f"{folder.name}/{name}": single(paths, "images") for name, paths in sorted(files.items())}
        fresh = {name: path for name, path in images.items() if path not in known}
        if twice := sorted(fresh.keys() & items.keys()):
            raise DataError(f"two images are called {twice[0]!r}", where=folder, todo="rename one of them")
        found.roles["train"] += [Item(name, path) for name, path in fresh.items()]
        if fresh:
            found.notes.append(f"{len(fresh)} images in {folder.name!r}: unlabelled training images")


def tell_of_unused(root: Path, found: Found) -> None:
    """Add notes on images and masks in folders beside those that the layout reads, and that no index file may list."""
    if found.layout not in (*_OPEN, "voc") or next(root.glob("*.jsonl"), None) is not None:
        return
    items = [item for role in found.roles.values() for item in role]
    files = [path for item in items for path in (item.image, item.mask)]
    used = {path.relative_to(root).parts[0] for path in files if _lies_in(path, root)}
    others = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name not in used and not hidden(p.name)]
    files = {
        f"{other.name}/{name}": path
        for other in others for name, paths in sorted(image_files(root, other.name, []).items()) for path in paths
    }  # fmt: skip
    drawn = drawn_for(files, {item.name for item in items}) if any(item.mask for item in items) else []
    for folder in sorted({name.rpartition("/")[0] for name in drawn}):
        count = sum(name.rpartition("/")[0] == folder for name in drawn)
        todo = "data.yaml chooses with images: and masks:"
        found.notes.append(f"{count} masks of these images lie in {folder!r} too, and are not read; {todo}")
    unused = [path for name, path in files.items() if not is_of_masks(name)]
    if unused and found.layout in _OPEN:
        first = unused[0].relative_to(root).as_posix()
        found.notes.append(f"{len(unused)} images elsewhere in the folder are not used, first {first!r}")


def _lies_in(path: Path | None, root: Path) -> TypeGuard[Path]:
    return path is not None and path.is_relative_to(root)  # masks that are drawn from shapes lie in the cache
