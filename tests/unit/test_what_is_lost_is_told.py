"""No image and no mask of a folder is lost, or taken for something else, without a word."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fewmask.data.check import check
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.errors import DataError
from fixtures_data import blocks, save_image, save_mask
from fixtures_layouts import names, refuse


def pair(root, image, mask, seed=0):
    """Write an image and its mask below a folder."""
    save_image(root / image, seed=seed)
    save_mask(root / mask, blocks((0, 1)), palette=False)


def notes(root):
    return "\n".join(map(str, read_folder(root, val_fraction=0).notes))


def test_photos_of_an_export_in_folders_that_its_masks_lack(tmp_path):
    """CVAT's masks and lists name the frames, the photos lie by day."""
    for n in range(4):
        save_image(tmp_path / f"photos/2026-05-0{1 + n % 2}/{n}.jpg", seed=n)
    for n in range(3):
        mask = np.full((12, 16, 3), (200, 0, 0), np.uint8)
        save_mask(tmp_path / f"SegmentationClass/{n}.png", mask, palette=False)
    save_mask(tmp_path / "SegmentationClass/gone.png", mask, palette=False)
    (tmp_path / "labelmap.txt").write_text("soil:0,0,0::\ncrop:200,0,0::\n")
    index = read_folder(tmp_path, val_fraction=0)
    assert {i.name: i.mask and i.mask.name for i in index.items["train"]} == {
        "2026-05-01/0": "0.png", "2026-05-02/1": "1.png", "2026-05-01/2": "2.png", "2026-05-02/3": None,
    }  # fmt: skip
    assert "1 masks have no image and are left out, first 'gone'" in notes(tmp_path)


def test_a_mask_that_may_be_of_two_photos(tmp_path):
    for day in ("monday", "tuesday"):
        save_image(tmp_path / f"photos/{day}/1.jpg")
    save_mask(tmp_path / "SegmentationClass/1.png", np.zeros((12, 16, 3)), palette=False)
    (tmp_path / "labelmap.txt").write_text("soil:0,0,0::\n")
    assert "1 masks have no image" in notes(tmp_path)


@pytest.mark.parametrize("inside", [False, True])
def test_a_second_folder_of_masks(tmp_path, inside):
    """The field of view is in masks, the vessels in another folder."""
    root = tmp_path / "train" if inside else tmp_path
    for n in range(2):
        pair(root, f"images/{n}.png", f"masks/{n}_mask.png", seed=n)
        save_mask(root / f"1st_manual/{n}_manual1.png", blocks((0, 1)))
    place = "'train/1st_manual'" if inside else "'1st_manual'"
    assert f"2 pictures in {place} are not read" in notes(tmp_path)


def test_files_of_a_kind_that_is_not_read_beside_masks_that_are(tmp_path):
    for n in range(3):
        pair(tmp_path, f"train/{n}.jpg", f"train_masks/{n}_mask.png", seed=n)
    (tmp_path / "train_masks/2_mask.png").unlink()
    np.save(tmp_path / "train_masks/2_mask.npy", blocks((0, 1)))
    (tmp_path / "train/readme.txt").write_text("of no interest")
    told = notes(tmp_path)
    assert "1 files hold pictures of a kind that is not read, first '2_mask.npy'" in told and "readme" not in told


def test_masks_as_gif(tmp_path):
    for n in range(2):
        save_image(tmp_path / f"train/{n}.jpg", seed=n)
        mask = Image.fromarray(blocks((0, 1)))
        mask.putpalette([0, 0, 0, 255, 255, 255])
        (tmp_path / "train_masks").mkdir(exist_ok=True)
        mask.save(tmp_path / f"train_masks/{n}_mask.gif")
    index = read_folder(tmp_path, val_fraction=0)
    assert all((read_mask(i.mask, index.code) == blocks((0, 1))).all() for i in index.items["train"])


def test_no_image_has_a_mask(tmp_path):
    """All masks of VOC are in an archive that nobody unpacked."""
    for n in range(2):
        save_image(tmp_path / f"JPEGImages/2008_00000{n}.jpg", seed=n)
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000000\n2008_000001\n")
    report = check(tmp_path, cache=False)
    assert [(p.kind, p.what) for p in report.problems] == [("no_mask", "no image has a mask")]
    assert not report.doubts, "of classes there is nothing to say then"


def test_unlabelled_images_that_are_called_after_a_labelled_one(tmp_path):
    """The second mask of an image is no unlabelled image; frames that are counted are."""
    for name in ("benign (1)", "benign (2)", "frame_1"):
        pair(tmp_path, f"{name}.png", f"{name}_mask.png", seed=len(name))
    for n, name in enumerate(("benign (1)_mask_1", "frame_1_overlay", "frame_1_2", "frame_12")):
        save_image(tmp_path / f"{name}.png", seed=50 + n)
    found = {f.name: f.value for _, f in check(tmp_path, cache=False).findings() if f.kind == "named_after"}
    assert found == {"benign (1)_mask_1": "benign (1)", "frame_1_overlay": "frame_1"}


def test_lists_of_roles_that_nothing_asks_for(tmp_path):
    for n in range(4):
        pair(tmp_path, f"images/{n}.png", f"masks/{n}.png", seed=n)
    (tmp_path / "val.txt").write_text("3\n")
    assert "lists beside the folders are not read; if they say the roles, write roles: {val: val.txt}" in notes(
        tmp_path
    )
    (tmp_path / "data.yaml").write_text("roles: {val: val.txt}\n")
    assert names(read_folder(tmp_path), "val") == ["3"] and "lists beside" not in notes(tmp_path)


def test_a_folder_of_images_and_masks_beside_those_of_roles(tmp_path):
    for role in ("train", "val", "new_2026"):
        pair(tmp_path, f"{role}/images/0.png", f"{role}/masks/0.png", seed=len(role))
    error = refuse(tmp_path, DataError, "'new_2026' holds images and masks as 'train' does, and is called like no role")
    assert 'images: "*/images/*", masks: "*/masks/*" and roles:' in str(error)


def test_masks_of_val_in_a_folder_of_another_name(tmp_path):
    pair(tmp_path, "train/images/0.png", "train/masks/0.png")
    pair(tmp_path, "val/images/0.png", "val/masks_png/0.png", seed=1)
    assert "'masks_png' may hold the masks of 'images'" in str(refuse(tmp_path, DataError, "may hold the masks"))


def test_a_table_of_classes_beside_folders_that_data_yaml_names(tmp_path):
    for n in range(2):
        pair(tmp_path, f"original/{n}.png", f"semantic/{n}.png", seed=n)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsoil,0,0,0\ncrop,9,9,9\n")
    (tmp_path / "data.yaml").write_text("images: original\nmasks: semantic\n")
    assert read_folder(tmp_path, val_fraction=0).classes == ("soil", "crop")


def test_a_table_that_a_spreadsheet_has_written(tmp_path):
    pair(tmp_path, "images/0.png", "masks/0.png")
    (tmp_path / "class_dict.csv").write_text("name;r;g;b\nsoil;0;0;0\ncrop;9;9;9\n")
    assert read_folder(tmp_path, val_fraction=0).classes == ("soil", "crop")


def test_ids_that_count_from_1(tmp_path):
    save_image(tmp_path / "images/0.png")
    save_mask(tmp_path / "masks/0.png", blocks((1, 2, 3)), palette=False)
    (tmp_path / "classes.txt").write_text("soil\ncrop\nweed\n")
    assert "if ids count from 1, write classes: {1: ..., 3: ...}" in check(tmp_path, cache=False).problems[0].todo


@pytest.mark.parametrize("labels", ['{"0": "background", "1": "crop"}', '{"background": 0, "crop": 1}'])
def test_the_first_nnunet_and_the_decathlon(tmp_path, labels):
    """Ids before names, and no number of a channel."""
    pair(tmp_path, "imagesTr/case_001.png", "labelsTr/case_001.png")
    (tmp_path / "dataset.json").write_text(f'{{"labels": {labels}}}')
    index = read_folder(tmp_path, val_fraction=0)
    assert index.classes == ("background", "crop") and names(index, "train") == ["case_001"]


@pytest.mark.parametrize("end", ["_MASK", "_Label", "-labels", "_annotation"])
def test_endings_in_whatever_case(tmp_path, end):
    for n in range(2):
        pair(tmp_path, f"{n}.jpg", f"{n}{end}.png", seed=n)
    assert [i.mask.stem for i in read_folder(tmp_path, val_fraction=0).items["train"]] == [f"0{end}", f"1{end}"]
