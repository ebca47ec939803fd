"""Globs that are proposed for a folder that no layout reads: done as proposed, every mask meets its image."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fewmask.data.layouts import read_folder
from fewmask.data.layouts.proposal import _pairs
from fewmask.data.layouts.wildcards import meeting
from fewmask.errors import DataError
from fixtures_data import blocks, save_image, save_mask

N = range(3)
FOLDERS = {
    "unlike folders, the same names": ("Original/{n}.png", "Ground Truth/{n}.png"),
    "a folder in the middle": ("JPEGImages/480p/bear/{n}.jpg", "Annotations/480p/bear/{n}.png"),
    "both in every part": ("seq{n}/cam front/0.png", "seq{n}/Labels/0.png"),
    "prefixes": ("images/img_{n:03}.png", "masks/mask_{n:03}.png"),
    "prefixes in roles": ("images/val/plot{n}.png", "labels/val/label_plot{n}.png"),
    "long endings": ("ISIC_Input/ISIC_{n}.jpg", "ISIC_GroundTruth/ISIC_{n}_segmentation.png"),
    "two ends": ("2_Ortho/top_2_1{n}_RGB.tif", "5_Labels_all/top_2_1{n}_label.tif"),
    "extensions": ("{n}.jpg", "{n}.png"),
    "extensions in folders": ("a{n}/{n}.jpg", "a{n}/{n}.png"),
    "masks in a folder inside": ("north/{n}.jpg", "north/masks/{n}.png"),
    "an ending that nobody knows": ("Image_{n}L.jpg", "Image_{n}L_1stHO.png"),
    "a prefix in one folder": ("{n}.jpg", "seg_{n}.png"),
    "a folder an image": ("case {n}/image.png", "case {n}/mask.png"),
}


def proposed(root):
    """Return what the error says to write, as data.yaml."""
    with pytest.raises(DataError) as caught:
        read_folder(root, val_fraction=None)
    found = re.search(r"write in data.yaml: images: ('[^']*') and masks: ('[^']*')", str(caught.value))
    return None if found is None else f"images: {found[1]}\nmasks: {found[2]}\n"


@pytest.mark.parametrize("kind", FOLDERS)
def test_done_as_proposed(kind, tmp_path):
    image, mask = FOLDERS[kind]
    for n in N:
        save_image(tmp_path / image.format(n=n), seed=n)
        save_mask(tmp_path / mask.format(n=n), blocks((0, 1)), palette=False)
    (tmp_path / "data.yaml").write_text(proposed(tmp_path) or "")
    items = read_folder(tmp_path, val_fraction=0, unmasked=True).items
    found = {i.image: i.mask for role in items.values() for i in role}
    assert found == {tmp_path / image.format(n=n): tmp_path / mask.format(n=n) for n in N}


def test_few_masks_of_many_images(tmp_path):
    for n in range(12):
        save_image(tmp_path / "tiles" / f"{n}.png", seed=n)
    for n in range(2):
        save_mask(tmp_path / "drawn labels" / f"{n}.png", blocks((0, 1)), palette=False)
    assert proposed(tmp_path) == "images: 'tiles'\nmasks: 'drawn labels'\n"


@pytest.mark.parametrize("other", ["instances", "masks_human", "labels_color"])
def test_what_is_made_of_masks_is_neither(other, tmp_path):
    for n in N:
        save_image(tmp_path / "top/rgb_left" / f"{n}.png", seed=n)
        save_mask(tmp_path / "top/labels" / f"{n}.png", blocks((0, 1)), palette=False)
        save_mask(tmp_path / "top" / other / f"{n}.png", blocks((0, 1)), palette=False)
    assert proposed(tmp_path) == "images: '**/rgb_left/**'\nmasks: '**/labels/**'\n"


def test_a_part_of_the_data_is_not_proposed_for_the_whole(tmp_path):
    for part in ("A", "B", "C"):
        for n in N:
            save_image(tmp_path / f"Data-{part}" / f"{part}-Image" / f"{part}{n}.jpg", seed=n)
            save_mask(tmp_path / f"Data-{part}" / f"{part}-Mask" / f"{part}{n}.png", blocks((0, 1)))
    assert proposed(tmp_path) is None


@pytest.mark.parametrize("mask", ["RGB", "jpg"])
def test_pictures_that_are_no_masks(mask, tmp_path):
    for n in N:
        save_image(tmp_path / "a" / f"{n}.png", seed=n)
        save_image(tmp_path / "b" / f"{n}.{'png' if mask == 'RGB' else 'jpg'}", seed=n + 9)
    assert proposed(tmp_path) is None


def test_thousands_of_folders_are_not_compared_with_each_other():
    one = {((), "x"): Path("x.png")}
    assert _pairs({(0, f"patient {n}"): one for n in range(2000)}, 2000) == []
    assert _pairs({(0, "a"): one, (0, "b"): one, (1, "c"): one}, 2) == [(0, "a", "b"), (0, "b", "a")]


@pytest.mark.parametrize(
    ("images", "masks", "globs"),
    [
        (["img_1", "img_12"], ["m_1", "m_12"], ("img_*", "m_*")),
        (["a1", "a2"], ["a1", "a2"], None),  # they meet as they are
        (["apple", "apricot"], ["apple_x", "apricot_x"], ("*", "*_x")),  # no word is cut
        (["f10", "f11"], ["g10", "g11"], ("f*", "g*")),  # no number either
        (["n/x1", "s/x1"], ["n/y1", "s/y1"], ("x*", "y*")),
        (["n/x1", "s/x2"], ["s/y1", "n/y2"], None),  # other folders
        (["x1", "x2", "x3", "x4"], ["y1", "y9", "y8", "y7"], None),
        (["x1"], ["y1"], None),  # one is no pattern
    ],
)
def test_meeting(images, masks, globs):
    assert meeting(images, masks) == globs


def test_pictures_that_pillow_alone_would_refuse(tmp_path, monkeypatch):
    """Orthophotos are larger than its limit; a header is looked at as everywhere else."""
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    for n in N:
        save_image(tmp_path / "ortho" / f"{n}.png", seed=n)
        save_mask(tmp_path / "drawn" / f"{n}.png", blocks((0, 1)), palette=False)
    assert proposed(tmp_path) == "images: 'ortho'\nmasks: 'drawn'\n"
