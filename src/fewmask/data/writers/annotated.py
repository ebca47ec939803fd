"""What writers share: one image's mask, and archives that are the same whenever they are made."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from fewmask.batch import IGNORE

BACKGROUND = "background"
VOID = "void"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP can name


@dataclass(frozen=True)
class Annotated:
    """One image and its mask.

    Attributes:
        name: of the image, ``/`` as separator, without extension.
        file: the same with its extension.
        mask: class indices, uint8 [H, W]; 255 does not count.
    """

    name: str
    file: str
    mask: np.ndarray


def parts(mask_HW: np.ndarray, classes: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (label, bool [H, W]) of every class that the mask holds, except background, and of what does not count."""
    for i in map(int, np.unique(mask_HW)):
        if i == IGNORE:
            yield VOID, mask_HW == IGNORE
        elif classes[i].lower() != BACKGROUND:
            yield classes[i], mask_HW == i


def objects(area_HW: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the connected parts of an area (8 neighbours), bool [H, W], in reading order."""
    found = np.empty(area_HW.shape, dtype=np.int32)
    ndimage.label(area_HW, structure=np.ones((3, 3)), output=found)
    for i, box in enumerate(ndimage.find_objects(found), start=1):
        one = np.zeros(area_HW.shape, dtype=bool)
        one[box] = found[box] == i
        yield one


def labels_of(classes: Sequence[str]) -> list[str]:
    """Return the labels of shapes: every class but background."""
    return [name for name in classes if name.lower() != BACKGROUND]


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
