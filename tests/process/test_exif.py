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
    assert card["upright"] is True
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


def test_what_nothing_was_decided_of_is_turned(own_data, tmp_path, io):
    """No image of the training carries a tag: a photo then lies as every viewer shows it, in the example too."""
    as_png(own_data)
    out, photo = tmp_path / "run", tmp_path / "photo.jpg"
    good(run(io, training(own_data, out, "--method", "supervised")))
    assert json.loads((out / "model/config.json").read_text())["upright"] is True
    exif = Image.Exif()
    exif[274] = 6
    Image.open(next((own_data / "images/val").iterdir())).resize((40, 24)).save(photo, exif=exif)
    ended = good(run(io, ["predict", str(out), str(photo), "-o", str(tmp_path / "masks")]))
    mask = np.asarray(Image.open(tmp_path / "masks/photo.png"))
    assert mask.shape == pixels(photo).shape[:2] == (40, 24) and "orientation" not in ended.stderr
    good(run(io, ["export", str(out), "-o", str(tmp_path / "model.onnx")]))
    command = [sys.executable, str(tmp_path / "model_example.py"), str(photo), str(tmp_path / "mask.png")]
    subprocess.run(command, check=True, capture_output=True)
    assert (np.asarray(Image.open(tmp_path / "mask.png")) == mask).all()


def test_what_was_decided_is_kept_and_said(own_data, tmp_path, io):
    """By data.yaml, or by training images with a tag whose masks were drawn on the stored pixels."""
    as_png(own_data)
    tagged = own_data / "images/train/00.png"
    exif = Image.Exif()
    exif[274] = 6
    Image.open(tagged).save(tagged, exif=exif)
    (own_data / "photo.png").write_bytes(tagged.read_bytes())
    for n, more in enumerate(("", "exif: ignore\n")):
        with (own_data / "data.yaml").open("a") as file:
            file.write(more)
        out = tmp_path / f"run{n}"
        good(run(io, training(own_data, out, "--method", "supervised")))
        assert "upright" not in json.loads((out / "model/config.json").read_text())
        words = ["predict", str(out), str(own_data / "photo.png"), str(own_data / "images/val"), "-o"]
        ended = good(run(io, [*words, str(tmp_path / f"masks{n}")]))
        assert "1 of 4 images carries an EXIF orientation, which this model ignores" in ended.stderr
        assert np.asarray(Image.open(tmp_path / f"masks{n}/photo.png")).shape == (12, 16)
        Image.open(tagged).save(tagged)  # without the tag: declared all the same
