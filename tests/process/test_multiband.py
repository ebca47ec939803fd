"""Images of four 16-bit bands with a place on earth: from a folder to masks in a map."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from process.helpers import assert_refused, good, metrics_of, run, training

BANDS = "[{band: 4, name: nir, range: [0, 4000]}, {band: 3, name: red, range: [0, 2000]}, \
{band: 2, name: green, range: [0, 2000]}, {band: 1, name: blue, range: [0, 2000]}]"
PLACE = {"crs": "EPSG:32632", "transform": from_origin(500000, 5400000, 10, 10)}


def raster(path, seed):
    """Write an image whose infrared alone tells water from land, and return its mask."""
    rng = np.random.default_rng(seed)
    water = np.kron(rng.integers(0, 2, (3, 4)), np.ones((8, 8), int)).astype(bool)
    values = rng.integers(200, 1500, (4, 24, 32))
    values[3] = np.where(water, 300, 3000) + rng.integers(0, 200, (24, 32))
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", height=24, width=32, count=4, dtype="uint16", **PLACE) as file:
        file.write(values.astype(np.uint16))
    return water.astype(np.uint8)


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    root = tmp_path_factory.mktemp("fields")
    for n, name in enumerate([*(f"train/{i}" for i in range(8)), *(f"val/{i}" for i in range(3))]):
        mask = raster(root / f"images/{name}.tif", n)
        if n < 4 or n >= 8:
            (root / f"masks/{name}.png").parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / f"masks/{name}.png")
    (root / "classes.txt").write_text("land\nwater\n")
    (root / "data.yaml").write_text(f"channels: {BANDS}\n")
    return root


@pytest.fixture(scope="module")
def trained(fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    more = ["--method", "fixmatch", "--steps", "60", "--crop", "24", "optim.lr=0.01", "train.eval_every=0"]
    good(run(folder / "io", training(fields, folder / "run", *more)))
    return folder / "run"


def test_the_bands_are_learnt(trained):
    """Three colours of noise: only the infrared band says what is water."""
    assert metrics_of(trained)["val"]["miou"] > 85
    card = json.loads((trained / "model/config.json").read_text())
    assert [band["name"] for band in card["channels"]] == ["red", "green", "blue", "nir"]
    assert card["channels"][3] == {"band": 4, "name": "nir", "range": [0.0, 4000.0]}
    assert len(card["mean"]) == len(card["std"]) == 4
    assert "nir" in (trained / "data.yaml").read_text()
    picture = np.asarray(Image.open(next((trained / "pictures").glob("best-1-*.png"))))
    assert picture.ndim == 3 and picture.shape[2] == 3 and (trained / "report.html").is_file()


def test_masks_lie_where_their_images_lie(trained, fields, tmp_path, io):
    good(run(io, ["predict", str(trained), str(fields / "images/val"), "-o", str(tmp_path / "out")]))
    for n in range(3):
        with rasterio.open(tmp_path / f"out/{n}.tif") as file:
            assert file.crs.to_epsg() == 32632 and file.transform == PLACE["transform"] and file.count == 1
            ids = file.read(1)
        assert (ids == np.asarray(Image.open(tmp_path / f"out/{n}.png"))).all() and set(np.unique(ids)) <= {0, 1}
        truth = np.asarray(Image.open(fields / f"masks/val/{n}.png"))
        assert (ids == truth).mean() > 0.85
    again = run(io, ["predict", str(trained), str(fields / "images/val"), "-o", str(tmp_path / "out")])
    assert_refused(again, 2, "nothing is written over")


def test_what_comes_after_a_run(trained, fields, tmp_path, io):
    told = json.loads(good(run(io, ["evaluate", str(trained), "--split", "val", "--json"])).stdout)
    assert told["miou"] == pytest.approx(metrics_of(trained)["delivered"]["val"], abs=0.2)
    good(run(io, ["suggest", str(trained), "-n", "2", "-o", str(tmp_path / "next")]))
    assert len(list((tmp_path / "next/images").rglob("*.tif"))) == 2
    good(run(io, ["suggest", str(trained), "--relabel", "-n", "2", "-o", str(tmp_path / "doubts")]))
    more = ["--init", str(trained), "--method", "fixmatch"]
    good(run(io, training(fields, tmp_path / "more", *more)))


@pytest.mark.parametrize("form", ["onnx", "torch-export"])
def test_one_file_for_other_programs(form, trained, fields, tmp_path, io):
    """The example beside the file reads the bands by itself and finds the masks that predict writes."""
    ended = good(run(io, ["export", str(trained), "--format", form, "-o", str(tmp_path / "water.bin")]))
    assert "0.000% of the pixels in class" in ended.stderr
    image = fields / "images/val/0.tif"
    command = [sys.executable, "-W", "ignore", str(tmp_path / "water_example.py"), str(image), str(tmp_path / "m.png")]
    assert "water: " in subprocess.run(command, check=True, capture_output=True, text=True).stdout
    good(run(io, ["predict", str(trained), str(image), "-o", str(tmp_path / "out")]))
    assert (np.asarray(Image.open(tmp_path / "m.png")) == np.asarray(Image.open(tmp_path / "out/0.png"))).all()


@pytest.mark.parametrize(("method", "more"), [("ucc", []), ("three_stage", ["method.augment.side=4"])])
def test_other_views_of_bands(method, more, fields, tmp_path, io):
    """UCC's nine operations; RandAugment that moves pixels; and a branch, whose form the bands decide."""
    good(run(io, training(fields, tmp_path / "run", "--method", method, *more)))


def test_killed_and_continued(fields, tmp_path, io):
    command = training(fields, tmp_path / "run", "--method", "fixmatch", "method.tau=0.3")
    assert run(io, command, "save.before_manifest:2").code == -signal.SIGKILL
    good(run(io, command))
    good(run(io, training(fields, tmp_path / "whole", "--method", "fixmatch", "method.tau=0.3")))
    one, other = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("run", "whole"))
    assert one == other


def test_what_is_not_declared_stops(fields, tmp_path, io):
    (tmp_path / "data").symlink_to(fields)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("images", "masks", "classes.txt"):
        (bare / name).symlink_to(fields / name)
    ended = run(io, ["check", str(bare)])
    assert ended.code != 0 and "channels: [{band: 1, name: " in ended.stdout + ended.stderr


def test_other_bands_than_the_models(trained, fields, tmp_path, io):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("images", "masks", "classes.txt"):
        (other / name).symlink_to(fields / name)
    (other / "data.yaml").write_text("channels: [{band: 1, range: [0, 2000]}, {band: 4, range: [0, 4000]}]\n")
    ended = run(io, ["evaluate", str(trained), str(other), "--split", "val"])
    assert_refused(ended, 2, "other channels than the model")
