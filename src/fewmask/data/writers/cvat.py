"""CVAT's "Segmentation mask 1.1", which Datumaro reads, too: one archive to upload to a task with these images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE, OPEN
from fewmask.data.palette import palette
from fewmask.data.writers.annotated import (
    BACKGROUND,
    UNLABELLED,
    VOID,
    Annotated,
    is_open,
    labels_of,
    objects,
    parts,
    png_bytes,
    zip_bytes,
)


def cvat(ones: Iterable[Annotated], classes: Sequence[str], guessed: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the file; see ``writers``.

    Raises:
        DataError: see ``labels_of``.
    """
    yield "cvat.zip", zip_bytes(_files(list(ones), classes))


def _files(ones: Sequence[Annotated], classes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    # black is background there, whatever the classes are
    labels = [BACKGROUND, *labels_of(classes, "cvat", lines=True)]
    colours = [*palette()[: len(labels)], palette()[IGNORE]]
    labels.append(VOID)
    if is_open(OPEN, classes) and any((one.mask == OPEN).any() for one in ones):
        labels.append(UNLABELLED)
        colours.append(palette()[OPEN])
    colours = np.stack(colours)
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
