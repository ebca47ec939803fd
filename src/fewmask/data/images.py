"""Reading image files honestly: nothing is truncated, rescaled or guessed in silence.

What becomes of an image:

========================================= =========================================================
stored as                                 read as
========================================= =========================================================
RGB                                       as it is
grey, 1-bit, palette                      RGB, exact
alpha channel, opaque everywhere          RGB, the channel is dropped
alpha channel, transparent somewhere      DataError: what lies under it is undefined
RGB and more bands                        RGB where that is declared; else DataError with both declarations
16-bit, float, more bands                 the bands that data.yaml declares; else DataError with a declaration to paste
CMYK, Lab, several frames                 DataError
========================================= =========================================================

Colour profiles are not applied. The EXIF orientation of JPEG, PNG and WEBP is applied only where it is asked
for; that of TIFF is part of the format: Pillow always applies it. Declared bands of a TIFF come as stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from fewmask.data.bands import COLOURS, Bands, proposal
from fewmask.data.decode import MAX_PIXELS, Header, OtherBands, is_tiff, opened, refuse_frames
from fewmask.data.findings import BadFile
from fewmask.data.geo import georeference as _georeference
from fewmask.data.geo import installed, raster
from fewmask.data.index import PHOTOGRAPH, ImageCode, Item
from fewmask.data.patience import patient

_PRINTED = ("CMYK", "YCbCr", "LAB", "HSV")  # no bands of their own: another way to write colours
_PLAIN = ("RGB", "L", "1", "P", "LA", "PA", "RGBA")
_NAMES = {"gray": "grey", "R": "red", "G": "green", "B": "blue"} | {name: name for name in (*COLOURS, "nir")}
"""What Pillow and GDAL call bands, and what they are called here."""
_GEO_KEYS = 34735  # TIFF tag of GeoTIFF's keys
_GLANCE = 512  # pixels of a side that are looked at to propose a range


@patient
def read_image(path: Path, code: ImageCode = PHOTOGRAPH, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return the image as uint8 [H, W, C]: RGB, or the declared bands; see the table above.

    Args:
        path: the file.
        code: how pixels are to be read.
        max_pixels: refuse larger images before decoding.

    Raises:
        DataError: no such file, no image, truncated or corrupt, too large, or of a kind the table refuses.
        ConfigError: rasterio is needed and not installed.
    """
    if not code.bands:
        return np.array(read_picture(path, code, max_pixels=max_pixels)[1])
    if is_tiff(path):
        return _raster_bands(path, code.bands, max_pixels)
    with _opened(path, max_pixels) as (image, header):
        return _stored_bands(image, header, path, code)


@patient
def read_picture(
    path: Path, code: ImageCode = PHOTOGRAPH, *, max_pixels: int = MAX_PIXELS
) -> tuple[Header, Image.Image]:  # fmt: skip
    """Return what a file without declared bands says about itself, and its picture of mode RGB, from one look at it.

    Args:
        path: the file.
        code: how pixels are to be read; without bands.
        max_pixels: refuse larger images before decoding.

    Raises:
        DataError: see :func:`read_image`.
    """
    with _opened(path, max_pixels) as (image, header):
        return header, _colours(image, header, path, code, lambda lead="": proposal_for(path, lead))


def _colours(
    image: Image.Image, header: Header, where: Path | str, code: ImageCode, propose: Callable[..., str]
) -> Image.Image:
    """Return the picture of mode RGB of what Pillow has opened; ``propose`` says, after a lead, what to declare."""
    if header.bits > 8 or image.mode not in _PLAIN:
        kind = f"{header.bits}-bit {image.mode}" if header.bits > 8 else image.mode
        todo = "convert it to 8-bit RGB or grey" if image.mode in _PRINTED else propose()
        what = f"{kind} images are not read without declaration"
        raise BadFile("pixel_format", what, where=where, todo=todo, value=kind)
    refuse_frames(image, where)
    if (more := _beside_colours(image)) and not code.colours_only:
        what = f"image has {more} more band{'s' * (more > 1)} than the {image.mode} that would be read"
        todo = propose("to leave them out, write channels: rgb in data.yaml; else ")
        raise BadFile("pixel_format", what, where=where, todo=todo, value=more)
    image.load()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            lead = "flatten it onto a background, or remove its alpha channel; if it is no alpha channel, "
            what = "image has transparent pixels: no defined colour"
            raise BadFile("transparency", what, where=where, todo=propose(lead))
    upright = _turned(image, header, code)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def picture_pixels(image: Image.Image, code: ImageCode = PHOTOGRAPH) -> np.ndarray:
    """Return what Pillow has opened or made as uint8 [H, W, C], as :func:`read_image` returns its file.

    Raises:
        DataError: truncated, or of a kind the table refuses.
    """
    try:
        image.load()  # of a TIFF, this turns it and takes its orientation away
    except Exception as e:  # damaged files make Pillow raise nearly anything
        raise BadFile("damaged_file", f"cannot be read: {e}", where="image", todo="open another file") from e
    bits = 16 if image.mode.startswith("I;16") else 32 if image.mode in ("I", "F") else 8
    turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    header = Header(str(image.format), image.mode, bits, image.height, image.width, turned if 1 <= turned <= 8 else 1)
    if code.bands:
        return _stored_bands(image, header, "image", code)
    return np.array(_colours(image, header, "image", code, lambda lead="": f"{lead}convert it to 8-bit RGB or grey"))


def read_item(item: Item) -> np.ndarray:
    """Return an item's image as uint8 [H, W, C], as its data say; see :func:`read_image`."""
    return read_image(item.image, item.code)


@patient
def image_header(path: Path, code: ImageCode = PHOTOGRAPH, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Return what an image file says about itself, without decoding it.

    Raises:
        DataError: no such file, no image, or more than ``max_pixels`` pixels.
        ConfigError: rasterio is needed and not installed.
    """
    if code.bands and is_tiff(path):
        with raster(path, max_pixels=max_pixels) as file:
            bits = max(8 * np.dtype(kind).itemsize for kind in file.dtypes)
            return Header("TIFF", f"{file.count} bands of {bits} bits", bits, file.height, file.width, 1)
    with _opened(path, max_pixels) as (_, header):
        return header


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels as stored, from the header alone.

    Raises:
        DataError: see :func:`image_header`.
    """
    header = image_header(path)
    return header.height, header.width


def item_size(item: Item) -> tuple[int, int]:
    """Return (height, width) of an item's image, turned where its data say so, from the header alone.

    Raises:
        DataError: see :func:`image_header`.
    """
    header = image_header(item.image, item.code)
    turned = item.code.upright and header.orientation >= 5
    return (header.width, header.height) if turned else (header.height, header.width)


def georeference(path: Path) -> dict[str, Any]:
    """Return where on earth an image's pixels lie; see ``geo.georeference``. Empty without rasterio, and of no TIFF."""
    return _georeference(path) if is_tiff(path) and installed() else {}


def loses_place(path: Path) -> bool:
    """Return whether an image lies on a map, and rasterio, which could tell where, is not installed."""
    if installed() or not is_tiff(path):
        return False
    with opened(path, MAX_PIXELS) as (image, _):
        return _GEO_KEYS in getattr(image, "tag_v2", {})


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[tuple[ImageFile.ImageFile, Header]]:
    """As ``decode.opened``; of unknown bands the error says what to declare."""
    try:
        with opened(path, max_pixels) as found:
            yield found
    except OtherBands as error:
        raise BadFile(error.kind, error.what, where=path, todo=proposal_for(path)) from error


def _beside_colours(image: Image.Image) -> int:
    """Return how many bands of a TIFF Pillow passes over, such as infrared after red, green and blue."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    return max(0, image.tag_v2.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) - len(image.getbands()))


def _turned(image: Image.Image, header: Header, code: ImageCode) -> Image.Image:
    return ImageOps.exif_transpose(image) if code.upright and header.orientation > 1 else image


def _raster_bands(path: Path, bands: Bands, max_pixels: int) -> np.ndarray:
    with raster(path, max_pixels=max_pixels) as file:
        check_count(bands, file.count, path)
        out = np.empty((file.height, file.width, len(bands)), np.uint8)
        for channel, band in enumerate(bands):
            values, nothing = file.read(band.number), file.nodatavals[band.number - 1]
            out[..., channel] = band.stretch(values if nothing is None else np.ma.masked_equal(values, nothing))
        return out


def _stored_bands(image: Image.Image, header: Header, path: Path | str, code: ImageCode) -> np.ndarray:
    """Return the declared bands of what Pillow has opened."""
    refuse_frames(image, path)
    image.load()
    if header.bits > 8 and not image.mode.startswith(("I", "F")):
        what, kind = "files only 8 bits can be read", f"{header.bits}-bit {image.mode}"
        raise BadFile("pixel_format", f"of {kind} {what}", where=path, todo="save it as TIFF", value=kind)
    upright = _turned(image, header, code)
    values = np.asarray(upright.convert({"P": "RGB", "PA": "RGBA", "1": "L"}.get(upright.mode, upright.mode)))
    values = values[..., None] if values.ndim == 2 else values
    check_count(code.bands, values.shape[2], path)
    return np.stack([band.stretch(values[..., band.number - 1]) for band in code.bands], axis=2)


def check_count(bands: Bands, count: int, path: Path | str) -> None:
    """Refuse an image that has fewer bands than are declared.

    Raises:
        DataError: it has fewer.
    """
    most = max(band.number for band in bands)
    if most > count:
        what = f"image has {count} band{'s' * (count != 1)}, band {most} is declared (channels)"
        todo = "mend channels in data.yaml, or replace this file"
        raise BadFile("pixel_format", what, where=path, todo=todo, value=count)


def proposal_for(path: Path, lead: str = "", max_pixels: int | None = MAX_PIXELS) -> str:
    """Return what to write in data.yaml so that a file like this one can be read.

    Args:
        path: the file.
        lead: what stands before that.
        max_pixels: as in ``geo.raster``.
    """
    if not is_tiff(path):
        with opened(path, MAX_PIXELS) as (image, header):
            values = np.asarray(image)
            if header.bits > 8 and not image.mode.startswith(("I", "F")):
                return f"{lead}save it as TIFF, of which all bits can be read"
            values = values[..., None] if values.ndim == 2 else values
            names = ["grey"] if values.shape[2] == 1 else list(image.getbands())
            names = [_NAMES.get(name, name) for name in names]
            return proposal([_told(n, values[..., i]) for i, n in enumerate(names)], lead)
    if not installed():
        example = "channels: [{band: 1, name: red, range: [0, 4095]}, ...]"
        return f"{lead}pip install 'fewmask[geo]', and declare its bands in data.yaml: {example}"
    with raster(path, max_pixels=max_pixels) as file:
        size = (min(file.height, _GLANCE), min(file.width, _GLANCE))
        kinds = ["band" if file.count > 1 and c.name == "gray" else c.name for c in file.colorinterp]
        names = [
            said or _NAMES.get(kind, f"band{n}")
            for n, (said, kind) in enumerate(zip(file.descriptions, kinds, strict=True), start=1)
        ]
        found = [_told(n, file.read(i, out_shape=size)) for i, n in enumerate(names, start=1)]
        return proposal(found, lead)


def _told(name: str, values: np.ndarray) -> tuple[str, np.dtype[Any], float, float]:
    found = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return name, values.dtype, *((float(found.min()), float(found.max())) if found.size else (0.0, 1.0))
