"""Image folders of Hugging Face's ``datasets``: ``train/metadata.jsonl`` with two columns of files."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from fewmask.data.files import image_files
from fewmask.data.index import Item, Role
from fewmask.data.layouts.found import Found, read_text
from fewmask.data.roles import role_folder
from fewmask.errors import DataError

_TABLES = ("metadata.jsonl", "metadata.csv")
_IMAGE = "file_name"
_MASKS = ("annotation", "mask", "label", "segmentation", "labels", "masks", "annotations", "segmentation_mask")
_LARGEST = 2**30


def is_huggingface(root: Path) -> bool:
    """Return whether a folder, or one in it, has such a table with a column of masks."""
    return any(_column(row) for path in _tables(root) for row in _rows(path)[:100])


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


def _tables(root: Path) -> list[Path]:
    return [p for folder in [root, *sorted(root.glob("*/"))] for t in _TABLES if (p := folder / t).is_file()]


def _rows(path: Path) -> list[Mapping[str, Any]]:
    text = read_text(path, most=_LARGEST)
    if path.suffix == ".csv":
        return list(csv.DictReader(StringIO(text)))
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(f"is no JSON a line: {str(error)[:200]}", where=path, todo="mend it") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError("holds a line that is no object", where=path, todo="mend it")
    return rows


def _column(row: Mapping[str, Any]) -> str | None:
    """Return the column of the mask, where this row has one."""
    return next((key for name in _MASKS for key in (f"{name}_{_IMAGE}", name) if row.get(key)), None)


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
