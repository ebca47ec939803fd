"""Opening image files: the first bytes decide what a file is, and its size is known before anything is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO

from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL.WebPImagePlugin import WebPImageFile

from fewmask.data.findings import BadFile
from fewmask.data.patience import patient
from fewmask.data.remote import fetch
from fewmask.errors import FewmaskError

MAX_PIXELS = 300_000_000
"""Largest image that is decoded; the size is looked up in the header, before anything is allocated."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp")
"""Extensions of files that are looked at, in lower case; the first bytes decide what a file is."""

_ORIENTATION = 274  # tag of EXIF and TIFF
_DATE, _EXIF, _ORIGINAL = 306, 0x8769, 36867  # when a file changed; EXIF's own tags, and among them when it was taken
_SUBFILE, _SMALLER, _MASK = 254, 1, 4  # tag of what a page of a TIFF is, and its bits
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class OtherBands(BadFile):
    """A TIFF file whose bands are of a kind that Pillow does not know."""


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are decoded.

    Attributes:
        format: ``JPEG``, ``PNG``, ``TIFF``, ``BMP``, ``GIF`` or ``WEBP``.
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
    with opened(path, max_pixels) as (_, header):
        return header


def taken(path: Path) -> datetime | None:
    """Return when a photo was taken, by its EXIF (DateTimeOriginal, else DateTime); None where it does not say.

    A file that cannot be read says nothing here: whoever reads its pixels says so.
    """
    try:
        texts = _times(path)
    except FewmaskError:
        return None
    for text in texts:  # cameras without a clock write blanks or zeros
        with suppress(ValueError):
            return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    return None


@patient
def _times(path: Path) -> list[object]:
    """Return what the EXIF of a photo says of its time, the better word first."""
    with opened(path, MAX_PIXELS) as (image, header):
        if header.format == "PNG" and "exif" not in image.info:
            return []  # Pillow would decode all pixels to look behind them
        tags = image.getexif()
        return [tags.get_ifd(_EXIF).get(_ORIGINAL), tags.get(_DATE)]


@contextmanager
def opened(path: Path, max_pixels: int) -> Iterator[tuple[ImageFile.ImageFile, Header]]:
    """Open an image of a known format; turn whatever its decoder throws into a DataError."""
    with readable(path) as file:
        first = file.read(32)
        file.seek(0)
        # the class itself, not Image.open: that one has a pixel limit of its own, global to the process
        image = _image(_decoder(first, path), file, path)
        refuse_large(image.height * image.width, max_pixels, path)
        yield image, _header(image, first)


@contextmanager
def readable(path: Path) -> Iterator[BinaryIO]:
    """Open a file, here or elsewhere; turn whatever is raised while it is read into a DataError."""
    try:
        with _bytes(path) as file:
            yield file
    except (FewmaskError, MemoryError):
        raise
    except FileNotFoundError as e:
        todo = "put it back, or take away the link or the line that names it"
        raise BadFile("missing_file", "file does not exist", where=path, todo=todo) from e
    except Exception as e:  # damaged files make Pillow and GDAL raise nearly anything
        raise BadFile("damaged_file", f"cannot be read: {e}", where=path, todo="replace or remove this file") from e


def _bytes(path: Path) -> BinaryIO:
    if not isinstance(path, Path):
        return fetch(path)
    mode = path.stat().st_mode
    if not S_ISREG(mode) and not S_ISDIR(mode):  # a pipe would be waited for, a device never ends
        raise BadFile("damaged_file", "is no regular file", where=path, todo="replace or remove it")
    return path.open("rb")


def refuse_large(pixels: int, most: int, path: Path) -> None:
    """Do nothing if an image has no more than so many pixels.

    Raises:
        DataError: it has more.
    """
    if pixels > most:
        what = f"image has {pixels} pixels, more than the limit of {most}"
        raise BadFile("too_large", what, where=path, todo="cut it into smaller images", value=pixels)


def _decoder(first: bytes, path: Path) -> type[ImageFile.ImageFile]:
    if first.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile
    if first.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile
    if first.startswith(_TIFF):
        return TiffImagePlugin.TiffImageFile
    if first.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile
    if first.startswith((b"GIF87a", b"GIF89a")):
        return GifImagePlugin.GifImageFile
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return WebPImageFile
    todo = "replace or remove this file"
    if not first:
        raise BadFile("empty_file", "file is empty (0 bytes)", where=path, todo=todo)
    raise BadFile("unknown_format", "is no JPEG, PNG, TIFF, BMP, GIF or WEBP file", where=path, todo=todo)


def _image(decoder: type[ImageFile.ImageFile], file: BinaryIO, path: Path) -> ImageFile.ImageFile:
    undeclared = OtherBands("pixel_format", "bands of a kind that is not read without declaration", where=path)
    try:
        image = decoder(file)
    except (
        SyntaxError
    ) as e:  # what Pillow raises for everything that it does not know; of an IndexError: bands in planes
        unknown = "pixel mode" in str(e) or isinstance(e.__cause__, IndexError)
        if decoder is TiffImagePlugin.TiffImageFile and unknown:
            raise undeclared from e
        raise
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode != "P" and len(image.getbands()) == 1:
        if image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) > 1:  # Pillow would read the first band as a grey image
            raise undeclared
    return image


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as a TIFF does.

    Raises:
        DataError: it cannot be read.
    """
    with readable(path) as file:
        return file.read(4) in _TIFF


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


def _pictures(image: Image.Image) -> int:
    """Return how many frames or pages a file holds; a TIFF's smaller versions and masks of a picture are none."""
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or not isinstance(image, TiffImagePlugin.TiffImageFile):
        return frames
    pages = 0
    for n in range(frames):
        image.seek(n)
        pages += not image.tag_v2.get(_SUBFILE, 0) & (_SMALLER | _MASK)
    image.seek(0)
    return pages


def refuse_frames(image: Image.Image, path: Path | str) -> None:
    """Do nothing if a file holds one picture.

    Raises:
        DataError: it holds several.
    """
    frames = _pictures(image)
    if frames > 1:
        what = f"file holds {frames} frames or pages"
        raise BadFile("several_pictures", what, where=path, todo="save one image a file", value=frames)
