"""``fewmask.Dataset``: arrays become a folder that reads back as what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fewmask
from fewmask.data.images import read_image
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.errors import ConfigError, DataError

CLASSES = ["soil", "maize", "weed"]


def picture(seed: int, size: tuple[int, ...] = (20, 24, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)


def samples() -> list[dict[str, Any]]:
    mask = np.random.default_rng(9).integers(0, 3, (20, 24))
    mask[0, :5] = 255
    return [
        {"name": "field 1/a", "image": picture(0), "mask": mask, "group": "field 1"},
        {"name": "field 1/b", "image": picture(1), "mask": None, "group": "field 1"},
        {"name": "grün#2", "image": picture(2, (20, 24)), "role": "train"},
        {"name": "v", "image": Image.fromarray(picture(3)), "mask": mask.astype(np.int64) % 2, "role": "val"},
        {"name": "t", "image": picture(4), "mask": np.ones((20, 24), dtype=bool), "role": "test"},
    ]


def test_what_is_written_reads_back(tmp_path):
    root = fewmask.Dataset(samples(), CLASSES).write(tmp_path / "photos")
    index = read_folder(root)
    assert index.classes == tuple(CLASSES) and index.layout == "index file"
    assert {role: [i.name for i in items] for role, items in index.items.items()} == {
        "train": ["field 1/a", "field 1/b", "grün#2"], "val": ["v"], "test": ["t"],
    }  # fmt: skip
    assert [i.group for i in index.items["train"]] == ["field 1", "field 1", ""]
    given = {s["name"]: s for s in samples()}
    for items in index.items.values():
        for item in items:
            image = np.asarray(given[item.name]["image"])
            assert np.array_equal(read_image(item.image), image if image.ndim == 3 else np.stack([image] * 3, -1))
            mask = given[item.name].get("mask")
            assert (item.mask is None) == (mask is None)
            if item.mask is not None:
                assert np.array_equal(read_mask(item.mask, index.code), mask.astype(np.uint8))


def test_the_same_samples_are_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = fewmask.Dataset(samples(), CLASSES).write()
    assert fewmask.Dataset(samples(), CLASSES).write() == one and one.is_relative_to(tmp_path)
    other = samples()
    other[1]["image"][0, 0, 0] ^= 1
    assert fewmask.Dataset(other, CLASSES).write() != one
    assert fewmask.Dataset(samples(), [*CLASSES, "stone"]).write() != one
    assert len(list(one.parent.iterdir())) == 3, "nothing temporary is left"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../a"}, "is no path below a folder"), ({"name": "/a"}, "is no path"), ({"name": 3}, "3 is no path"),
        ({"name": "v"}, "the name 'v' is there already"), ({"name": "./v"}, "the name 'v' is there already"),
        ({"role": "dev"}, "role 'dev', must be one of train, val, test"), ({"group": 4}, "group 4 is no text"),
        ({"image": picture(0).astype(float)}, r"image is float64 \[20x24x3\], must be uint8"),
        ({"image": picture(0, (20, 24, 4))}, r"uint8 \[20x24x4\]"), ({"image": None}, r"image is object \[\]"),
        ({"mask": np.zeros((20, 23), np.uint8)}, r"mask is uint8 \[20x23\], must be integers \[20x24\]"),
        ({"mask": np.full((20, 24), 3)}, r"class index 3 in 480 pixels, first at \(x=0, y=0\); there are 3 classes"),
        ({"mask": np.full((20, 24), -1)}, "class index -1"), ({"mask": np.zeros((20, 24))}, "mask is float64"),
        ({"label": 1}, "unknown key 'label'"),
    ],
)  # fmt: skip
def test_a_sample_that_is_none(tmp_path: Path, change: dict[str, Any], message: str):
    wrong = samples()
    wrong.append({"name": "new", "image": picture(5)} | change)
    with pytest.raises(DataError, match=message) as caught:
        fewmask.Dataset(wrong, CLASSES).write(tmp_path / "photos")
    assert "sample 5" in str(caught.value.where)
    assert not list(tmp_path.iterdir()), "it appears complete or not at all"


def test_what_else_is_refused(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="holds something"):
        fewmask.Dataset(samples(), CLASSES).write(tmp_path)
    assert (tmp_path / "mine").read_text() == "x"
    for classes in ([], ["a", "a"], ["a", 3]):
        with pytest.raises(ConfigError, match="classes: "):
            fewmask.Dataset(samples(), classes)  # type: ignore[list-item]
    with pytest.raises(DataError, match="there is no sample"):
        fewmask.Dataset(iter(()), CLASSES).write(tmp_path / "empty")


def test_a_run_on_samples(tmp_path, monkeypatch):
    """The same samples again are the same data: the run is finished, and nothing is trained."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said: list[str] = []
    keys = {"model__arch": "tiny", "model__weights": "none", "data__crop": "16", "machine__devices": "cpu"}
    keys |= {"train__steps": "2", "method": "fixmatch", "data__batch": "1"}

    def train() -> fewmask.Run:
        return fewmask.train(
            fewmask.Dataset(samples(), CLASSES), tmp_path / "run", say=said.append, baseline=False, **keys
        )

    run = train()
    assert run.predict(picture(0)).shape == (20, 24)
    assert not any("already finished" in text for text in said)
    assert train().score == run.score and any("already finished" in text for text in said)
