"""CVAT's "Segmentation mask 1.1", which Datumaro reads, too: one archive to upload to a task with these images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE
from fewmask.data.palette import palette
from fewmask.data.writers.annotated import BACKGROUND, VOID, Annotated, labels_of, objects, parts, png_bytes, zip_bytes


def cvat(ones: Iterable[Annotated], classes: Sequence[str], guessed: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the file; see ``writers``."""
    yield "cvat.zip", zip_bytes(_files(list(ones), classes))


def _files(ones: Sequence[Annotated], classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    labels = [BACKGROUND, *labels_of(classes), VOID]  # black is background there, whatever the classes are
    colours = palette()[: len(labels)].copy()
    colours[-1] = palette()[IGNORE]
    rows = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(labels, colours.tolist(), strict=True)]
    yield "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows, ""]).encode()
    yield (
        "ImageSets/Segmentation/default.txt",
        "".join(f"{one.name}\n" for one in ones).encode("utf-8", "surrogateescape"),
    )
    for one in ones:
        kinds, instances = np.zeros_like(one.mask), np.zeros(one.mask.shape, dtype=np.int64)
        for label, area in parts(one.mask, classes):
            kinds[area] = labels.index(label)
            for piece in objects(area):
                instances[piece] = instances.max() + 1
        yield f"SegmentationClass/{one.name}.png", png_bytes(Image.fromarray(colours[kinds]))
        # CVAT tells objects apart by colour: there are 255 of them, and then they come again
        numbers = np.where(instances == 0, 0, (instances - 1) % 255 + 1)
        yield f"SegmentationObject/{one.name}.png", png_bytes(Image.fromarray(palette()[numbers]))
