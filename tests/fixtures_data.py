"""Builders of small data folders; images are made while the tests run, none is kept in the repository."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SHARED = Path(__file__).parents[2] / "shared" / "data"
# colours whose greys are not their indices: a reader that goes through grey turns class 1 into 38
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, *range(252), *range(252), *range(252)]


def picture(height=12, width=16, seed=0):
    """Return random pixels, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def blocks(ids, height=12, width=16):
    """Return a mask, uint8 [H, W], with one stripe of columns an id."""
    return np.repeat(np.asarray(ids, np.uint8)[np.arange(width) * len(ids) // width][None], height, axis=0)


def save_image(path, *, height=12, width=16, seed=0, exif=None):
    """Write a random RGB image; ``exif`` is an orientation."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(picture(height, width, seed))
    tags = Image.Exif()
    if exif:
        tags[274] = exif
    image.save(path, exif=tags)
    return path


def save_mask(path, mask, *, palette=True):
    """Write ids as a paletted or a grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(mask, np.uint8))
    if palette:
        image.putpalette(PALETTE)
    image.save(path)
    return path


def raw_png(path, rows, *, width, bits, colour_type):
    """Write a PNG of a depth that Pillow cannot write; ``rows`` are the bytes of each line."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def make_folder(root, masked, bare=(), *, ids=(0, 1), classes="a\nb\n"):
    """Write images/ and masks/: names with a mask, names without one, ``classes.txt``."""
    for seed, name in enumerate([*masked, *bare]):
        save_image(root / "images" / f"{name}.jpg", seed=seed)
    for name in masked:
        save_mask(root / "masks" / f"{name}.png", blocks(ids))
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def make_voc(root, train, val, aug=(), spare=()):
    """Write PASCAL VOC: fine masks hold class 1, masks of SBD class 2."""
    for seed, name in enumerate([*train, *val, *aug, *spare]):
        save_image(root / "JPEGImages" / f"{name}.jpg", seed=seed)
    for name in [*train, *val]:
        save_mask(root / "SegmentationClass" / f"{name}.png", blocks((0, 1, 255)))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(train) + "\n")
    (lists / "val.txt").write_text("\n".join(val) + "\n")
    if aug:
        (lists / "trainaug.txt").write_text("\n".join([*train, *aug]) + "\n")
        for name in [*train, *aug]:
            save_mask(root / "SegmentationClassAug" / f"{name}.png", blocks((0, 2)), palette=False)
    return root


def make_cityscapes(root, names, kind="labelTrainIds", ids=(0, 18, 255)):
    """Write Cityscapes; names such as ``train/aachen/aachen_000000_000019``."""
    for seed, name in enumerate(names):
        save_image(root / "leftImg8bit" / f"{name}_leftImg8bit.png", seed=seed)
        save_mask(root / "gtFine" / f"{name}_gtFine_{kind}.png", blocks(ids), palette=False)
    return root
