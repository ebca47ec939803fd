"""Datumaro's own format (CVAT exports it, too): ``annotations/ROLE.json`` with ``dm_format_version``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewmask.batch import IGNORE
from fewmask.data.datayaml import check_names
from fewmask.data.files import image_files
from fewmask.data.index import Item, Role
from fewmask.data.layouts.drawn import BACKGROUND, Drawing, Shape, draw
from fewmask.data.layouts.found import VOID, Found, read_json, single
from fewmask.data.layouts.names import Names
from fewmask.data.roles import role_folder
from fewmask.errors import DataError

_SILENT = ("label", "caption", "bbox", "points", "polyline")
"""Kinds of annotation that say nothing of pixels; where an image has no others, it has no mask."""


def is_datumaro(root: Path) -> bool:
    """Return whether a folder has files of this format."""
    return bool(_files(root))


def datumaro(root: Path) -> Found:
    """Read masks and polygons; the name of a file is the role of its images, others are training images.

    Raises:
        DataError: a file is damaged, or names images that are not here, or its files disagree.
        ConfigError: pycocotools is not installed.
    """
    images = image_files(root, "images", [])
    names, notes, lost = Names(images, root), list[str](), list[str]()
    classes: tuple[str, ...] | None = None
    masks, roles = dict[str, Path](), dict[str, Role]()
    for path in _files(root):
        tree = read_json(path)
        try:
            mine, kinds = _classes([str(label["name"]) for label in tree["categories"]["label"]["labels"]], path)
            drawings = [one for item in tree["items"] if (one := _drawing(item, kinds, names, path, lost)) is not None]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"an item lacks {error}", where=path, todo="export it again") from error
        if classes is not None and mine != classes:
            raise DataError("has other labels than the file before it", where=path, todo="export all with the same")
        if twice := {d.name for d in drawings} & masks.keys():
            raise DataError(f"{min(twice)!r} is annotated in two files", where=path, todo="take one of them away")
        classes, role = mine, role_folder(f"{path.stem}/x") or "train"
        masks |= draw(drawings, [path.read_bytes()], path)
        roles |= dict.fromkeys((d.name for d in drawings), role)
    if lost:
        notes.append(f"{len(lost)} annotated images are not here, first {lost[0]!r}")
    if not masks or classes is None:
        raise DataError("no image here is annotated", where=root, todo="export with the option to save images")
    by_role: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    for name, paths in sorted(images.items()):
        by_role[roles.get(name) or role_folder(name) or "train"].append(
            Item(name, single(paths, "images"), masks.get(name))
        )
    return Found("datumaro", by_role, notes, classes)


def _files(root: Path) -> list[Path]:
    found = []
    for path in sorted((root / "annotations").glob("*.json")):
        with path.open("rb") as file:
            if b'"dm_format_version"' in file.read(4096):
                found.append(path)
    return found


def _classes(labels: Sequence[str], path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """Return class names, background first, and label id to class index."""
    named = [name for name in labels if name.lower() not in (BACKGROUND, *VOID)]
    try:
        classes = check_names([BACKGROUND, *named])
    except ValueError as error:
        raise DataError(f"labels: {error}", where=path, todo="rename them") from error
    special = {BACKGROUND: 0} | dict.fromkeys(VOID, IGNORE)
    return classes, {i: special[n.lower()] if n.lower() in special else classes.index(n) for i, n in enumerate(labels)}


def _drawing(item: Any, kinds: dict[int, int], names: Names, path: Path, lost: list[str]) -> Drawing | None:
    """Return what to draw of one image; None where nobody drew."""
    shapes = []
    for n, one in enumerate(item["annotations"]):
        label, level = f"annotation {n + 1}", int(one.get("z_order", 0))
        if one["type"] in _SILENT:
            continue
        if one["type"] == "mask":
            shapes.append(Shape(kinds[one["label_id"]], one["rle"], label, level))
        elif one["type"] == "polygon":
            shapes.append(Shape(kinds[one["label_id"]], [one["points"]], label, level))
        else:
            raise DataError(
                f"{label} of {item['id']!r} is of type {one['type']}", where=path, todo="export masks or polygons"
            )
    if not shapes:
        return None
    file = str(item["image"]["path"])
    if (name := names.find(file, path)) is None:
        lost.append(file)
        return None
    height, width = (int(v) for v in item["image"]["size"])
    return Drawing(name, height, width, shapes)
