"""What real exports do that a first reading of a format misses: roles elsewhere, names quoted, shapes over shapes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fewmask.data.check import check
from fewmask.data.layouts import read_folder, with_classes
from fewmask.data.masks import read_mask
from fewmask.data.roles import role_folder
from fewmask.data.scan import scan
from fewmask.errors import ConfigError, DataError
from fixtures_layouts import names, refuse

SIZE = (16, 12)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, path.stem))
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)


def mask(path, *ids):
    """Write columns of these values, each as wide as the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array([ids], np.uint8).repeat(16 // len(ids), axis=1).repeat(12, axis=0)).save(path)


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def row_of(index, name):
    item = next(i for items in index.items.values() for i in items if i.name == name)
    assert item.mask is not None, name
    return read_mask(item.mask, index.code)[0].tolist()


# --- roles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"),
    [("train2017/a", "train"), ("val_2014/a", "val"), ("Test-2020/a", "test"), ("train1/a", None), ("val20/a", None),
     ("2017/a", None), ("train2017", None)],
)  # fmt: skip
def test_folders_with_the_year_of_a_challenge(name, role):
    assert role_folder(name) == role


def polygons(root, where, data_yaml):
    """Write an image and an object a name below images/ and labels/, and Ultralytics' data.yaml."""
    for name in where:
        image(root / "images" / f"{name}.png")
        text(root / "labels" / f"{name}.txt", "1 0 0 0.5 0 0.5 1 0 1\n")
    text(root / "data.yaml", f"{data_yaml}\nnames: [crop, weed]\n")


class TestUltralytics:
    @pytest.mark.parametrize(
        "places",
        [
            "train: images/part1\nval: images/part2",
            "path: /home/me/field\ntrain: [images/part1]\nval: images/part2/",
            "path: C:\\data\\field\ntrain: ../field/images/part1\nval: ../field/images/part2\ntest:",
            "train: lists/train.txt\nval: lists/val.txt",
        ],
    )
    @pytest.mark.parametrize("masks_dir", [False, True])
    def test_roles_are_those_that_it_names(self, root, places, masks_dir):
        """They were read off the names of folders alone: what is called otherwise was trained on."""
        where = ("part1/a", "part1/b", "part2/c")
        polygons(root, where, places)
        text(root / "lists" / "train.txt", "./images/part1/a.png\n./images/part1/b.png\n")
        text(root / "lists" / "val.txt", "/home/me/field/images/part2/c.png\n")
        if masks_dir:
            with (root / "data.yaml").open("a") as file:
                file.write("masks_dir: masks\n")
            for name in where:
                mask(root / "masks" / f"{name}.png", 0, 1)
        index = read_folder(root, val_fraction=0)
        assert names(index, "train") == ["part1/a", "part1/b"] and names(index, "val") == ["part2/c"]

    def test_what_it_does_not_name(self, root):
        """Without a mask it is unlabelled, with one it is left out; a folder that is not here is said."""
        places = "train: images/part1\nval: images/part2\ntest: ../test/images"
        polygons(root, ("part1/a", "part2/b", "part3/c"), places)
        image(root / "images" / "part3" / "d.png")
        index = read_folder(root, val_fraction=0)
        assert names(index, "train") == ["part1/a", "part3/d"] and names(index, "val") == ["part2/b"]
        assert any("'part3/c'" in note for note in index.notes)
        assert any("'../test/images', as data.yaml says, is not here" in note for note in index.notes)

    def test_one_folder_for_two_roles(self, root):
        polygons(root, ("part1/a", "part1/b"), "train: images/part1\nval: images/part1")
        refuse(root, DataError, "both")

    def test_our_keys_beside_its_own(self, root):
        """An error says "write in data.yaml", and that is the file which is there."""
        polygons(root, [f"train/{k}" for k in "abcd"], "train: images/train")
        for k in "cd":
            text(root / "labels" / "train" / f"{k}.txt", "")
        assert any("empty_masks" in problem for problem in map(str, check(root).lines()))
        with (root / "data.yaml").open("a") as file:
            file.write("empty_masks: unlabelled\nexif: ignore\nroboflow: {version: 3}\nchannels: 3\n")
        report = check(root)
        assert not report.problems and report.index is not None
        assert sum(i.mask is None for i in report.index.items["train"]) == 2
        with (root / "data.yaml").open("a") as file:
            file.write("empty_mask: unlabelled\n")
        refuse(root, ConfigError, "unknown key 'empty_mask'")


def test_folders_of_images_and_masks_for_each_role(root):
    for role, name in (("train", "a"), ("train", "b"), ("val", "c")):
        image(root / f"{role}_images" / f"{name}.png")
        if name != "b":
            mask(root / f"{role}_masks" / f"{name}.png", 0, 1)
    index = read_folder(root, val_fraction=0)
    assert names(index, "train") == ["train/a", "train/b"] and names(index, "val") == ["val/c"]
    assert row_of(index, "train/a") == [0] * 8 + [1] * 8 and index.items["train"][1].mask is None


# --- which file is which ------------------------------------------------------------------------------------------


def test_masks_called_like_the_files_of_images(root):
    """``a.jpg.png`` is the mask of ``a.jpg``; half of them so, and those images were unlabelled."""
    for name in "abc":
        image(root / "images" / f"{name}.jpg")
    mask(root / "masks" / "a.jpg.png", 0, 1)
    mask(root / "masks" / "b.png", 1, 0)
    index = read_folder(root, val_fraction=0)
    assert row_of(index, "a") == [0] * 8 + [1] * 8 and row_of(index, "b") == [1] * 8 + [0] * 8
    assert [i.mask is None for i in index.items["train"]] == [False, False, True]


@pytest.mark.parametrize("other", ["_seg", "_overlay", "-color"])
def test_a_second_kind_of_picture_beside_images(root, other):
    """They would be unlabelled training images that show the truth of others."""
    for name in "abc":
        image(root / f"{name}.jpg")
        mask(root / f"{name}_mask.png", 0, 1)
        image(root / f"{name}{other}.png")
    refuse(root, DataError, f"beside a_mask lies a{other}")
    text(root / "data.yaml", 'images: "*.jpg"\nmasks: "*_mask.png"\n')
    index = read_folder(root, val_fraction=0)
    assert names(index, "train") == ["a", "b", "c"] and row_of(index, "b") == [0] * 8 + [1] * 8


def test_images_that_are_called_like_another(root):
    """One of them is no second kind."""
    for name in ("a", "b", "a_left"):
        image(root / f"{name}.jpg")
    for name in "ab":
        mask(root / f"{name}_mask.png", 0, 1)
    assert names(read_folder(root, val_fraction=0), "train") == ["a", "a_left", "b"]


def test_uploads_whose_names_are_quoted(root):
    """Label Studio quotes them: the masks of such images were lost with a note."""
    image(root / "Feld ä.png")
    value = {"points": [[0, 0], [50, 0], [50, 100], [0, 100]], "polygonlabels": ["weed"]}
    result = {"type": "polygonlabels", "value": value, "original_width": 16, "original_height": 12}
    task = {"data": {"image": "/data/upload/3/0a1b2c3d-Feld%20%C3%A4.png"}, "annotations": [{"result": [result]}]}
    text(root / "project.json", json.dumps([task]))
    assert row_of(read_folder(root, val_fraction=0), "Feld ä") == [1] * 8 + [0] * 8


# --- what pixels mean ---------------------------------------------------------------------------------------------


def test_a_large_shape_over_a_small_one(root):
    """Datumaro says by z_order what lies on top; of one z_order it is the smaller shape."""
    image(root / "images" / "train" / "a.png")
    wide, narrow = [0, 0, 16, 0, 16, 12, 0, 12], [0, 0, 8, 0, 8, 12, 0, 12]
    shapes = [(0, wide, 1), (1, narrow, 0)]

    def written(levels):
        notes = [
            {"type": "polygon", "label_id": kind, "points": points, "z_order": z if levels else 0}
            for kind, points, z in shapes
        ]
        tree = {
            "dm_format_version": "1.0", "categories": {"label": {"labels": [{"name": "crop"}, {"name": "weed"}]}},
            "items": [{"id": "a", "annotations": notes, "image": {"path": "a.png", "size": [12, 16]}}],
        }  # fmt: skip
        text(root / "annotations" / "train.json", json.dumps(tree))
        return row_of(read_folder(root, val_fraction=0), "train/a")

    assert written(levels=True) == [1] * 16
    assert written(levels=False) == [2] * 8 + [1] * 8


@pytest.mark.parametrize("extra", ["class_dict.csv", "data.yaml"])
def test_masks_that_nobody_drew_on(root, extra):
    """Black is background wherever it stands in the list of classes."""
    table = extra == "class_dict.csv"
    for k in range(6):
        image(root / f"{k}.png" if table else root / "images" / f"{k}.png")
        left = 255 if k < 3 else 0
        if table:
            pixels = np.zeros((12, 16, 3), np.uint8)
            pixels[:, :8, 0] = left
            Image.fromarray(pixels).save(root / f"{k}_mask.png")
        else:
            mask(root / "masks" / f"{k}.png", left, 0)
    lines = "name,r,g,b\ncrop,255,0,0\nbackground,0,0,0\n" if table else "classes: {255: crop, 0: background}\n"
    text(root / extra, lines)
    assert any("3 of 6 masks hold class 1 only" in line for line in check(root).lines())


def test_greys_that_reach_white(root):
    """255 may be the highest class: the remedy has to name it."""
    for name in "ab":
        image(root / "images" / f"{name}.png")
        mask(root / "masks" / f"{name}.png", 0, 85, 170, 255)
    index = read_folder(root, val_fraction=0)
    with pytest.raises(DataError, match="255, which may be a class or void.*255: ... among them"):
        with_classes(index, scan(index.items["train"], None, index.code))


def test_edges_that_were_smoothed(root):
    image(root / "images" / "a.png")
    pixels = np.zeros((12, 16), np.uint8)
    pixels[:, 10:] = 255
    pixels[2, 1:11] = range(20, 220, 20)
    (root / "masks").mkdir()
    Image.fromarray(pixels).save(root / "masks" / "a.png")
    index = read_folder(root, val_fraction=0)
    with pytest.raises(DataError, match="edges were smoothed.*export the masks again without smoothing"):
        with_classes(index, scan(index.items["train"], None, index.code))


class TestVocOfOnesOwn:
    def write(self, root, image_name):
        for role, name in (("train", image_name), ("val", f"{image_name[:-1]}9")):
            image(root / "JPEGImages" / f"{name}.jpg")
            mask(root / "SegmentationClass" / f"{name}.png", 0, 1)
            text(root / "ImageSets" / "Segmentation" / f"{role}.txt", f"{name}\n")

    def test_names_of_labelme(self, root):
        self.write(root, "field7")
        text(root / "class_names.txt", "_background_\ncrop\nweed\n")
        assert read_folder(root, val_fraction=0).classes == ("background", "crop", "weed")

    def test_no_names(self, root):
        """They were called aeroplane, bicycle, …"""
        self.write(root, "field7")
        index = read_folder(root, val_fraction=0)
        assert index.classes == () and any("class names are not taken" in note for note in index.notes)

    def test_pascal_voc_itself(self, root):
        self.write(root, "2007_000032")
        assert len(read_folder(root, val_fraction=0).classes) == 21


# --- COCO ---------------------------------------------------------------------------------------------------------


def coco_file(root, name, categories, annotation):
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}], "categories": categories,
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1} | annotation],
    }  # fmt: skip
    text(root / "annotations" / f"{name}.json", json.dumps(tree))


LEFT = {"segmentation": [[0, 0, 8, 0, 8, 12, 0, 12]]}


def test_cocos_own_folder_of_annotations(root):
    """Captions and joints of persons lie beside the objects."""
    image(root / "train2017" / "a.png")
    coco_file(root, "instances_train2017", [{"id": 1, "name": "person"}, {"id": 2, "name": "_background_"}], LEFT)
    coco_file(root, "person_keypoints_train2017", [{"id": 1, "name": "person", "keypoints": ["nose"]}], LEFT)
    text(root / "annotations" / "captions_train2017.json", json.dumps({"images": [], "annotations": [{"id": 1}]}))
    index = read_folder(root, val_fraction=0)
    assert index.classes == ("background", "person") and row_of(index, "train2017/a") == [1] * 8 + [0] * 8


def test_panoptic_annotations(root):
    image(root / "train2017" / "a.png")
    coco_file(root, "panoptic_train2017", [{"id": 1, "name": "person"}], {"segments_info": []})
    refuse(root, DataError, "panoptic")


def test_a_data_yaml_of_comments(root):
    image(root / "images" / "a.png")
    mask(root / "masks" / "a.png", 0, 1)
    text(root / "data.yaml", "# classes: [soil, crop]\n")
    assert row_of(read_folder(root, val_fraction=0), "a") == [0] * 8 + [1] * 8


def test_masks_with_transparent_pixels(root):
    """That comes first: colours that are declared would not help."""
    image(root / "images" / "a.png")
    (root / "masks").mkdir()
    Image.new("RGBA", SIZE, (200, 0, 0, 0)).save(root / "masks" / "a.png")
    assert any("transparent" in line and "alpha" in line for line in check(root).lines())
