"""Pairs of folders with roles outside, and masks that are called X_mask: every pixel is compared with its source."""

from __future__ import annotations

import numpy as np
import pytest

from fewmask.data.index import ROLES
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.errors import DataError
from fixtures_data import save_image, save_mask
from fixtures_layouts import names, refuse


class Written:
    """A folder with random masks, and what was written into each."""

    def __init__(self, root):
        self.root, self.masks = root, {}
        (root / "classes.txt").write_text("a\nb\nc\n")

    def pair(self, name, image, mask=None):
        """Write an image, and a mask of noise; ``name`` is what the image is to be called."""
        n = len(self.masks)
        save_image(self.root / image, height=9 + n, width=14, seed=n)
        self.masks[name] = None
        if mask is not None:
            self.masks[name] = np.random.default_rng(n).choice([0, 1, 2, 255], (9 + n, 14)).astype(np.uint8)
            save_mask(self.root / mask, self.masks[name])

    def check(self, **options):
        """Read the folder: every image is there once, and every pixel of its mask is the one that was written."""
        index = read_folder(self.root, **options)
        items = [item for role in ROLES for item in index.items[role]]
        assert sorted(item.name for item in items) == sorted(self.masks)
        for item in items:
            if self.masks[item.name] is None:
                assert item.mask is None
            else:
                assert np.array_equal(read_mask(item.mask, index.code), self.masks[item.name]), item.name
        assert index.classes == ("a", "b", "c")
        return index


@pytest.fixture
def written(tmp_path):
    return Written(tmp_path)


class TestInsideRoles:
    @pytest.mark.parametrize(
        ("images", "masks"), [("images", "masks"), ("img", "gt"), ("Image", "Labels"), ("rgb", "annotations")]
    )
    @pytest.mark.parametrize("val", ["val", "valid", "validation"])
    def test_every_pixel(self, written, images, masks, val):
        for role in ("train", val, "test"):
            for name in ("x", "sub/y"):
                written.pair(f"{role}/{name}", f"{role}/{images}/{name}.jpg", f"{role}/{masks}/{name}.png")
        written.pair("train/z", f"train/{images}/z.jpg")
        index = written.check()
        assert index.layout == "folders" and names(index, "train") == ["train/sub/y", "train/x", "train/z"]
        assert names(index, "val") == [f"{val}/sub/y", f"{val}/x"] and names(index, "test") == ["test/sub/y", "test/x"]

    def test_unlabelled_images_beside_them(self, written):
        """A folder of images without masks: those of train train; those of test cannot be scored."""
        written.pair("train/x", "train/images/x.jpg", "train/masks/x.png")
        written.pair("val/x", "val/images/x.jpg", "val/masks/x.png")
        written.pair("unlabelled/x", "unlabelled/images/x.jpg")
        index = written.check()
        assert names(index, "train") == ["train/x", "unlabelled/x"]
        save_image(written.root / "test/images/x.jpg")
        assert "1 test images have no mask and are left out" in written.check().notes

    def test_the_same_name_in_two_roles(self, written):
        for role in ("train", "val"):
            written.pair(f"{role}/0001", f"{role}/images/0001.png", f"{role}/masks/0001_mask.png")
        assert "masks are called like their images and _mask" in written.check().notes

    @pytest.mark.parametrize(("more", "kind"), [("masks", "masks"), ("raw", "images")])
    def test_two_candidates(self, written, more, kind):
        written.pair("train/x", "train/images/x.jpg", "train/labels/x.png")
        save_mask(written.root / f"train/{more}/x.png", np.zeros((12, 16), np.uint8))
        error = refuse(written.root, DataError, f"may both be the {kind}")
        assert error.where == str(written.root / "train") and f'{kind}: "*/' in error.todo

    @pytest.mark.parametrize("other", ["masks", "labels"])
    def test_masks_inside_and_outside(self, written, other):
        written.pair("train/x", "train/images/x.jpg", "train/masks/x.png")
        save_image(written.root / "images/train/x.jpg")
        save_mask(written.root / f"{other}/train/x.png", np.zeros((12, 16), np.uint8))
        error = refuse(written.root, DataError, f"masks lie in 'train/masks', and there are others, in '{other}'")
        assert 'images: "*/images/*" and masks: "*/masks/*"' in error.todo

    def test_the_two_lines_that_the_error_names(self, written):
        """They choose the folders inside of the roles."""
        for role in ("train", "val"):
            written.pair(f"{role}/x", f"{role}/images/x.jpg", f"{role}/masks/x.png")
        save_image(written.root / "images/train/x.jpg")
        save_mask(written.root / "masks/train/x.png", np.zeros((12, 16), np.uint8))
        (written.root / "data.yaml").write_text('images: "*/images/*"\nmasks: "*/masks/*"\n')
        index = written.check()
        assert names(index, "train") == ["train/x"] and names(index, "val") == ["val/x"]

    def test_no_mask_of_its_name(self, written):
        written.pair("train/x", "train/images/x.jpg")
        save_mask(written.root / "train/masks/y.png", np.zeros((12, 16), np.uint8))
        refuse(written.root, DataError, "none of 1 images has a mask of its name .image 'train/x', mask 'train/y'")


class TestEndings:
    @pytest.mark.parametrize("end", ["_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt"])
    def test_every_pixel(self, written, end):
        for name in ("train/a", "train/b_1", "val/sub/c"):
            written.pair(name, f"images/{name}.jpg", f"masks/{name}{end}.png")
        written.pair("train/d", "images/train/d.jpg")
        index = written.check()
        assert f"masks are called like their images and {end}" in index.notes
        assert names(index, "val") == ["val/sub/c"]

    @pytest.mark.parametrize("end", ["_image", "_img", "_sat"])
    def test_images_with_an_ending_of_their_own(self, written, end):
        for name in ("train/a", "val/b"):
            written.pair(f"{name}{end}", f"images/{name}{end}.jpg", f"masks/{name}_mask.png")
        written.check()

    def test_some_have_one_and_some_have_not(self, written):
        written.pair("train/a", "images/train/a.jpg", "masks/train/a.png")
        written.pair("val/b", "images/val/b.jpg", "masks/val/b_mask.png")
        written.check()

    def test_beside_their_images(self, written):
        for name in ("train/a", "val/b"):
            written.pair(name, f"{name}.jpg", f"{name}_mask.png")
        assert written.check().layout == "beside"

    def test_names_that_end_so_themselves(self, written):
        """An image that is called like that, and so is its mask: as ever."""
        for name in ("train/left_gt", "val/right_gt"):
            written.pair(name, f"images/{name}.jpg", f"masks/{name}.png")
        assert not any("_gt" in note for note in written.check().notes)

    @pytest.mark.parametrize(
        ("masks", "said"),
        [
            (["a.png", "a_mask.png"], "'train/a_mask' and 'train/a' may both be masks"),
            (["a_gt.png", "a_mask.png"], "'train/a_mask' and 'train/a_gt' may both be masks"),
        ],
    )
    def test_two_masks_of_one_image(self, written, masks, said):
        save_image(written.root / "images/train/a.jpg")
        for name in masks:
            save_mask(written.root / "masks/train" / name, np.zeros((12, 16), np.uint8))
        error = refuse(written.root, DataError, said)
        assert error.where == str(written.root / "masks") and "_mask.png" in error.todo

    def test_an_image_that_is_called_like_a_mask(self, written):
        """images/a and images/a_mask, masks/a_mask: whose is it?"""
        for name in ("a", "a_mask"):
            save_image(written.root / f"images/train/{name}.jpg")
        save_mask(written.root / "masks/train/a_mask.png", np.zeros((12, 16), np.uint8))
        refuse(written.root, DataError, "is 'train/a_mask' the mask of the image 'train/a'")
