"""Lists beside their data: absent classes and pictures in two lists."""

import numpy as np
import pytest
from PIL import Image

from fewmask.data.coverage import look
from fewmask.data.layouts import read_folder
from fewmask.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Six training images in three classes; e is d, saved as JPEG."""
    rng = np.random.default_rng(0)
    for kind in ("images/train", "masks/train", "images/val", "masks/val"):
        (tmp_path / "d" / kind).mkdir(parents=True)
    for n, name in enumerate("abcdv"):
        role = "val" if name == "v" else "train"
        image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48))
        image.save(tmp_path / "d" / "images" / role / f"{name}.png")
        if name == "d":
            image.save(tmp_path / "d" / "images" / "train" / "e.jpg", quality=90)
        mask = np.zeros((48, 64), np.uint8)
        mask[:10] = n % 3
        Image.fromarray(mask).save(tmp_path / "d" / "masks" / role / f"{name}.png")
    (tmp_path / "d" / "classes.txt").write_text("ground\nhouse\ntree\n")
    return tmp_path


def write(path, *names):
    path.write_text("".join(f"train/{n}\n" for n in names))
    return path


def test_absent_classes_and_twins_are_named(folder):
    index = read_folder(folder / "d")
    few, rest = write(folder / "labelled.txt", "a", "b", "d"), write(folder / "unlabelled.txt", "c", "e")
    assert look([few, rest], index) == [
        "labelled.txt: no mask holds tree",
        "near-duplicates: train/d in labelled.txt, train/e in unlabelled.txt",
    ]


def test_a_list_that_covers_everything_is_silent(folder):
    assert look([write(folder / "labelled.txt", "a", "b", "c")], read_folder(folder / "d")) == []


def test_names_that_are_not_there_are_refused(folder):
    with pytest.raises(DataError, match="labelled.txt"):
        look([write(folder / "labelled.txt", "a", "nowhere")], read_folder(folder / "d"))
