"""Folders that are read as no layout: what they look like, and what their owner can do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from fewmask.data.decode import EXTENSIONS
from fewmask.data.files import hidden
from fewmask.data.layouts import huggingface
from fewmask.data.layouts.found import DO, read_json
from fewmask.data.layouts.proposal import proposed
from fewmask.errors import DataError

_BRUSHES = re.compile(r"task-\d+-annotation-\d+-")
_LABELME = "masks with one list of classes for all: labelme2voc.py, of labelme's examples"
_RUN_LENGTHS = re.compile(r"(?im)\A[^\n]*\b(rle|encodedpixels)\b")
_PART = re.compile(r"[01](\.\d+)?|\.\d+")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar", ".xz")
_LOOKED_AT = 20  # JSON files, of which one a picture may be there


def refuse(root: Path) -> NoReturn:
    """Say what a folder looks like that no layout reads.

    Raises:
        DataError: always.
    """
    if not (root / "images").is_dir():
        huggingface.refuse_packed(root)
    seen = sorted(p.name for p in root.iterdir() if not hidden(p.name))
    if not seen:
        raise DataError("data folder is empty", where=root, todo=DO)
    packed = [name for name in seen if Path(name).suffix.lower() in _ARCHIVES]
    if packed and len(packed) == len(seen):
        raise DataError(f"holds the archive {packed[0]!r} and no images", where=root, todo="unpack it here")
    if (known := export_of(root)) is not None:
        raise DataError(f"the folder holds {known[0]}", where=root, todo=known[1])
    todo = DO
    if (places := proposed(root)) is not None:
        images, masks = places
        todo = f"if these are the images and their masks, write in data.yaml: images: {images!r} and masks: {masks!r}"
    if not (root / "images").is_dir():
        more = ", …" if len(seen) > 5 else ""
        raise DataError(f"no images folder; there is {', '.join(seen[:5])}{more}", where=root, todo=todo)
    if todo == DO:
        todo = "put masks into masks/, with the names of their images; fewmask labels import takes what a tool exports"
    raise DataError("no masks folder beside images", where=root, todo=todo)


def export_of(top: Path, beside_images: bool = True) -> tuple[str, str] | None:
    """Return what an export is that is not read, of a tool that can write one that is, and what to do; None = unknown.

    Args:
        top: the folder.
        beside_images: pictures in it are the images; else they may be masks, which are read.
    """
    pictures = [p.name for p in top.rglob("*") if p.suffix.lower() in EXTENSIONS]
    lone = beside_images or not pictures
    if lone and any(p.name == "annotations.xml" for p in top.rglob("*.xml")):
        return "CVAT's own XML", 'export "Segmentation mask 1.1" instead'
    if any(_BRUSHES.match(name) for name in pictures):
        return "a picture for each brush of Label Studio, which name no image", "export JSON instead"
    if any(p.name == "label_names.txt" and (p.parent / "label.png").is_file() for p in top.glob("*/label_names.txt")):
        return "masks of labelme_export_json, whose ids mean another class in each image", f"make {_LABELME}"
    for path in _some_json(top):
        if (known := _json_of(_tree(path), path, top, lone)) is not None:
            return known
    if lone and (lines := next((p for p in sorted(top.rglob("*.txt")) if _is_of_polygons(p)), None)) is not None:
        todo = "put Ultralytics' data.yaml here, with names: [first class, …] and train: images/train"
        return f"polygons of Ultralytics, such as {lines.name!r}, and no data.yaml that names their classes", todo
    if lone and (table := next((p for p in sorted(top.glob("*.csv")) if _RUN_LENGTHS.search(_head(p))), None)):
        todo = "draw a mask PNG of each image from them, and put these into masks/ under the names of the images"
        return f"run lengths in {table.name!r}, whose manner differs from contest to contest", todo
    return None


def _json_of(tree: object, path: Path, top: Path, lone: bool) -> tuple[str, str] | None:
    """Return what ``export_of`` does, of one JSON file."""
    if isinstance(tree, list) and tree and all(isinstance(t, Mapping) and "annotation_id" in t for t in tree):
        return "Label Studio's JSON-MIN", "export JSON instead"
    if not lone or not isinstance(tree, Mapping):
        return None
    if {"shapes", "imagePath"} <= tree.keys():
        return f"files of LabelMe, such as {path.name!r}", f"make COCO JSON of them (labelme2coco), or {_LABELME}"
    if {"objects", "size"} <= tree.keys() and not any(top.glob("*/masks_machine")):  # what the app has written
        todo = 'export it with the app "Export as masks" and write in data.yaml images: "*/img/*" and masks: '
        return "a project of Supervisely", todo + '"*/masks_machine/*", or with "Export to COCO"'
    images = tree["_via_img_metadata"] if isinstance(tree.get("_via_img_metadata"), Mapping) else tree
    if images and all(isinstance(one, Mapping) and {"filename", "regions"} <= one.keys() for one in images.values()):
        return f"regions of the VGG Image Annotator, such as {path.name!r}", "export them from there as COCO"
    return None


def _is_of_polygons(path: Path) -> bool:
    """Return whether a text file of Ultralytics outlines something: a class, and three points in parts of the image."""
    words = _head(path).partition("\n")[0].split()
    return len(words) >= 7 and len(words) % 2 == 1 and words[0].isdecimal() and all(map(_PART.fullmatch, words[1:]))


def _head(path: Path) -> str:
    """Return the beginning of a text file; "" where it is none."""
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("utf-8", "replace") if path.is_file() else ""
    except OSError:
        return ""


def _some_json(top: Path) -> Iterator[Path]:
    """Yield the files at the top, and some of those below, one a folder first: there may be one for each image."""
    yield from sorted(top.glob("*.json"))[:_LOOKED_AT]
    firsts: dict[Path, Path] = {}
    for path in sorted(top.rglob("*.json")):
        firsts.setdefault(path.parent, path)
    yield from [path for folder, path in sorted(firsts.items()) if folder != top][:_LOOKED_AT]


def _tree(path: Path) -> object:
    try:
        return read_json(path)
    except DataError:
        return None
