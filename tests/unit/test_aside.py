"""Images beside what a layout reads."""

from __future__ import annotations

import pytest
from PIL import Image

from fewmask.data.layouts import read_folder
from fewmask.errors import DataError
from fixtures_data import blocks, make_folder, save_mask
from fixtures_layouts import names, refuse


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12)).save(path)


@pytest.fixture
def root(tmp_path):
    """images/ and masks/ of three."""
    make_folder(tmp_path, ["a", "b", "c"], [])
    return tmp_path


@pytest.mark.parametrize("folder", ["unlabelled", "Unlabeled"])
def test_a_folder_of_unlabelled_images(root, folder):
    for name in ("a.jpg", "deep/b.jpg"):
        image(root / folder / name)
    index = read_folder(root, val_fraction=0)
    assert [i.name for i in index.items["train"] if i.mask is None] == [f"{folder}/a", f"{folder}/deep/b"]
    assert f"2 images in {folder!r}: unlabelled training images" in index.notes


def test_inside_roles(tmp_path):
    for name in ("train/images/a.jpg", "train/images/b.jpg", "val/images/c.jpg", "unlabeled/d.jpg"):
        image(tmp_path / name)
    for name in ("train/masks/a.png", "train/masks/b.png", "val/masks/c.png"):
        save_mask(tmp_path / name, blocks((0, 1)))
    index = read_folder(tmp_path)
    assert names(index, "train") == ["train/a", "train/b", "unlabeled/d"] and names(index, "val") == ["val/c"]


def test_one_that_the_layout_reads_itself_is_read_once(root):
    image(root / "images" / "unlabelled" / "x.jpg")
    assert names(read_folder(root, val_fraction=0), "train") == ["a", "b", "c", "unlabelled/x"]


def test_two_of_one_name(root):
    image(root / "images" / "unlabelled" / "x.jpg")
    image(root / "unlabelled" / "x.jpg")
    refuse(root, DataError, "two images are called 'unlabelled/x'")


def test_images_that_are_not_used_are_told(root):
    assert not [note for note in read_folder(root, val_fraction=0).notes if "are not read" in note]
    for name in ("new/1.jpg", "new/2.jpg"):
        image(root / name)
    save_mask(root / "SegmentationObject" / "a.png", blocks((0, 1)))
    told = read_folder(root, val_fraction=0).notes
    assert "2 pictures in 'new' are not read, first 'new/1.jpg' (a folder called 'unlabelled' would be)" in told


def test_what_data_yaml_names_is_all(root):
    image(root / "unlabelled" / "x.jpg")
    (root / "data.yaml").write_text("images: images\nmasks: masks\n")
    assert names(read_folder(root, val_fraction=0), "train") == ["a", "b", "c"]
