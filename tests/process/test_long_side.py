"""``--resize long:N``: photos of mixed sizes and orientation from training to prediction."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fixtures_data import blocks, save_image, save_mask
from process.helpers import FIXMATCH, assert_refused, good, run, training

SIZES = [(24, 32), (32, 24), (20, 40), (48, 36)]


@pytest.fixture
def photos(tmp_path):
    """Images of four sizes, a part of them with masks."""
    names = [*(f"train/{n}" for n in range(8)), *(f"val/{n}" for n in range(4))]
    for n, name in enumerate(names):
        height, width = SIZES[n % len(SIZES)]
        save_image(tmp_path / "data/images" / f"{name}.png", height=height, width=width, seed=n)
        if n < 4 or n >= 8:
            save_mask(tmp_path / "data/masks" / f"{name}.png", blocks((0, 1), height, width))
    (tmp_path / "data/classes.txt").write_text("left\nright\n")
    return tmp_path / "data"


def test_from_training_to_prediction(photos, tmp_path, io):
    command = training(photos, tmp_path / "run", *FIXMATCH, "--resize", "long:16", "--baseline")
    good(run(io, command))
    assert "already finished" in good(run(io, command)).stderr
    assert_refused(run(io, [*command, "--resize", "long:20"]), 4, "data.resize: 'long:16' in the run, 'long:20' asked")
    assert "long:16" in (tmp_path / "run/report.html").read_text()
    assert json.loads((tmp_path / "run/model/config.json").read_text())["resize"] == "long:16"
    said = json.loads(good(run(io, ["evaluate", str(tmp_path / "run"), "--which", "last", "--json"])).stdout)
    known = json.loads((tmp_path / "run/metrics.json").read_text())["val"]
    assert said["images"] == 4 and said["miou"] == pytest.approx(known["miou"], abs=0.01)
    good(
        run(io, ["predict", str(tmp_path / "run"), str(photos / "images/val"), "-o", str(tmp_path / "out"), "--probs"])
    )
    for n, (height, width) in enumerate(SIZES):
        assert np.array(Image.open(tmp_path / f"out/{n}.png")).shape == (height, width)
        assert np.load(tmp_path / f"out/probs/{n}.npy").shape == (2, height, width)


def test_rounds_and_export(photos, tmp_path, io):
    command = training(photos, tmp_path / "run", "--method", "self_training", "--resize", "long:16")
    good(run(io, command))
    out = tmp_path / "model.pt2"
    words = ["export", str(tmp_path / "run"), "--format", "torch-export", "-o", str(out)]
    assert_refused(run(io, words), 2, "the model resizes images to long:16", "--size")
    said = json.loads(good(run(io, [*words, "--size", "24x32", "--json"])).stdout)
    assert said["differing_pixels"] < 0.01 and said["size"] == [24, 32]
