"""Reading mask files honestly: nothing is truncated, rescaled or guessed in silence.

A mask is read as the ids that the file stores: palette indices (never the palette's greys), grey values, bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import ImageFile, TiffImagePlugin

from fewmask.batch import IGNORE, MAX_CLASSES, OPEN
from fewmask.data.decode import MAX_PIXELS, Header, opened, refuse_frames
from fewmask.data.findings import BadFile
from fewmask.data.index import NO_ID, MaskCode
from fewmask.data.patience import patient
from fewmask.errors import DataError

_UNDECLARED = -1  # no class index
_LOSSLESS = ("PNG", "TIFF", "BMP", "GIF")
_PUT_BACK = "if the file was changed since training began, put the old one back, or train anew with --init"


def id_type(ids: Sequence[int]) -> type[np.uint8 | np.uint16]:
    """Return the type of masks that hold these class ids, and the ignored one."""
    return np.uint8 if max(ids) <= IGNORE else np.uint16


def nothing_id(ids: Sequence[int], ignored: Sequence[int] = ()) -> int:
    """Return an id for pixels that have no class: 255, unless a class has it.

    Args:
        ids: of the classes.
        ignored: ids that are declared not to count; the first one is taken where 255 is a class, else a free id.
    """
    if IGNORE not in ids:
        return IGNORE
    return next(iter(ignored), next(i for i in [*range(IGNORE, -1, -1), *range(65536)] if i not in ids))


def spelling(ids: Sequence[int], nothing: int = IGNORE) -> np.ndarray:
    """Return what mask files hold for each class index, [256]: the ids of the classes, ``nothing`` for the others."""
    table = np.full(IGNORE + 1, nothing, dtype=id_type([*ids, nothing]))
    table[: len(ids)] = ids
    return table


def read_mask(path: Path, code: MaskCode, *, max_pixels: int = MAX_PIXELS, unlabelled: int = IGNORE) -> np.ndarray:
    """Return the mask as class indices, uint8 [H, W]; 255 = ignore.

    A stored id goes through ``code``: its colour map, then its mapping; without a mapping, an id is its own
    class index. Ids of ``code.ignore`` become 255, so does 255 itself unless the mapping learns it. With a
    colour map, palette and grey files are read by the colours they show.

    Ids above the number of classes are *not* an error here, where that number is not known: see ``scan``.

    Args:
        path: the file.
        code: how masks spell classes.
        max_pixels: refuse larger masks before decoding.
        unlabelled: what pixels with the id ``code.unlabelled`` become: IGNORE or OPEN.

    Raises:
        DataError: no such file, no image, truncated or corrupt; a lossy format; colours without a colour map,
            or a colour that is not in it; an id above 254 or outside the mapping.
    """
    return decode_mask(path, code, max_pixels=max_pixels, unlabelled=unlabelled)[1]


@patient
def decode_mask(
    path: Path, code: MaskCode, *, max_pixels: int = MAX_PIXELS, unlabelled: int = IGNORE
) -> tuple[Header, np.ndarray]:  # fmt: skip
    """Return what a mask file says about itself, and what ``read_mask`` returns, from one look at it.

    Raises:
        DataError: see ``read_mask``.
    """
    with opened(path, max_pixels) as (image, header):
        refuse_frames(image, path)
        _refuse_inexact(image, header, path)
        image.load()
        colours = code.colours is not None
        stored = _stored_colours(image, path) if colours else _stored_ids(image, header, path)
    return header, _translate(stored, code, path, unlabelled)


def read_known(
    path: Path, code: MaskCode, classes: int, size: tuple[int, int], *, unlabelled: int = IGNORE
) -> np.ndarray:  # fmt: skip
    """Return what ``read_mask`` does, of a file that fits what is known of it.

    All files are looked at before anything is trained; this is for those that somebody writes anew meanwhile. An id
    that no class has would read foreign memory in a loss on a GPU, a mask of another size would label other pixels.

    Args:
        path: the file.
        code: how masks spell classes.
        classes: K; class indices are below it.
        size: (height, width) of the image, or of the grid that was labelled.
        unlabelled: see ``read_mask``.

    Raises:
        DataError: see ``read_mask``; it has another size, or holds another id.
    """
    mask = read_mask(path, code, unlabelled=unlabelled)
    if mask.shape != size:
        what = f"mask is {mask.shape[1]}x{mask.shape[0]}, and should be {size[1]}x{size[0]} as its image"
        raise DataError(what, where=path, todo=_PUT_BACK)
    nothing = mask == IGNORE if unlabelled != OPEN else mask >= OPEN
    if (bad := (mask >= classes) & ~nothing).any():
        value, _, places = _first(mask, bad)
        todo = f"{classes} classes are known; {_PUT_BACK}"
        raise DataError(f"mask holds class index {value}, which no class has {places}", where=path, todo=todo)
    return mask


def _first(stored: np.ndarray, bad: np.ndarray) -> tuple[int, tuple[int, int], str]:
    """Return the value of the first bad pixel, its (x, y), and a text on where and how often the value stands."""
    y, x = map(int, np.unravel_index(int(bad.argmax()), bad.shape))
    value = int(stored[y, x])
    return value, (x, y), f"({(stored == value).sum()} pixels, first at x={x} y={y})"


def _refuse_inexact(image: ImageFile.ImageFile, header: Header, path: Path) -> None:
    """Refuse masks whose pixels need not be what their author stored."""
    lossy = header.format not in _LOSSLESS or image.info.get("compression") in ("jpeg", "webp")
    if lossy:
        what = f"masks may not be {header.format}: lossy compression changes ids at every border"
        todo = "export the masks again as PNG"
        raise BadFile("lossy_mask", what, where=path, todo=todo, value=header.format)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode in ("L", "1"):
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            what = "TIFF mask counts from white (PhotometricInterpretation 0), so its ids are ambiguous"
            raise BadFile("pixel_format", what, where=path, todo="export the masks again as PNG", value=header.format)


_OPAQUE = "save the masks without alpha channel"


def _stored_ids(image: ImageFile.ImageFile, header: Header, path: Path) -> np.ndarray:
    """Return the ids of an index mask, uint8 or int32 [H, W]."""
    if image.mode in ("P", "1"):
        return np.array(image, dtype=np.uint8)
    if image.mode == "L":
        stretch = 255 // (2 ** min(header.bits, 8) - 1)  # Pillow shows 2-bit 3 and 4-bit 15 as 255
        return np.array(image) // np.uint8(stretch)
    if image.mode.startswith("I"):
        return np.array(image).astype(np.int32)
    if image.mode not in ("RGB", "RGBA"):
        todo = "save it as an index PNG: one channel, value = class id"
        kind = "masks of floating-point numbers" if image.mode == "F" else f"{image.mode} masks"
        todo += "; a GeoTIFF: gdal_translate -ot Byte IN OUT" if image.mode == "F" else ""
        raise BadFile("pixel_format", f"{kind} are not read", where=path, todo=todo, value=image.mode)
    shown_HW3 = np.asarray(image.convert("RGB"))
    opaque = image.mode == "RGB" or np.asarray(image.getchannel("A")).min() == 255
    if opaque and (shown_HW3 == shown_HW3[..., :1]).all():  # an index mask that some program saved with three channels
        return shown_HW3[..., 0].copy()
    if not opaque:  # first, since colours that are declared do not help
        raise BadFile("transparency", "colour mask has transparent pixels", where=path, todo=_OPAQUE)
    found = [_spell(c) for c in np.unique(_packed(shown_HW3))]
    shown = ", ".join(f'"{c}": ...' for c in found[:6]) + (", ..." if len(found) > 6 else "")
    raise BadFile(
        "undeclared_colour", f"{image.mode} mask with {len(found)} colours, and no colour map says which class each is",
        where=path,
        todo=f"write in data.yaml: colours: {{{shown}}} with an id for each, and classes: with their names by id",
        value=found[0],
    )  # fmt: skip


def _stored_colours(image: ImageFile.ImageFile, path: Path) -> np.ndarray:
    """Return the colours that a mask shows, packed as int32 [H, W]."""
    if image.mode not in ("RGB", "RGBA", "P", "L", "1"):
        todo = "save it as an RGB PNG"
        raise BadFile("pixel_format", f"{image.mode} masks have no colours", where=path, todo=todo, value=image.mode)
    if image.mode == "RGBA" and np.asarray(image.getchannel("A")).min() < 255:
        raise BadFile("transparency", "colour mask has transparent pixels", where=path, todo=_OPAQUE)
    return _packed(np.asarray(image.convert("RGB")))


def _packed(rgb: np.ndarray) -> np.ndarray:
    wide = rgb.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _spell(packed: int) -> str:
    return f"{packed >> 16},{packed >> 8 & 255},{packed & 255}"


def _translate(stored: np.ndarray, code: MaskCode, path: Path, unlabelled: int) -> np.ndarray:
    """Return class indices, uint8 [H, W], for stored ids or packed colours."""
    if code == MaskCode() and stored.dtype == np.uint8:
        return stored
    if stored.dtype == np.uint8:
        table = np.array([_class_of(i, code, unlabelled) for i in range(256)])
        classes = table[stored]
    else:
        values, inverse = np.unique(stored, return_inverse=True)
        look_up = _class_of if code.colours is None else _class_of_colour
        classes = np.array([look_up(int(v), code, unlabelled) for v in values])[inverse.reshape(stored.shape)]
    if (classes == _UNDECLARED).any():
        raise _undeclared_error(stored, classes == _UNDECLARED, code, path)
    return classes.astype(np.uint8)


def _class_of(stored_id: int, code: MaskCode, unlabelled: int) -> int:
    """Return the class index of a stored id, or _UNDECLARED."""
    if stored_id == code.unlabelled:
        return unlabelled
    mapping = _as_dict(code.mapping)
    if stored_id in mapping:
        return mapping[stored_id]
    if stored_id == IGNORE or stored_id in code.ignore:
        return IGNORE
    return stored_id if code.mapping is None and 0 <= stored_id < MAX_CLASSES else _UNDECLARED


def _class_of_colour(packed: int, code: MaskCode, unlabelled: int) -> int:
    colour = (packed >> 16, packed >> 8 & 255, packed & 255)
    stored_id = _as_dict(code.colours).get(colour)
    if stored_id is None:
        return _UNDECLARED
    return IGNORE if stored_id == NO_ID else _class_of(stored_id, code, unlabelled)


@lru_cache(maxsize=16)
def _as_dict(pairs: tuple | None) -> dict:
    return dict(pairs or ())


def _undeclared_error(stored: np.ndarray, bad: np.ndarray, code: MaskCode, path: Path) -> DataError:
    """Return the error for the first undeclared id or colour, and how many others there are."""
    value, place, places = _first(stored, bad)
    more = len(np.unique(stored[bad])) - 1
    if code.colours is not None:
        colour = _spell(value)
        todo = f'add "{colour}" to colours in data.yaml, with a class or with ignore'
        what = f"mask shows undeclared colour {colour} {places}" + (f", and {more} others" if more else "")
        return BadFile("undeclared_colour", what, where=path, todo=todo, value=colour, position=place)
    todo = f"declare it in data.yaml under classes, or write ignore: [{value}] there"
    what = f"mask holds undeclared class id {value} {places}" + (f", and {more} others" if more else "")
    return BadFile("undeclared_id", what, where=path, todo=todo, value=value, position=place)
