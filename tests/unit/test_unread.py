"""Folders that no layout reads: what is said of them, and that doing it helps."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from fewmask.data.layouts import read_folder
from fewmask.data.scan import scan
from fewmask.errors import DataError
from fixtures_data import blocks, save_image, save_mask
from fixtures_layouts import refuse


def told_places(root, images, masks):
    """Do what the error says, and return how many masks are found then."""
    error = refuse(root, DataError, f"images: '{images}' and masks: '{masks}'".replace("*", r"\*"))
    assert "write in data.yaml" in error.todo
    (root / "data.yaml").write_text(f"images: '{images}'\nmasks: '{masks}'\n")
    return len(read_folder(root, val_fraction=0).labelled)


def test_label_me(tmp_path):
    for n in range(3):
        save_image(tmp_path / f"{n}.jpg", seed=n)
        (tmp_path / f"{n}.json").write_text(json.dumps({"version": "5.4.1", "shapes": [], "imagePath": f"{n}.jpg"}))
    assert "COCO" in refuse(tmp_path, DataError, "files of LabelMe, such as '0.json'").todo


def test_what_label_me_makes_of_them(tmp_path):
    for n in range(3):
        save_image(tmp_path / "JPEGImages" / f"{n}.jpg", seed=n)
        save_image(tmp_path / "SegmentationClassVisualization" / f"{n}.jpg", seed=n)
        save_mask(tmp_path / "SegmentationClassPNG" / f"{n}.png", blocks((0, 1)))
    assert told_places(tmp_path, "JPEGImages", "SegmentationClassPNG") == 3


def test_label_me_one_image_at_a_time(tmp_path):
    """Each file counts its own labels: 1 is crop here and weed there."""
    for n in range(2):
        save_image(tmp_path / f"{n}_json/img.png", seed=n)
        save_mask(tmp_path / f"{n}_json/label.png", blocks((0, 1)))
        (tmp_path / f"{n}_json/label_names.txt").write_text(f"_background_\n{('crop', 'weed')[n]}\n")
    assert "labelme2voc.py" in refuse(tmp_path, DataError, "ids mean another class in each image").todo


@pytest.mark.parametrize("mask", ["mask.png", "Segmentation.png", "gt_label.tif"])
def test_a_folder_for_each_image(tmp_path, mask):
    for n in range(5):
        save_image(tmp_path / f"case {n}" / "image.png", seed=n)
        save_image(tmp_path / f"case {n}" / "depth.png", seed=n + 10)
        if n < 3:
            save_mask(tmp_path / f"case {n}" / mask, blocks((0, 1)))
    assert told_places(tmp_path, "**/image.png", f"**/{mask}") == 3
    assert read_folder(tmp_path, val_fraction=0).labelled[0].name == "case 0"


@pytest.mark.parametrize("project", [True, False])
def test_the_vgg_image_annotator(tmp_path, project):
    save_image(tmp_path / "train/1.jpg")
    found = {"1.jpg99": {"filename": "1.jpg", "size": 99, "regions": {}}}
    content = {"_via_settings": {}, "_via_img_metadata": found} if project else found
    (tmp_path / "train/via_region_data.json").write_text(json.dumps(content))
    assert "as COCO" in refuse(tmp_path, DataError, "VGG Image Annotator, such as 'via_region_data.json'").todo


def test_polygons_without_the_file_that_names_their_classes(tmp_path):
    save_image(tmp_path / "images/train/1.jpg")
    file = tmp_path / "labels/train/1.txt"
    file.parent.mkdir(parents=True)
    file.write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    assert "names: [first class" in refuse(tmp_path, DataError, "polygons of Ultralytics, such as '1.txt'").todo
    (tmp_path / "data.yaml").write_text("names: [crop]\ntrain: images/train\n")
    assert read_folder(tmp_path, val_fraction=0).classes == ("background", "crop")


def test_run_lengths_in_a_table(tmp_path):
    save_image(tmp_path / "train_images/1.jpg")
    (tmp_path / "train.csv").write_text("ImageId_ClassId,EncodedPixels\n1.jpg_1,1 2\n")
    assert "draw a mask PNG" in refuse(tmp_path, DataError, "run lengths in 'train.csv'").todo


def test_supervisely(tmp_path):
    for n in range(3):
        save_image(tmp_path / "ds0/img" / f"{n}.jpg", seed=n)
        file = tmp_path / "ds0/ann" / f"{n}.jpg.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"size": {"height": 12, "width": 16}, "objects": []}))
    assert "Export as masks" in refuse(tmp_path, DataError, "project of Supervisely").todo


def test_its_export_as_masks(tmp_path):
    for n in range(3):
        save_image(tmp_path / "ds0/img" / f"{n}.jpg", seed=n)
        save_mask(tmp_path / "ds0/masks_machine" / f"{n}.png", blocks((0, 1)))
        save_image(tmp_path / "ds0/masks_human" / f"{n}.png", seed=n)
    assert told_places(tmp_path, "**/img/**", "**/masks_machine/**") == 3


def test_folders_called_otherwise(tmp_path):
    for n in range(3):
        save_image(tmp_path / "tiles" / f"{n}.tif", seed=n)
    save_mask(tmp_path / "labels" / "0.tif", blocks((0, 1)), palette=False)
    assert told_places(tmp_path, "tiles", "labels") == 1


def test_folders_that_have_nothing_in_common(tmp_path):
    save_image(tmp_path / "tiles" / "a.png")
    save_mask(tmp_path / "labels" / "b.png", blocks((0, 1)))
    assert "see the layouts" in refuse(tmp_path, DataError, "no images folder; there is labels, tiles").todo


@pytest.mark.parametrize(
    ("name", "says"),
    [("annotations.xml", "CVAT's own XML"), ("brush/task-1-annotation-2-by-1-tag-leaf-0.png", "each brush")],
)
def test_exports_of_another_kind(tmp_path, name, says):
    save_image(tmp_path / "images/a.jpg")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_mask(tmp_path / name, blocks((0, 1))) if name.endswith("png") else (tmp_path / name).write_text("<a/>")
    refuse(tmp_path, DataError, says)


def test_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        file.writestr("a.txt", "a")
    assert refuse(tmp_path, DataError, "holds the archive 'export.zip'").todo == "unpack it here"
    assert "unpack an archive" in refuse(tmp_path / "export.zip", DataError, "data folder is a file").todo


def test_side_cars_of_maps_are_no_mistake(tmp_path):
    save_image(tmp_path / "images/a.tif")
    save_mask(tmp_path / "masks/a.png", blocks((0, 1)))
    for name in ("a.tfw", "a.tif.aux.xml", "a.tif.ovr", "a.prj"):
        (tmp_path / "images" / name).write_text("1")
    assert not [note for note in read_folder(tmp_path, val_fraction=0).notes if "no images by their names" in note]
    (tmp_path / "images/a.raw").write_text("1")
    assert [note for note in read_folder(tmp_path, val_fraction=0).notes if "no images by their names" in note]


def test_masks_of_fractions(tmp_path):
    save_image(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.zeros((12, 16), np.float32)).save(tmp_path / "masks/a.tif")
    index = read_folder(tmp_path, val_fraction=0)
    found = scan(index.labelled, None, index.code, cache=False).problems
    assert found[0].what == "masks of floating-point numbers are not read" and "gdal_translate" in found[0].todo
