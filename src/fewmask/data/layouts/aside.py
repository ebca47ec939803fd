"""Images that lie beside what a layout reads: those of a folder "unlabelled" are read too, others are told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

from fewmask.data.files import hidden, image_files
from fewmask.data.index import Item
from fewmask.data.layouts.found import Found, single
from fewmask.data.layouts.sources import NO_MASKS, drawn_for
from fewmask.data.layouts.tools import UNLABELLED
from fewmask.data.roles import role_folder
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
    files = {
        f"{other.relative_to(root).as_posix()}/{name}": path
        for other in _others(root, items)
        for name, paths in sorted(image_files(root, other.relative_to(root).as_posix(), []).items()) for path in paths
    }  # fmt: skip
    drawn = drawn_for(files, {item.name for item in items}) if any(item.mask for item in items) else []
    for folder in sorted({name.rpartition("/")[0] for name in drawn}):
        count = sum(name.rpartition("/")[0] == folder for name in drawn)
        todo = "data.yaml chooses with images: and masks:"
        found.notes.append(f"{count} masks of these images lie in {folder!r} too, and are not read; {todo}")
    known = {*drawn}
    unused = {n: path for n, path in files.items() if n not in known and not {*n.lower().split("/")} & {*NO_MASKS}}
    if unused and found.layout in _OPEN:
        folders = ", ".join(map(repr, sorted({name.rpartition("/")[0] for name in unused})[:4]))
        first = next(iter(unused.values())).relative_to(root).as_posix()
        found.notes.append(
            f"{len(unused)} pictures in {folders} are not read, first {first!r} (a folder called 'unlabelled' would be)"
        )


def tell_of_lists(root: Path, found: Found) -> None:
    """Add a note on lists of roles beside folders of images that nothing asks for."""
    if found.layout not in ("folders", "beside"):
        return
    lists = {role: path.name for path in sorted(root.glob("*.txt")) if (role := role_folder(f"{path.stem}/x"))}
    if lists:
        roles = ", ".join(f"{role}: {name}" for role, name in lists.items())
        found.notes.append(f"lists beside the folders are not read; if they say the roles, write roles: {{{roles}}}")


def _others(root: Path, items: Sequence[Item]) -> list[Path]:
    """Return the folders that no file was read from: at the top, and where roles have folders inside, in these."""
    files = [path.relative_to(root).parts for item in items for path in (item.image, item.mask) if _lies_in(path, root)]
    used = {parts[0] for parts in files} | {parts[:2] for parts in files}
    inside = all(len(parts) > 2 for parts in files)
    tops = [p for p in sorted(root.iterdir()) if p.is_dir() and not hidden(p.name)]
    others = [p for p in tops if p.name not in used]
    for top in tops:
        if top.name in used and inside and role_folder(f"{top.name}/x"):
            others += [p for p in sorted(top.iterdir()) if p.is_dir() and (top.name, p.name) not in used]
    return others


def _lies_in(path: Path | None, root: Path) -> TypeGuard[Path]:
    return path is not None and path.is_relative_to(root)  # masks that are drawn from shapes lie in the cache
