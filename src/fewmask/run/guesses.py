"""Which masks that come back from a labelling tool are still what a model has guessed."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fewmask.batch import IGNORE, OPEN
from fewmask.data.writers import Annotated

FILE = "guesses.csv"
"""Beside suggestions: the name of each image, and a digest of its guessed mask."""


def guess_bytes(ones: Iterable[Annotated], classes: Sequence[str]) -> bytes:
    """Return the table of guessed masks."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "sha256"])
    writer.writerows([one.name, digest(one.mask, classes)] for one in ones)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_guesses(folders: Iterable[Path]) -> dict[str, str]:
    """Return name to digest, of the first of some folders that has the table; one that is damaged says nothing."""
    for path in (folder / FILE for folder in folders):
        if path.is_file():
            with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}
    return {}


def digest(mask_HW: np.ndarray, classes: Sequence[str]) -> str:
    """Return 64 hex digits that name a mask by the names of its classes: a tool may number them otherwise."""
    values = np.unique(mask_HW).tolist()
    others = {IGNORE: "void", OPEN: "unlabelled"}
    name_of = {i: f"class {classes[i]}" if i < len(classes) else others[i] for i in values}
    table = np.zeros(IGNORE + 1, np.uint8)
    names = sorted(name_of.values())
    for i, name in name_of.items():
        table[i] = names.index(name)
    found = hashlib.sha256("\n".join([repr(mask_HW.shape), *names]).encode("utf-8", "surrogateescape"))
    found.update(table[mask_HW].tobytes())
    return found.hexdigest()
