"""What commands write for labelling tools: masks of items, files below an output, copies of images."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from fewmask.batch import OPEN
from fewmask.data.files import place_below
from fewmask.data.index import DataIndex, Item
from fewmask.data.masks import read_mask
from fewmask.data.writers import WRITERS, Annotated, Tool
from fewmask.engine.files import ensure_writable, write_atomic, write_errors
from fewmask.errors import ConfigError

SUGGESTIONS = "suggestions.csv"
"""Stands in a folder that ``suggest`` has made, which holds a part of a data set."""


def annotated(item: Item, index: DataIndex) -> Annotated:
    """Return an item of a data set with its mask, as a writer takes it."""
    assert item.mask is not None, "masked items are annotated"
    return Annotated(item.name, f"{item.name}{item.image.suffix}", read_mask(item.mask, index.code, unlabelled=OPEN))


def refuse_names(tools: Iterable[Tool], classes: Sequence[str]) -> None:
    """Refuse classes that a tool cannot have, before anything is done.

    Raises:
        DataError: there is one.
        ConfigError: a package is missing.
    """
    for tool in tools:
        list(WRITERS[tool]((), classes, False))


def refuse_full(out: Path) -> None:
    """Refuse an output that holds anything.

    Raises:
        ConfigError: it does, or is a file.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError("the output holds files; nothing is written over", where=out, todo="give another -o")


def write_files(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files below a folder.

    Raises:
        WriteError: the disk refused.
    """
    ensure_writable(out)
    for name, content in files:
        path = place_below(out, name)
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)


def copy_images(items: Iterable[Item], out: Path) -> None:
    """Copy images to ``out/images``, under their names.

    Raises:
        WriteError: the disk refused.
    """
    for item in items:
        path = place_below(out / "images", f"{item.name}{item.image.suffix}")
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.image, path)
