"""``exif: apply``: phone pictures whose masks were drawn on what a viewer shows, from training to prediction."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image, ImageOps

from process.helpers import assert_refused, good, run, training

ORIENTATIONS = {"train/00": 6, "train/01": 3, "train/bare0": 8, "val/00": 6}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def turned_files(folder):
    """Store some images of a folder turned, with the tag that turns them back."""
    for name, tag in ORIENTATIONS.items():
        (path,) = (folder / "images").glob(f"{name}.*")
        upright = Image.open(path).convert("RGB")
        back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[tag]
        exif = Image.Exif()
        exif[274] = tag
        target = path.with_suffix(".png")  # lossless: what is read is what was there
        path.unlink()
        upright.transpose(back).save(target, exif=exif)
        assert (pixels(target) == np.asarray(upright)).all()


def as_png(folder):
    for path in list((folder / "images").rglob("*.jpg")):
        Image.open(path).convert("RGB").save(path.with_suffix(".png"))
        path.unlink()


def test_turned_pictures_train_like_upright_ones(own_data, tmp_path, io):
    """Same pixels, stored in two ways: networks, pictures and predictions are equal."""
    plain, phone = own_data, tmp_path / "phone"
    as_png(plain)
    shutil.copytree(plain, phone)
    turned_files(phone)
    refused = run(io, training(phone, tmp_path / "refused", "--method", "fixmatch"))
    assert_refused(refused, 3, "as its EXIF orientation 6 turns it", "exif: apply")
    with (phone / "data.yaml").open("a") as file:
        file.write("exif: apply\n")
    for data in (plain, phone):
        good(run(io, training(data, tmp_path / data.name / "run", "--method", "fixmatch")))
    a, b = (tmp_path / data.name / "run" for data in (plain, phone))
    assert (a / "model/model.safetensors").read_bytes() == (b / "model/model.safetensors").read_bytes()
    card = json.loads((b / "model/config.json").read_text())
    assert card["upright"] is True and "upright" not in json.loads((a / "model/config.json").read_text())
    scores = [json.loads((r / "metrics.json").read_text())["val"] for r in (a, b)]
    assert scores[0] == scores[1]
    masks = []
    for r, data in ((a, plain), (b, phone)):
        out = tmp_path / f"masks-{data.name}"
        good(run(io, ["predict", str(r), str(data / "images/train"), "-o", str(out)]))
        masks.append({p.name: np.asarray(Image.open(p)) for p in out.glob("*.png")})
    assert masks[0].keys() == masks[1].keys() and all((masks[0][n] == masks[1][n]).all() for n in masks[0])
    good(run(io, ["export", str(b), "-o", str(tmp_path / "model.onnx")]))
    (image,) = (phone / "images/train").glob("00.*")
    subprocess.run(
        [sys.executable, str(tmp_path / "model_example.py"), str(image), str(tmp_path / "mask.png")], check=True,
        capture_output=True,
    )  # fmt: skip
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == masks[1]["00.png"]).all(), "the example turns it, too"
    good(run(io, ["evaluate", str(b)]))
    lists = []
    for r in (a, b):
        found = json.loads(good(run(io, ["suggest", str(r), "-n", "3", "-o", str(r / "next"), "--json"])).stdout)
        lists.append([one["name"] for one in found])
        for one in found:
            (image,) = (r / "next/images").glob(f"{one['name']}.*")
            assert pixels(r / "next/masks" / f"{one['name']}.png").shape == pixels(image).shape[:2], "what a tool shows"
    assert lists[0] == lists[1]
