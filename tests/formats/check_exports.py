"""Read what ``fewmask labels export`` wrote with the tools that it is for; see ``make.py`` for their environment.

    fewmask labels export DIR --to png -o OUT/png        # likewise cvat, coco, labelstudio
    tools/bin/python tests/formats/check_exports.py OUT

Prints for each tool how many masks agree with the index PNGs in every pixel; ends with 1 if one does not.
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import datumaro as dm
import numpy as np
from label_studio_sdk.converter import brush
from PIL import Image

BLANK = ("background", "void")


def painted(data: dm.Dataset, classes: list[str], sizes: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Return masks of class names as Datumaro understands a data set."""
    labels = [label.name for label in data.categories()[dm.AnnotationType.label].items]
    out = {}
    for item in data:
        mask = np.full(sizes[item.id], "", dtype=object)
        for one in item.annotations:
            if one.type == dm.AnnotationType.mask:
                mask[np.asarray(one.image).astype(bool)] = labels[one.label]
        out[item.id] = mask
    return out


def main(out: Path) -> int:
    classes = (out / "png" / "classes.txt").read_text().splitlines()
    names = np.array([*classes, *[""] * (255 - len(classes)), "void"], dtype=object)
    root = out / "png" / "masks"
    truth = {
        p.relative_to(root).with_suffix("").as_posix(): names[np.asarray(Image.open(p))] for p in root.rglob("*.png")
    }
    sizes = {name: mask.shape for name, mask in truth.items()}
    found: dict[str, dict[str, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(out / "cvat" / "cvat.zip") as archive:
            archive.extractall(scratch)
        found["cvat"] = painted(dm.Dataset.import_from(scratch, "voc_segmentation"), classes, sizes)
    found["coco"] = painted(dm.Dataset.import_from(str(out / "coco"), "coco"), classes, sizes)
    found["labelstudio"] = {}
    for task in json.loads((out / "labelstudio" / "tasks.json").read_text()):
        name = task["data"]["image"].partition("?d=images/")[2].rpartition(".")[0]
        mask = np.full(sizes[name], "", dtype=object)
        for one in task["annotations"][0]["result"]:
            shape = (one["original_height"], one["original_width"], 4)
            mask[brush.decode_rle(one["value"]["rle"]).reshape(shape)[..., 3] > 0] = one["value"]["brushlabels"][0]
        found["labelstudio"][name] = mask
    wrong = 0
    for tool, masks in found.items():
        blank = lambda mask: np.where(np.isin(mask, BLANK), "", mask)  # noqa: E731
        equal = [name for name in truth if name in masks and (blank(masks[name]) == blank(truth[name])).all()]
        print(f"{tool}: {len(equal)} of {len(truth)} masks agree")
        wrong += len(truth) - len(equal)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
