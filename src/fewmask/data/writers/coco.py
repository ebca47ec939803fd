"""COCO JSON: every connected part of a class is an object, as compressed run lengths."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fewmask.data.writers.annotated import UNLABELLED, VOID, Annotated, labels_of, objects, parts
from fewmask.errors import ConfigError


def coco(ones: Iterable[Annotated], classes: Sequence[str], guessed: bool) -> Iterator[tuple[str, bytes]]:
    """Yield the file; see ``writers``.

    Raises:
        ConfigError: pycocotools is not installed.
        DataError: see ``labels_of``.
    """
    try:
        from pycocotools import mask as rle
    except ImportError as error:
        raise ConfigError("run lengths need pycocotools", where="coco", todo="pip install 'fewmask[coco]'") from error
    labels = [*labels_of(classes, "coco"), VOID, UNLABELLED]
    tree: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    for number, one in enumerate(ones, start=1):
        height, width = one.mask.shape
        tree["images"].append({"id": number, "file_name": one.file, "height": height, "width": width})
        for label, area in parts(one.mask, classes):
            for piece in objects(area):
                with warnings.catch_warnings():  # of pycocotools with numpy 2
                    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
                    runs: Any = rle.encode(np.asfortranarray(piece.astype(np.uint8)))
                    box, size = rle.toBbox(runs).tolist(), int(rle.area(runs))
                tree["annotations"].append({
                    "id": len(tree["annotations"]) + 1, "image_id": number, "category_id": labels.index(label) + 1,
                    "segmentation": {"size": [height, width], "counts": runs["counts"].decode()}, "area": size,
                    "bbox": box, "iscrowd": 0,
                })  # fmt: skip
    held = {a["category_id"] for a in tree["annotations"]}
    tree["categories"] = [
        {"id": n, "name": name} for n, name in enumerate(labels, start=1) if name != UNLABELLED or n in held
    ]
    yield "annotations/instances_default.json", json.dumps(tree).encode()
