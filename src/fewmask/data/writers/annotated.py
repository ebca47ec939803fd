"""What writers share: one image's mask, and archives that are the same whenever they are made."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from fewmask.batch import IGNORE, MAX_CLASSES, OPEN
from fewmask.data.layouts.found import VOID as NOTHING
from fewmask.errors import DataError

BACKGROUND = "background"
VOID = "void"
UNLABELLED = "unlabelled"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can name


@dataclass(frozen=True)
class Annotated:
    """One image and its mask.

    Attributes:
        name: of the image, ``/`` as separator, without extension.
        file: the same with its extension.
        mask: class indices, uint8 [H, W]; 255 does not count. Where there are no more than 254 classes, 254 is what
            nobody has labelled yet.
    """

    name: str
    file: str
    mask: np.ndarray


def parts(mask_HW: np.ndarray, classes: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (label, bool [H, W]) of every class that the mask holds, except background, and of what is no class."""
    for i in map(int, np.unique(mask_HW)):
        if i == IGNORE:
            yield VOID, mask_HW == IGNORE
        elif is_open(i, classes):
            yield UNLABELLED, mask_HW == OPEN
        elif classes[i].lower() != BACKGROUND:
            yield classes[i], mask_HW == i


def is_open(i: int, classes: Sequence[str]) -> bool:
    """Return whether a class index stands for pixels that nobody has labelled yet."""
    return i == OPEN and len(classes) <= OPEN


def objects(area_HW: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the connected parts of an area (8 neighbours), bool [H, W], in reading order."""
    found = np.empty(area_HW.shape, dtype=np.int32)
    ndimage.label(area_HW, structure=np.ones((3, 3)), output=found)
    for i, box in enumerate(ndimage.find_objects(found), start=1):
        one = np.zeros(area_HW.shape, dtype=bool)
        one[box] = found[box] == i
        yield one


def labels_of(classes: Sequence[str], tool: str, *, lines: bool = False) -> list[str]:
    """Return the labels of shapes: every class but background.

    Args:
        classes: names of the classes.
        tool: what errors name.
        lines: labels stand in lines, before a colon.

    Raises:
        DataError: a class would not come back from the tool as it is.
    """
    folded = [name.lower() for name in classes]
    labels = [name for name in classes if name.lower() != BACKGROUND]
    for name in labels:
        if name.lower() in (*NOTHING, f"_{BACKGROUND}_"):
            what = "means that its pixels do not count" if name.lower() in NOTHING else "means background"
            raise _unwritable(f"a label {name!r} {what} there, and here it is a class", tool)
        if lines and (":" in name or name.startswith("#") or name != name.strip()):
            raise _unwritable(f"class {name!r} cannot stand in labelmap.txt, for its colon, # or blanks", tool)
    if folded.count(BACKGROUND) > 1:
        raise _unwritable("two classes are called background, which differ in case alone", tool)
    if len(labels) >= MAX_CLASSES:
        what = f"{len(labels)} labels and background are {len(labels) + 1} classes, and {MAX_CLASSES} are the most"
        raise _unwritable(what, tool, "merge classes in data.yaml, or use png, which keeps them")
    return labels


_RENAME = "rename the class in data.yaml or classes.txt, or use png, which keeps it"


def _unwritable(what: str, tool: str, todo: str = _RENAME) -> DataError:
    return DataError(what, where=tool, todo=todo)


def png_bytes(image: Image.Image) -> bytes:
    """Return a picture as a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def zip_bytes(files: Iterable[tuple[str, bytes]]) -> bytes:
    """Return an archive whose bytes depend on nothing but its files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files:
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
