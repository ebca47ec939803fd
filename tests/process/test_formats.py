"""One data set in six formats: the same training, the same predictions, pixel for pixel."""

from __future__ import annotations

import json
import shutil
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from fixtures_data import picture
from process.helpers import FIXMATCH, good, run, training

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = ("sky", "sea", "sand")
COLOURS = {0: (10, 20, 30), 1: (200, 0, 0), 2: (0, 200, 0), 255: (224, 224, 192)}
FRAMES = {"train": [f"a{n}" for n in range(6)], "val": ["b0", "b1"]}
BARE = ["a6", "a7"]


def truth(seed):
    """Return a mask with every class and some void, uint8 [12, 16]."""
    mask = np.random.default_rng(seed).integers(0, 3, (3, 4)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    mask[0, :4] = 255
    return mask


MASKS = {name: truth(n) for n, name in enumerate(name for names in FRAMES.values() for name in names)}


def image(path, name):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed=crc32(name.encode()))).save(path)


def grey(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)


def each():
    """Yield (role, name, mask or None)."""
    for role, names in FRAMES.items():
        for name in [*names, *(BARE if role == "train" else [])]:
            yield role, name, MASKS.get(name)


def folders(root):
    for role, name, mask in each():
        image(root / "images" / role / f"{name}.png", name)
        if mask is not None:
            grey(root / "masks" / role / f"{name}.png", mask)
    (root / "classes.txt").write_text("\n".join(CLASSES))


def index_file(root):
    folders(root)
    lines = [
        {"image": f"images/{r}/{n}.png", "name": f"{r}/{n}", "role": r}
        | ({} if m is None else {"mask": f"masks/{r}/{n}.png"})
        for r, n, m in each()
    ]
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "data.yaml").write_text("images: index.jsonl\n")


def lists(root, annotated):
    """Write VOC's lists of a role's images, all or those with masks."""
    folder = root / "ImageSets" / "Segmentation"
    folder.mkdir(parents=True)
    for role in FRAMES:
        names = [n for r, n, mask in each() if r == role and (mask is not None or not annotated)]
        (folder / f"{role}.txt").write_text("".join(f"{role}/{n}\n" for n in names))


def voc(root):
    lists(root, annotated=False)
    for role, name, mask in each():
        image(root / "JPEGImages" / role / f"{name}.png", name)
        if mask is not None:
            grey(root / "SegmentationClass" / role / f"{name}.png", mask)
    (root / "classes.txt").write_text("\n".join(CLASSES))


def cvat(root):
    """RGB masks, a list of what was annotated."""
    lists(root, annotated=True)
    for role, name, mask in each():
        image(root / "JPEGImages" / role / f"{name}.png", name)
        if mask is not None:
            rgb = np.zeros((*mask.shape, 3), np.uint8)
            for i, colour in COLOURS.items():
                rgb[mask == i] = colour
            grey(root / "SegmentationClass" / role / f"{name}.png", rgb)
    names = {**dict(enumerate(CLASSES)), 255: "ignored"}
    rows = [f"{names[i]}:{r},{g},{b}::" for i, (r, g, b) in COLOURS.items()]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *rows]))


def coco(root):
    """Run lengths; every pixel is in a shape, so that data.yaml declares the background away."""
    for role in FRAMES:
        content = {
            "images": [], "annotations": [],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate((*CLASSES, "void"))],
        }  # fmt: skip
        for number, (r, name, mask) in enumerate(each()):
            if r != role:
                continue
            image(root / role / f"{name}.png", name)
            if mask is None:
                continue
            content["images"].append({"id": number, "file_name": f"{name}.png", "height": 12, "width": 16})
            for i in np.unique(mask):
                packed = rle.encode(np.asfortranarray((mask == i).astype(np.uint8)))
                content["annotations"].append({
                    "id": len(content["annotations"]), "image_id": number, "category_id": min(int(i), 3) + 1,
                    "segmentation": {"size": [12, 16], "counts": packed["counts"].decode()},
                })  # fmt: skip
        (root / role / "_annotations.coco.json").write_text(json.dumps(content))
    (root / "data.yaml").write_text("classes: {1: sky, 2: sea, 3: sand}\n")


def cityscapes(root):
    for role, name, mask in each():
        image(root / "leftImg8bit" / role / "x" / f"{name}_leftImg8bit.png", name)
        if mask is not None:
            grey(root / "gtFine" / role / "x" / f"{name}_gtFine_labelTrainIds.png", mask)
    (root / "classes.txt").write_text("\n".join(CLASSES))


def test_the_same_predictions(tmp_path, io, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = {}
    for write in (folders, index_file, voc, cvat, coco, cityscapes):
        data, out = tmp_path / write.__name__, tmp_path / "run" / write.__name__
        data.mkdir()
        write(data)
        good(run(io, training(data, out, *FIXMATCH)))
        seen, there = tmp_path / "seen", tmp_path / "predicted" / write.__name__
        shutil.rmtree(seen, ignore_errors=True)
        for name in ("b0", "b1"):
            image(seen / f"{name}.png", name)
        good(run(io, ["predict", str(out), str(seen), "-o", str(there)]))
        metrics = json.loads((out / "metrics.json").read_text())
        pictures = {p.name: p.read_bytes() for p in sorted(there.rglob("*.png"))}
        assert pictures
        found[write.__name__] = metrics["val"], metrics["labelled"], metrics["unlabelled"], pictures
    assert found["folders"][1:3] == (6, 2)
    for name, one in found.items():
        assert one == found["folders"], name
