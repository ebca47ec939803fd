"""Folders with hardly anything in them: every case is defined, and said in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from fixtures_data import blocks, make_folder, save_mask
from process.helpers import assert_refused, evaluation, good, metrics_of, run, training

FEWER = "are fewer than a batch of 4: some stand in it twice, as different views"


@pytest.fixture
def folder(tmp_path):
    def make(masked, bare, val):
        names = [*(f"train/m{i}" for i in range(masked)), *(f"val/v{i}" for i in range(val))]
        make_folder(tmp_path / "data", names, [f"train/b{i}" for i in range(bare)], classes=None)
        for path in (tmp_path / "data" / "masks").rglob("*.png"):
            save_mask(path, blocks((0, 1, 2)))
        return tmp_path / "data"

    return make


@pytest.mark.parametrize(
    ("masked", "bare", "val", "method", "said"),
    [
        (2, 5, 2, "fixmatch", ["method: fixmatch, since there are 5 unlabelled images", f"2 labelled images {FEWER}"]),
        (4, 0, 2, "supervised", ["method: supervised, since there are 0 unlabelled images", "no baseline: supervised"]),
        (3, 3, 0, "fixmatch", ["3 folds of 1, 1, 1 labelled images", f"3 unlabelled images {FEWER}"]),
        (1, 0, 0, "supervised", ["no val images: 1 labelled images are too few", f"1 labelled images {FEWER}"]),
        (1, 1, 0, "fixmatch", ["no baseline: without validation images", f"1 unlabelled images {FEWER}"]),
    ],
)
def test_it_is_defined_and_said(masked, bare, val, method, said, folder, tmp_path, io):
    command = training(
        folder(masked, bare, val), tmp_path / "run", "--batch", "4", "--unlabelled-batch", "4", "--baseline"
    )
    ended = good(run(io, command))
    lines = ended.stderr.splitlines()
    assert [text for text in said if sum(text in line for line in lines) != 1] == []
    metrics = metrics_of(tmp_path / "run")
    assert metrics["method"] == method and metrics["steps"] == 12
    if not val and masked == 1:
        assert metrics["val"] is None and metrics["gain"] is None and metrics["delivered"]["run"] == "method"


def test_what_few_classes_change_is_said(folder, tmp_path, io):
    ended = good(run(io, training(folder(4, 3, 0), tmp_path / "run", "--method", "u2pl", "--folds", "1")))
    assert ended.stderr.splitlines().count("method.r_low=2: there are only 3 classes") == 1


def test_equal_pictures_are_drawn_to_one_side(folder, tmp_path, io):
    """A draw of our own may not be what makes a leak: six masked pictures twice, and every one without a mask too."""
    data = folder(6, 0, 0)
    for n in range(6):
        for twin in (f"again{n}", f"bare{n}"):
            shutil.copy(data / f"images/train/m{n}.jpg", data / f"images/train/{twin}.jpg")
        shutil.copy(data / f"masks/train/m{n}.png", data / f"masks/train/again{n}.png")
    ended = good(run(io, training(data, tmp_path / "run", "--folds", "1", "--method", "supervised")))
    assert (
        "val: 2 of 12 labelled images" in ended.stderr
        and "1 unlabelled images of these groups or pictures" in ended.stderr
    )
    found = evaluation(tmp_path / "run")
    names = found["val_names"].tolist()
    assert found["val_units"].tolist() == [names[0]] * 2, "resampled together"
    assert found["val_groups"].tolist() == ["", ""], "and no group"
    assert len(names) == 2 and {name.removeprefix("train/again").removeprefix("train/m") for name in names} == {
        names[0][-1]
    }
    shown = json.loads(good(run(io, ["check", str(data), "--json"])).stdout)
    assert not shown["problems"] and len(shown["duplicates"]) == 6


def test_what_cannot_be_done(folder, tmp_path, io):
    data = folder(4, 0, 2)
    ended = run(io, training(data, tmp_path / "run", "--method", "cps"))
    assert_refused(ended, 3, "unlabelled images and there are none", "--method supervised")
    ended = run(io, training(data, tmp_path / "run", "--labelled", "9"))
    assert_refused(ended, 2, "9", "4")


def test_doubts_about_the_data_are_said_and_kept(own_data, tmp_path, io):
    """A class that val lacks, and pictures that repeat: before training, in the run's data.yaml and in its report."""
    for path in (own_data / "masks/val").glob("*.png"):
        mask = np.array(Image.open(path))
        mask[mask == 9] = 0
        Image.fromarray(mask).save(path)
    shutil.copy(own_data / "images/train/bare0.jpg", own_data / "images/train/bare0-copy.jpg")
    ended = good(run(io, training(own_data, tmp_path / "run", "--method", "supervised")))
    absent = "class 'sand' is absent from val: its IoU cannot be measured there"
    assert f"doubt: {absent}" in ended.stderr and "images repeat another one of their role" in ended.stderr
    kept = yaml.safe_load((tmp_path / "run/data.yaml").read_text())["doubts"]
    assert absent in kept and len(kept) >= 2
    assert "images repeat another one of their role" in (tmp_path / "run/report.html").read_text()
