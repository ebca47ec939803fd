"""Image folders of Hugging Face's ``datasets``: ``train/metadata.jsonl`` with two columns of files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from fewmask.data.files import EXTENSIONS, image_files
from fewmask.data.index import Item, Role
from fewmask.data.layouts.found import Found
from fewmask.data.roles import role_folder
from fewmask.errors import DataError

_TABLES = ("metadata.jsonl", "metadata.csv")
_IMAGE = "file_name"
_MASKS = ("annotation", "mask", "label", "segmentation", "labels", "masks", "annotations", "segmentation_mask")


def is_huggingface(root: Path) -> bool:
    """Return whether a folder, or one in it, has such a table with a column of masks."""
    try:
        return any(_column(row) for path in _tables(root) for row in islice(_rows(path), 100))
    except DataError:  # another file of this name
        return False


def huggingface(root: Path) -> Found:
    """Read the tables: ``file_name`` (or image_file_name) and annotation_file_name, mask_file_name or the like.

    Raises:
        DataError: a table names a file that is not there, or leads out of the folder.
    """
    items: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    known, notes, masks = image_files(root, ".", []), list[str](), set[Path]()
    listed = set[Path]()
    for path in _tables(root):
        role = role_folder(f"{path.parent.relative_to(root).as_posix()}/x") or "train"
        for n, row in enumerate(_rows(path), start=1):
            image = _file(row.get(_IMAGE) or row.get(f"image_{_IMAGE}"), path, n)
            column = _column(row)
            mask = _file(row[column], path, n) if column else None
            if image is None or image in listed:
                raise DataError(f"row {n} names {'no image' if image is None else 'an image again'}", where=path)
            listed.add(image)
            masks |= {mask} if mask is not None else set()
            items[role].append(Item(image.relative_to(root).with_suffix("").as_posix(), image, mask))
    spare = [path for paths in known.values() for path in paths if path not in listed and path not in masks]
    if spare:
        notes.append(f"{len(spare)} images stand in no table and are left out, first {spare[0].relative_to(root)}")
    return Found("huggingface", items, notes)


def refuse_packed(root: Path) -> None:
    """Do nothing unless a folder holds tables with images in their cells.

    Raises:
        DataError: it does.
    """
    places = (root.glob(f"{depth}*{kind}") for depth in ("", "*/", "*/*/") for kind in (".parquet", ".arrow"))
    first = next((path for found in places for path in sorted(found)), None)
    if first is not None:
        what = f"the images are cells of tables ({first.suffix}), and only image files are read"
        raise DataError(what, where=first, todo="write them as files, as docs/data.md says under Parquet and Arrow")


def _tables(root: Path) -> list[Path]:
    return [p for folder in [root, *sorted(root.glob("*/"))] for t in _TABLES if (p := folder / t).is_file()]


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            if path.suffix == ".csv":
                yield from csv.DictReader(lines)
                return
            for line in filter(str.strip, lines):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError("holds a line that is no object", where=path, todo="mend it")
                yield row
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise DataError(f"is no such table: {str(error)[:200]}", where=path, todo="mend it") from error


def _column(row: Mapping[str, Any]) -> str | None:
    """Return the column of the mask, where this row has one: "label" may be anything, and a mask is an image."""
    names = (key for name in _MASKS for key in (f"{name}_{_IMAGE}", name))
    return next((key for key in names if Path(str(row.get(key) or "")).suffix.lower() in EXTENSIONS), None)


def _file(value: Any, table: Path, n: int) -> Path | None:
    """Return the file that a cell names, below the table's folder."""
    if not value:
        return None
    path = table.parent / str(value)
    if not path.resolve().is_relative_to(table.parent.resolve()):
        raise DataError(f"row {n} leads out of the folder: {str(value)!r}", where=table, todo="copy the file here")
    if not path.is_file():
        raise DataError(f"row {n} names {str(value)!r}, which is not there", where=table, todo="mend the table")
    return path
