"""CamVid as five tools would hand it over: one command each, and the same predictions to the pixel?

    .venv/bin/python benchmarks/five_formats.py --data ../shared/data/camvid

Folder pairs, PASCAL VOC, the content of CVAT's "Segmentation mask 1.1" zip, COCO JSON with run lengths (by
pycocotools), and a folder in the manner of Cityscapes are written with Pillow and pycocotools alone, none of it by
fewmask. Then ``fewmask train FOLDER`` and ``fewmask predict`` with one seed in each. The result goes to
results/five_formats.json; predictions or scores that differ: exit code 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.run.environment import environment

RESULTS = Path(__file__).parent / "results"
IGNORE = 255
VOID = (0, 0, 0)


@dataclass(frozen=True)
class Source:
    """What all five hold: classes in order, and by role the images with their masks (None = not annotated)."""

    classes: list[str]
    images: dict[str, list[tuple[Path, Path | None]]]

    def colours(self) -> list[tuple[int, int, int]]:
        """Return a colour a class; black is void."""
        return [(40 + 17 * k, 255 - 20 * k, (60 * k + 30) % 256) for k in range(len(self.classes))]


def source_of(camvid: Path, labelled: int, unlabelled: int, val: int) -> Source:
    """Return a part of CamVid: masks of a few training images, evenly spread."""

    def some(role: str, count: int) -> list[Path]:
        every = sorted((camvid / "images" / role).iterdir())
        return [every[round(n)] for n in np.linspace(0, len(every) - 1, count)] if count else []

    def mask(image: Path) -> Path:
        return camvid / "masks" / image.parent.name / f"{image.stem}.png"

    train = some("train", labelled + unlabelled)
    kept = {train[round(n)] for n in np.linspace(0, len(train) - 1, labelled)}
    classes = (camvid / "classes.txt").read_text(encoding="utf-8").split()
    return Source(classes, {
        "train": [(image, mask(image) if image in kept else None) for image in train],
        "val": [(image, mask(image)) for image in some("val", val)],
    })  # fmt: skip


def pairs(source: Source, root: Path) -> None:
    """Write images/ROLE and masks/ROLE, and classes.txt."""
    for role, image, mask in _each(source):
        _copy(image, root / "images" / role / image.name)
        if mask is not None:
            _copy(mask, root / "masks" / role / mask.name)
    (root / "classes.txt").write_text("\n".join(source.classes) + "\n", encoding="utf-8")


def voc(source: Source, root: Path) -> None:
    """Write PASCAL VOC with other classes than its own: a classes.txt beside it."""
    for role, image, mask in _each(source):
        _copy(image, root / "JPEGImages" / image.name)
        if mask is not None:
            _copy(mask, root / "SegmentationClass" / mask.name)
        _line(root / "ImageSets" / "Segmentation" / f"{role}.txt", image.stem)
    (root / "classes.txt").write_text("\n".join(source.classes) + "\n", encoding="utf-8")


def cvat(source: Source, root: Path) -> None:
    """Write what CVAT exports: colours of labelmap.txt, lists of what was annotated, all images."""
    colours = [*source.colours(), VOID]
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colours) - 1] = colours[:-1]
    for role, image, mask in _each(source):
        _copy(image, root / "JPEGImages" / image.name)
        if mask is not None:
            target = root / "SegmentationClass" / mask.name
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(palette[np.asarray(Image.open(mask))]).save(target)
            _line(root / "ImageSets" / "Segmentation" / f"{role}.txt", image.stem)
    rows = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip([*source.classes, "void"], colours, strict=True)]
    (root / "labelmap.txt").write_text("# label:color_rgb:parts:actions\n" + "\n".join(rows) + "\n", encoding="utf-8")


def coco(source: Source, root: Path) -> None:
    """Write a JSON a role, an annotation a class and image; void is a category, and nothing is left uncovered."""
    from pycocotools import mask as rle

    names = [*source.classes, "void"]
    trees: dict[str, dict[str, Any]] = {}
    for role, image, mask in _each(source):
        _copy(image, root / "images" / role / image.name)
        if mask is None:
            continue
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
        tree = trees.setdefault(role, {"images": [], "annotations": [], "categories": categories})
        pixels = np.asarray(Image.open(mask))
        number = len(tree["images"]) + 1
        height, width = pixels.shape
        tree["images"].append({"id": number, "file_name": image.name, "height": height, "width": width})
        for value in np.unique(pixels).tolist():
            found = rle.encode(np.asfortranarray((pixels == value).astype(np.uint8)))
            counts = found["counts"].decode("ascii") if isinstance(found["counts"], bytes) else found["counts"]
            tree["annotations"].append({
                "id": len(tree["annotations"]) + 1, "image_id": number, "iscrowd": 1,
                "category_id": len(names) if value == IGNORE else value + 1, "area": int((pixels == value).sum()),
                "segmentation": {"size": [height, width], "counts": counts},
            })  # fmt: skip
    for role, tree in trees.items():
        target = root / "annotations" / f"instances_{role}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(tree), encoding="utf-8")
    # COCO knows a background that nothing here belongs to
    lines = "".join(f"  {k + 1}: {name}\n" for k, name in enumerate(source.classes))
    (root / "data.yaml").write_text(f"version: 1\nclasses:\n{lines}ignore: [0]\n", encoding="utf-8")


def cityscapes(source: Source, root: Path) -> None:
    """Write leftImg8bit and gtFine, ids in the order of label_colors.txt."""
    for role, image, mask in _each(source):
        _copy(image, root / "leftImg8bit" / role / "cambridge" / f"{image.stem}_leftImg8bit{image.suffix}")
        if mask is not None:
            pixels = np.asarray(Image.open(mask))
            target = root / "gtFine" / role / "cambridge" / f"{image.stem}_gtFine_labelIds.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.where(pixels == IGNORE, len(source.classes), pixels).astype(np.uint8)).save(target)
    rows = zip([*source.classes, "void"], [*source.colours(), VOID], strict=True)
    (root / "label_colors.txt").write_text("".join(f"{r} {g} {b} {name}\n" for name, (r, g, b) in rows))


FORMATS: dict[str, Callable[[Source, Path], None]] = {
    "folder pairs": pairs, "PASCAL VOC": voc, "CVAT segmentation mask": cvat, "COCO JSON, RLE": coco,
    "Cityscapes-like": cityscapes,
}  # fmt: skip


def _each(source: Source) -> list[tuple[str, Path, Path | None]]:
    return [(role, image, mask) for role, found in source.images.items() for image, mask in found]


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def _line(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as handle:
        handle.write(text + "\n")


def in_a_process(words: list[str]) -> None:
    """Run fewmask as a user starts it.

    Raises:
        SystemExit: it failed.
    """
    done = subprocess.run([sys.executable, "-m", "fewmask", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"fewmask {' '.join(words)} ended with {done.returncode}\n{done.stderr}")


def tried(
    name: str, source: Source, folder: Path, images: list[Path], words: list[str],
    fewmask: Callable[[list[str]], None] = in_a_process,
) -> dict[str, Any]:  # fmt: skip
    """Write a format, train on it, report and predict; return what came out."""
    # runs side by side, as they lie without --out: the first one's timing of number formats holds for all
    data, run, masks = (folder / part / name.replace(",", "").replace(" ", "-") for part in ("data", "runs", "masks"))
    FORMATS[name](source, data)
    train = ["train", str(data), "--out", str(run), *words]
    for command in (train, ["report", str(run)], ["predict", str(run), *map(str, images), "-o", str(masks)]):
        fewmask(command)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    predicted = [np.asarray(Image.open(masks / f"{image.stem}.png")) for image in images]
    return {
        "format": name, "labelled": metrics["labelled"], "unlabelled": metrics["unlabelled"],
        "val": metrics["val"]["miou"], "iou": metrics["val"]["iou"], "report": (run / "report.html").stat().st_size,
        "predicted": predicted, "weights": sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest(),
    }  # fmt: skip


def compared(rows: list[dict[str, Any]], ids: dict[str, int]) -> list[dict[str, Any]]:
    """Return the rows without masks, with the share of pixels that differ from the first, and whether the networks do.

    Args:
        rows: as ``tried`` returns them.
        ids: how far the ids of a format's masks lie above the class numbers, where they do.
    """
    first = rows[0]
    out = []
    for row in rows:
        moved = [mask.astype(int) - ids.get(row["format"], 0) for mask in row["predicted"]]
        differ = [float((a != b).mean()) for a, b in zip(first["predicted"], moved, strict=True)]
        kept = {key: value for key, value in row.items() if key not in ("predicted", "iou", "weights")}
        kept["classes_predicted"] = len(np.unique(np.concatenate([mask.ravel() for mask in row["predicted"]])))
        kept |= {"pixels_that_differ": float(np.mean(differ))}
        out.append(kept | {f"same_{key}": row[key] == first[key] for key in ("iou", "weights")})
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="CamVid as images/ROLE, masks/ROLE, classes.txt")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--weights", default="none", help="as of fewmask train")
    parser.add_argument("--folder", type=Path, default=Path("runs/five-formats"))
    args = parser.parse_args()

    shutil.rmtree(args.folder, ignore_errors=True)
    source = source_of(args.data, labelled=16, unlabelled=64, val=24)
    images = sorted((args.data / "images" / "test").iterdir())[::20]
    words = [
        "--method", "fixmatch", "--no-baseline", "--steps", str(args.steps), "--crop", "96x128", "--resize", "120x160",
        "--weights", args.weights, "--seed", "0",
    ]  # fmt: skip
    rows = compared([tried(name, source, args.folder, images, words) for name in FORMATS], {"COCO JSON, RLE": 1})
    for row in rows:
        print(f"{row['format']:24} val {row['val']:.4f} mIoU, {100 * row['pixels_that_differ']:g} % of pixels differ")
    RESULTS.mkdir(exist_ok=True)
    record = {
        "command": f"python benchmarks/five_formats.py --data camvid --steps {args.steps} --weights WEIGHTS",
        "environment": {key: value for key, value in environment().items() if key != "command"},  # it names folders
        "train": " ".join(words).replace(args.weights, Path(args.weights).name), "predicted": len(images), "rows": rows,
    }  # fmt: skip
    (RESULTS / "five_formats.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    alike = [row["pixels_that_differ"] == 0 and row["same_iou"] and row["same_weights"] for row in rows]
    sys.exit(0 if all(alike) else 1)


if __name__ == "__main__":
    main()
