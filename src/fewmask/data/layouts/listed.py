"""A data set that an index file lists: JSONL, ``{"image", "mask"?, "role"?, "group"?, "name"?}`` a line."""

from __future__ import annotations

import os
from pathlib import Path

from fewmask.config import load_json
from fewmask.data.files import is_below
from fewmask.data.index import ROLES, Item, Role
from fewmask.data.layouts.found import Found
from fewmask.data.roles import roles_by_folder
from fewmask.errors import DataError

SUFFIX = ".jsonl"
_KEYS = {"image", "mask", "role", "group", "name"}


def listed(root: Path, place: str, aside: Path | None = None) -> Found:
    """Read the images of an index file; its paths are relative to its own folder, and stay below ``root``.

    Where no line names a role, folders do as elsewhere; where some do, the others are training images.

    Args:
        root: the data folder.
        place: of the index file, in it.
        aside: a file in place of the folder's data.yaml: the index file may lie beside that instead.

    Raises:
        DataError: the file cannot be read, or a line is no such object.
    """
    file = root / place
    if aside is not None and not file.is_file():
        file = aside.parent / place
    items: dict[str, Item] = {}
    role_of: dict[str, Role] = {}
    home = os.path.join(os.path.abspath(root), "")
    try:
        with file.open("rb") as lines:
            for n, line in enumerate(lines, start=1):
                if line.strip():
                    item, role = _entry(line, file, home, n)
                    if item.name in items:
                        raise _bad(file, n, f"the name {item.name!r} stands there twice")
                    items[item.name] = item
                    if role is not None:
                        role_of[item.name] = role
    except OSError as error:
        raise DataError(f"cannot read the index: {error.strerror}", where=file, todo="check the path") from error
    if not items:
        raise DataError("the index names no image", where=file, todo="write one object a line")
    if not role_of:
        roles, notes = roles_by_folder(list(items.values()), root)
        return Found("index file", roles, notes)
    by_role: dict[Role, list[Item]] = {
        role: [i for i in items.values() if role_of.get(i.name, "train") == role] for role in ROLES
    }
    return Found("index file", by_role)


def _entry(line: bytes, file: Path, home: str, n: int) -> tuple[Item, Role | None]:
    try:
        entry = load_json(line)
    except ValueError as error:
        raise _bad(file, n, f"no JSON: {str(error)[:100]}") from error
    if not isinstance(entry, dict) or not all(v is None or isinstance(v, str) for v in entry.values()):
        raise _bad(file, n, "no object of texts")
    if unknown := sorted(entry.keys() - _KEYS):
        raise _bad(file, n, f"unknown key {unknown[0]!r}, known: {', '.join(sorted(_KEYS))}")
    role = entry.get("role")
    if role is not None and role not in ROLES:
        raise _bad(file, n, f"role {role!r}, must be one of {', '.join(ROLES)}")
    if not entry.get("image"):
        raise _bad(file, n, "no image")
    image = _inside(entry["image"], file, home, n)
    mask = _inside(entry["mask"], file, home, n) if entry.get("mask") else None
    if not is_below(name := entry.get("name") or os.path.splitext(entry["image"])[0]):
        if entry.get("name"):
            raise _bad(file, n, f"the name {name[:200]!r} is no path below a folder")
        name = os.path.splitext(os.path.relpath(image, home))[0].replace(os.sep, "/")
    return Item(name, image, mask, entry.get("group") or ""), role


def _inside(text: str, file: Path, home: str, n: int) -> Path:
    path = os.path.normpath(os.path.join(os.path.abspath(file.parent), text))
    if "\0" in text or not path.startswith(home):
        raise _bad(file, n, f"{text[:200]!r} leads out of the data folder")
    return Path(path)


def _bad(file: Path, n: int, what: str) -> DataError:
    return DataError(what, where=f"{file} line {n}", todo='write {"image": "a.jpg", "mask": "a.png"}, one a line')
