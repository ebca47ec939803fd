"""Tables of classes and their colours that lie beside masks: class_dict.csv of Kaggle, label_colors.txt of CamVid."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from fewmask.data.colours import Colour
from fewmask.data.decode import MAX_PIXELS, opened
from fewmask.data.layouts.found import Found, colour_legend, colour_rows, id_legend, read_text
from fewmask.errors import DataError

COLOUR_TABLE = "label_colors.txt"
"""Of CamVid, and of tools that write other data sets in its manner or that of Cityscapes."""

CLASS_TABLES = ("class_dict.csv", "class_dict_seg.csv")
"""Lines name,r,g,b below a heading."""


def class_rows(root: Path) -> tuple[Path, list[tuple[str, Colour]]] | None:
    """Return the table in a folder and its (name, colour) in order; None where there is none.

    Raises:
        DataError: it cannot be read as one.
    """
    for name in (*CLASS_TABLES, COLOUR_TABLE):
        if (table := root / name).is_file():
            return table, colour_rows(table) if name == COLOUR_TABLE else _colours_of(table)
    return None


def name_by_table(root: Path, found: Found) -> None:
    """Give a folder of images and masks the classes of its table, in the way its first mask is spelled.

    Colours that a mask shows are those of the table; ids count its lines.

    Raises:
        DataError: the table cannot be read as one.
    """
    masks = [item.mask for items in found.roles.values() for item in items if item.mask is not None]
    if not masks or (told := class_rows(root)) is None:
        return
    table, rows = told
    if _shows_colours(min(masks), rows):
        found.classes, found.code = colour_legend(rows, table)
        how = "masks show their colours"
    else:
        found.classes, found.code = id_legend([name for name, _ in rows], table)
        how = "ids count its lines from 0"
    found.notes.append(f"classes are those of {table.name}; {how}")


def _shows_colours(mask: Path, rows: Sequence[tuple[str, Colour]]) -> bool:
    """Return whether a mask spells colours; one with a palette does unless that has each class's colour at its line."""
    try:
        with opened(mask, MAX_PIXELS) as (image, _):
            if image.mode != "P":
                return image.mode in ("RGB", "RGBA")
            palette = np.reshape(image.getpalette("RGB") or [], (-1, 3)).tolist()
            used = np.unique(np.asarray(image)).tolist()
    except DataError:
        return False  # the scan tells what is wrong with it
    return any(i >= len(rows) or i >= len(palette) or palette[i] != [*rows[i][1]] for i in used)


def _colours_of(path: Path) -> list[tuple[str, Colour]]:
    """Return (name, colour) of a table name,r,g,b."""
    out = []
    text = read_text(path)
    head = text.partition("\n")[0]
    delimiter = ";" if head.count(";") > head.count(",") else ","  # as spreadsheets of some countries write it
    for row in list(csv.reader(StringIO(text), skipinitialspace=True, delimiter=delimiter))[1:]:
        if row:
            try:
                red, green, blue = (int(v) for v in row[1:4])
            except ValueError as error:
                raise DataError("is no table of name,r,g,b", where=path, todo="mend it") from error
            out.append((row[0].strip(), (red, green, blue)))
    return out
