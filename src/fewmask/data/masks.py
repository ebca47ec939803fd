"""Reading image and mask files honestly: nothing is truncated, rescaled or guessed in silence.

What becomes of an image:

========================================= =========================================================
stored as                                 read as
========================================= =========================================================
RGB                                       as it is
grey, 1-bit, palette                      RGB, exact
alpha channel, opaque everywhere          RGB, the channel is dropped
alpha channel, transparent somewhere      DataError: what lies under it is undefined
16-bit, float, CMYK, Lab, several frames  DataError: needs channels that are not read yet
========================================= =========================================================

Colour profiles are not applied. The EXIF orientation of JPEG, PNG and WEBP is applied only where it is asked
for; that of TIFF is part of the format, and Pillow always applies it.

A mask is read as the ids that the file stores: palette indices (never the palette's greys), grey values,
bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin, Image, ImageFile, ImageOps, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.WebPImagePlugin import WebPImageFile

from fewmask.batch import IGNORE, MAX_CLASSES
from fewmask.data.index import NO_ID, Item, MaskCode
from fewmask.data.remote import fetch
from fewmask.errors import DataError, FewmaskError

MAX_PIXELS = 300_000_000
"""Largest image that is decoded; the size is looked up in the header, before anything is allocated."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
"""Extensions of files that are looked at, in lower case; the first bytes decide what a file is."""

_UNDECLARED = -1  # no class index
_LOSSLESS = ("PNG", "TIFF", "BMP")
_ORIENTATION = 274  # tag of EXIF and TIFF


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are decoded.

    Attributes:
        format: ``JPEG``, ``PNG``, ``TIFF``, ``BMP`` or ``WEBP``.
        mode: Pillow's mode, such as ``RGB``, ``L`` or ``P``.
        bits: stored bits a channel.
        height: pixels, as stored.
        width: pixels, as stored.
        orientation: EXIF orientation 1-8 that is not applied yet; 1 = upright. Of PNG only tags before the pixels.
    """

    format: str
    mode: str
    bits: int
    height: int
    width: int
    orientation: int


def read_header(path: Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Return what ``path`` says about itself, without decoding it.

    Raises:
        DataError: no such file, no image, or more than ``max_pixels`` pixels.
    """
    with _opened(path, max_pixels) as (_, header):
        return header


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels as stored, from the header alone.

    Raises:
        DataError: see :func:`read_header`.
    """
    header = read_header(path)
    return header.height, header.width


def item_size(item: Item) -> tuple[int, int]:
    """Return (height, width) of an item's image, turned where its data say so, from the header alone.

    Raises:
        DataError: see :func:`read_header`.
    """
    header = read_header(item.image)
    turned = item.upright and header.orientation >= 5
    return (header.width, header.height) if turned else (header.height, header.width)


def id_type(ids: Sequence[int]) -> type[np.uint8 | np.uint16]:
    """Return the type of masks that hold these class ids, and the ignored one."""
    return np.uint8 if max(ids) <= IGNORE else np.uint16


def read_image(path: Path, *, orient: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the image as uint8 [H, W, 3], RGB; see the table above for other kinds.

    Args:
        path: the file.
        orient: turn the pixels as the EXIF orientation says; otherwise they come as stored.
        max_pixels: refuse larger images before decoding.

    Raises:
        DataError: no such file, no image, truncated or corrupt, too large, or of a kind the table refuses.
    """
    with _opened(path, max_pixels) as (image, header):
        if header.bits > 8 or image.mode not in ("RGB", "L", "1", "P", "LA", "PA", "RGBA"):
            kind = f"{header.bits}-bit {image.mode}" if header.bits > 8 else image.mode
            raise DataError(f"{kind} images are not read yet", where=path, todo="convert it to 8-bit RGB or grey")
        _refuse_frames(image, path)
        image.load()
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if np.asarray(image.getchannel("A")).min() < 255:
                todo = "flatten it onto a background, or remove its alpha channel"
                raise DataError("image has transparent pixels: no defined colour", where=path, todo=todo)
        if orient and header.orientation > 1:
            image = ImageOps.exif_transpose(image)
        return np.array(image.convert("RGB"))


def read_item(item: Item) -> np.ndarray:
    """Return an item's image as uint8 [H, W, 3], RGB, turned where its data say so; see :func:`read_image`."""
    return read_image(item.image, orient=item.upright)


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
    with _opened(path, max_pixels) as (image, header):
        _refuse_frames(image, path)
        _refuse_inexact(image, header, path)
        image.load()
        colours = code.colours is not None
        stored = _stored_colours(image, path) if colours else _stored_ids(image, header, path)
    return _translate(stored, code, path, unlabelled)


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[tuple[ImageFile.ImageFile, Header]]:
    """Open an image of a known format; turn whatever its decoder throws into a DataError."""
    try:
        with _bytes(path) as file:
            first = file.read(32)
            file.seek(0)
            # the class itself, not Image.open: that one has a pixel limit of its own, global to the process
            image = _decoder(first, path)(file)
            pixels = image.height * image.width
            if pixels > max_pixels:
                what = f"image has {pixels} pixels, more than the limit of {max_pixels}"
                raise DataError(what, where=path, todo="cut it into smaller images")
            yield image, _header(image, first)
    except (FewmaskError, MemoryError):
        raise
    except FileNotFoundError as e:
        raise DataError("file does not exist", where=path) from e
    except Exception as e:  # damaged files make Pillow raise nearly anything
        raise DataError(f"cannot be read: {e}", where=path, todo="replace or remove this file") from e


def _bytes(path: Path) -> BinaryIO:
    if not isinstance(path, Path):
        return fetch(path)
    mode = path.stat().st_mode
    if not S_ISREG(mode) and not S_ISDIR(mode):  # a pipe would be waited for, a device never ends
        raise DataError("is no regular file", where=path, todo="replace or remove it")
    return path.open("rb")


def _decoder(first: bytes, path: Path) -> type[ImageFile.ImageFile]:
    if first.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if first.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if first.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return TiffImagePlugin.TiffImageFile
    if first.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return WebPImageFile
    what = "is no JPEG, PNG, TIFF, BMP or WEBP file" if first else "file is empty (0 bytes)"
    raise DataError(what, where=path, todo="replace or remove this file")


def _header(image: ImageFile.ImageFile, first: bytes) -> Header:
    bits = 8
    if isinstance(image, PngImagePlugin.PngImageFile):
        bits = first[24]  # of IHDR; Pillow does not tell, and stretches 2 and 4 bits to 8
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = max(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
    tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
    # not image.getexif(): for PNG that one decodes the pixels, to look for tags that follow them
    orientation = 1 if tiff else Image.Image.getexif(image).get(_ORIENTATION, 1)
    return Header(
        format=str(image.format),
        mode=image.mode,
        bits=bits,
        height=image.height,
        width=image.width,
        orientation=orientation if orientation in range(1, 9) else 1,
    )


def _refuse_frames(image: ImageFile.ImageFile, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise DataError(f"file holds {frames} frames or pages", where=path, todo="save one image a file")


def _refuse_inexact(image: ImageFile.ImageFile, header: Header, path: Path) -> None:
    """Refuse masks whose pixels need not be what their author stored."""
    lossy = header.format not in _LOSSLESS or image.info.get("compression") in ("jpeg", "webp")
    if lossy:
        what = f"masks may not be {header.format}: lossy compression changes ids at every border"
        raise DataError(what, where=path, todo="export the masks again as PNG")
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode in ("L", "1"):
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            what = "TIFF mask counts from white (PhotometricInterpretation 0), so its ids are ambiguous"
            raise DataError(what, where=path, todo="export the masks again as PNG")


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
        raise DataError(f"{image.mode} masks are not read", where=path, todo=todo)
    found = [_spell(c) for c in np.unique(_packed(np.asarray(image.convert("RGB"))))]
    shown = ", ".join(f'"{c}": ...' for c in found[:6]) + (", ..." if len(found) > 6 else "")
    raise DataError(
        f"{image.mode} mask with {len(found)} colours, and no colour map says which class each is",
        where=path,
        todo=f"write in data.yaml: colours: {{{shown}}} with an id or class name for each",
    )


def _stored_colours(image: ImageFile.ImageFile, path: Path) -> np.ndarray:
    """Return the colours that a mask shows, packed as int32 [H, W]."""
    if image.mode not in ("RGB", "RGBA", "P", "L", "1"):
        raise DataError(f"{image.mode} masks have no colours", where=path, todo="save it as an RGB PNG")
    if image.mode == "RGBA" and np.asarray(image.getchannel("A")).min() < 255:
        todo = "save the masks without alpha channel"
        raise DataError("colour mask has transparent pixels", where=path, todo=todo)
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
    """Return the error for the first undeclared id or colour."""
    y, x = np.unravel_index(int(bad.argmax()), bad.shape)
    value = int(stored[y, x])
    pixels = int((stored == value).sum())
    where_in = f"({pixels} pixels, first at x={x} y={y})"
    if code.colours is not None:
        colour = _spell(value)
        todo = f'add "{colour}" to colours in data.yaml, with a class or with ignore'
        return DataError(f"mask shows undeclared colour {colour} {where_in}", where=path, todo=todo)
    todo = f"declare it in data.yaml under classes, or write ignore: [{value}] there"
    return DataError(f"mask holds undeclared class id {value} {where_in}", where=path, todo=todo)
