"""Folders of images and masks that Pillow wrote, as people have them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from pictures import CLASSES, COLOURS, VOID, Fixture, classes_txt, folders, mask, picture, rgb, save
from PIL import Image


def pairs_index(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root))


def pairs_no_names(root: Path) -> Fixture:
    return Fixture([], folders(root))


def pairs_paletted(root: Path) -> Fixture:
    def store(path: Path, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels)
        image.putpalette([v for colour in COLOURS for v in colour] + [0] * (768 - 9))
        image.save(path)

    return Fixture(classes_txt(root), folders(root, store))


def pairs_void(root: Path) -> Fixture:
    truth = {}

    def store(path: Path, pixels: np.ndarray) -> None:
        pixels[:2] = VOID
        save(path, pixels)

    truth = folders(root, store)
    return Fixture(classes_txt(root), truth)


def pairs_binary_255(root: Path) -> Fixture:
    truth = folders(root, lambda path, pixels: save(path, pixels * 255), kinds=2)
    return Fixture([], truth)


def pairs_one_bit(root: Path) -> Fixture:
    truth = folders(root, lambda path, pixels: Image.fromarray(pixels * 255).convert("1").save(path), kinds=2)
    return Fixture([], truth)


def pairs_16_bit(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root, lambda path, pixels: save(path, pixels.astype(np.uint16))))


def pairs_16_bit_ids(root: Path) -> Fixture:
    ids = np.array([7, 300, 1200], np.uint16)
    return Fixture([], folders(root, lambda path, pixels: save(path, ids[pixels])))


def pairs_mixed_sizes(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root, sizes=((24, 32), (30, 20), (17, 41))))


def pairs_names(root: Path) -> Fixture:
    names = ("field 1 (copy)", "Straße_ä", "画像01", "IMG 0003.final")
    return Fixture(classes_txt(root), folders(root, names=names, bare=("ohne maske",)))


def pairs_capitals(root: Path) -> Fixture:
    return Fixture(classes_txt(root), folders(root, suffix=".JPG"))


def pairs_roles(root: Path) -> Fixture:
    truth = {}
    for n, (role, name) in enumerate(
        [("train", "a1"), ("train", "a2"), ("train", "u1"), ("valid", "b1"), ("test", "d1")]
    ):
        save(root / "images" / role / f"{name}.jpg", picture(n))
        if name != "u1":
            truth[name] = mask(n)
            save(root / "masks" / role / f"{name}.png", truth[name])
    return Fixture(classes_txt(root), truth)


def pairs_crlf(root: Path) -> Fixture:
    truth = folders(root)
    (root / "classes.txt").write_bytes("\r\n".join(CLASSES).encode("utf-8-sig") + b"\r\n")
    return Fixture(CLASSES, truth)


def pairs_exif(root: Path) -> Fixture:
    truth = folders(root, suffix=".jpg")
    turned = Image.fromarray(picture(0))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "images" / "a1.jpg", exif=exif)
    return Fixture(classes_txt(root), truth)


def pairs_rgb_table(root: Path) -> Fixture:
    """RGB masks and class_dict.csv, as on Kaggle."""
    truth = {}
    for n, name in enumerate(("a1", "a2", "b1")):
        truth[name] = mask(n)
        save(root / "train" / f"{name}.png", picture(n))
        save(root / "train_labels" / f"{name}_L.png", rgb(truth[name]))
    with open(root / "class_dict.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "r", "g", "b"])
        writer.writerows([name, *colour] for name, colour in zip(CLASSES, COLOURS, strict=True))
    return Fixture(CLASSES, truth)


def pairs_rgb_bare(root: Path) -> Fixture:
    return Fixture([], folders(root, lambda path, pixels: save(path, rgb(pixels))))


def pairs_anti_aliased(root: Path) -> Fixture:
    def store(path: Path, pixels: np.ndarray) -> None:
        image = Image.fromarray(pixels * 100)
        image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC).resize(image.size).save(path)

    return Fixture(classes_txt(root), folders(root, store))


def pairs_jpeg_masks(root: Path) -> Fixture:
    def store(path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels * 80).save(path.with_suffix(".jpg"), quality=80)

    return Fixture([], folders(root, store))


def pairs_black_masks(root: Path) -> Fixture:
    """340 black masks among 60 real ones: what was not annotated was exported all the same."""
    truth = {}
    for n in range(400):
        name = f"{n:03d}"
        save(root / "images" / f"{name}.png", picture(n, 8, 8))
        truth[name] = mask(n, 8, 8, 2) if n < 60 else np.zeros((8, 8), np.uint8)
        save(root / "masks" / f"{name}.png", truth[name])
    return Fixture(classes_txt(root, ["ground", "crop"]), truth)


def beside(root: Path) -> Fixture:
    truth = {}
    for n, name in enumerate(("a1", "a2", "b1", "c1")):
        save(root / f"{name}.jpg", picture(n))
        if name != "c1":
            truth[name] = mask(n)
            save(root / f"{name}_mask.png", truth[name])
    return Fixture([], truth)


def ade20k(root: Path) -> Fixture:
    """The scene parsing benchmark: 0 is no class."""
    truth = {}
    classes = [f"thing {n}" for n in range(1, 151)]
    for n, (role, name) in enumerate(
        [("training", "ADE_train_1"), ("training", "ADE_train_2"), ("validation", "ADE_val_1")]
    ):
        stored = mask(n, kinds=4) * 50
        truth[name] = np.where(stored == 0, VOID, stored - 1).astype(np.uint8)
        save(root / "images" / role / f"{name}.jpg", picture(n))
        save(root / "annotations" / role / f"{name}.png", stored)
    lines = ["Idx\tRatio\tTrain\tVal\tStuff\tName"] + [f"{n + 1}\t0.1\t1\t1\t0\t{c}" for n, c in enumerate(classes)]
    (root / "objectInfo150.txt").write_text("\n".join(lines) + "\n")
    return Fixture(classes, truth)


def roboflow(root: Path) -> Fixture:
    truth = {}
    for n, (role, name) in enumerate([("train", "a1"), ("train", "a2"), ("valid", "b1"), ("test", "d1")]):
        stem = f"{name}_jpg.rf.0123456789abcdef"
        truth[stem] = mask(n)
        save(root / role / f"{stem}.jpg", picture(n))
        save(root / role / f"{stem}_mask.png", truth[stem])
    for role in ("train", "valid", "test"):
        rows = "".join(f"{n}, {name}\n" for n, name in enumerate(CLASSES))
        (root / role / "_classes.csv").write_text(f"Pixel Value, Class\n{rows}")
    return Fixture(CLASSES, truth)


def nnunet(root: Path) -> Fixture:
    truth = {}
    for n, name in enumerate(("case_001", "case_002", "case_003")):
        truth[f"{name}_0000"] = mask(n)
        save(root / "imagesTr" / f"{name}_0000.png", picture(n))
        save(root / "labelsTr" / f"{name}.png", truth[f"{name}_0000"])
    save(root / "imagesTs" / "case_009_0000.png", picture(9))
    labels = {name: n for n, name in enumerate(CLASSES)}
    about = {"channel_names": {"0": "R"}, "labels": labels, "numTraining": 3, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(about))
    return Fixture(CLASSES, truth)


def huggingface(root: Path) -> Fixture:
    """An image folder of the library ``datasets`` with two columns of images."""
    truth, rows = {}, []
    for n, (role, name) in enumerate([("train", "a1"), ("train", "a2"), ("train", "u1"), ("validation", "b1")]):
        save(root / role / f"{name}.png", picture(n))
        row = {"file_name": f"{name}.png"}
        if name != "u1":
            truth[name] = mask(n)
            save(root / role / "annotations" / f"{name}.png", truth[name])
            row["annotation_file_name"] = f"annotations/{name}.png"
        rows.append((role, row))
    for role in ("train", "validation"):
        lines = [json.dumps(row) for r, row in rows if r == role]
        (root / role / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return Fixture([], truth)


FIXTURES = [
    pairs_index, pairs_no_names, pairs_paletted, pairs_void, pairs_binary_255, pairs_one_bit, pairs_16_bit,
    pairs_16_bit_ids, pairs_mixed_sizes, pairs_names, pairs_capitals, pairs_roles, pairs_crlf, pairs_exif,
    pairs_rgb_table, pairs_rgb_bare, pairs_anti_aliased, pairs_jpeg_masks, pairs_black_masks, beside, ade20k,
    roboflow, nnunet, huggingface,
]  # fmt: skip
