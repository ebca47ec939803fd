"""COCO JSON: which pixels, which classes, which role; and what hostile or broken files do."""

from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from fewmask.data.layouts import read_folder
from fewmask.data.layouts.names import Names
from fewmask.data.masks import read_mask
from fewmask.errors import ConfigError, DataError, WriteError
from fixtures_layouts import names, refuse

# of pycocotools itself, with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fewmask" / "masks"


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (90, 120, 60)).save(path)


def tree(*files, shapes=(SQUARE,), categories=((1, "crop"), (7, "weed"))):
    """Return a COCO tree; shape n has category n."""
    return {
        "images": [{"id": n, "file_name": f, "height": 12, "width": 16} for n, f in enumerate(files)],
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": [
            {"id": 10 * n + k, "image_id": n, "category_id": categories[k % len(categories)][0], "segmentation": shape}
            for n in range(len(files)) for k, shape in enumerate(shapes)
        ],
    }  # fmt: skip


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path):
    data = tmp_path / "data"
    for n in range(3):
        image(data / "images" / f"{n}.jpg")
    write(data / "annotations" / "instances_default.json", tree("0.jpg", "1.jpg"))
    return data


def mask_of(index, name):
    item = next(i for items in index.items.values() for i in items if i.name == name)
    return read_mask(item.mask, index.code)


def test_polygons(root):
    """The pixels are pycocotools'; the image that no file names is unlabelled."""
    index = read_folder(root, val_fraction=0)
    assert index.layout == "coco" and index.classes == ("background", "crop", "weed")
    expected = np.zeros((12, 16), np.uint8)
    expected[2:8, 2:8] = 1
    assert (mask_of(index, "images/0") == expected).all()
    assert [i.mask is None for i in index.items["train"]] == [False, False, True]


def test_run_lengths_and_overlap(root):
    """Compressed and plain run lengths; the smaller of two shapes lies on top, whatever their order."""
    large, small = np.zeros((2, 12, 16), np.uint8)
    large[1:11, 1:15], small[4:6, 4:6] = 1, 1
    packed = rle.encode(np.asfortranarray(small))
    plain = {"size": [12, 16], "counts": [13, 10, *[2, 10] * 13, 12 * 16 - 13 - 10 - 13 * 12]}
    assert (rle.decode(rle.frPyObjects(plain, 12, 16)) == large).all()
    for shapes in (
        ({"size": [12, 16], "counts": packed["counts"].decode()}, plain),
        (plain, {"size": [12, 16], "counts": packed["counts"].decode()}),
    ):
        write(root / "annotations" / "instances_default.json", tree("0.jpg", shapes=shapes))
        found = mask_of(read_folder(root, val_fraction=0), "images/0")
        top = 1 if shapes[1] is plain else 2
        assert (found[4:6, 4:6] == top).all() and (found == top).sum() == 4 and (found != 0).sum() == large.sum()


def test_roles_by_file_and_folder(tmp_path):
    data = tmp_path / "data"
    for part in ("train2017", "val2017", "test2017"):
        image(data / part / "1.jpg")
        if part != "test2017":
            write(data / "annotations" / f"instances_{part}.json", tree("1.jpg"))
    index = read_folder(data)
    assert [names(index, r) for r in ("train", "val", "test")] == [["train2017/1"], ["val2017/1"], []]
    assert any("1 test images have no mask" in note for note in index.notes)


def test_a_word_in_a_folder_name_is_no_role(tmp_path):
    data = tmp_path / "data"
    for name in ("train/1", "field-test/2", "test/3"):
        image(data / f"{name}.jpg")
    write(data / "instances_train.json", tree("1.jpg"))
    index = read_folder(data, val_fraction=0)
    assert names(index, "train") == ["field-test/2", "train/1"] and any("1 test images" in n for n in index.notes)


def test_roboflow(tmp_path):
    """Category 0 is the project; a file in each part."""
    for part in ("train", "valid"):
        image(tmp_path / "data" / part / "a.jpg")
        content = tree("a.jpg", categories=((1, "rbc"), (2, "wbc")))
        content["categories"] = [
            {"id": 0, "name": "cells", "supercategory": "none"},
            *({**c, "supercategory": "cells"} for c in content["categories"]),
        ]
        write(tmp_path / "data" / part / "_annotations.coco.json", content)
    index = read_folder(tmp_path / "data")
    assert index.classes == ("background", "rbc", "wbc") and names(index, "val") == ["valid/a"]


def test_drawn_once(root, cache, monkeypatch):
    """Again only where the file, or what is to be drawn, is another; a pass that was killed leaves nothing usable."""
    read_folder(root)
    (folder,) = cache.iterdir()
    stamps = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    read_folder(root)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == stamps
    (folder / "DONE").unlink()
    read_folder(root)
    assert list(cache.iterdir()) == [folder] and (folder / "DONE").is_file()
    write(root / "annotations" / "instances_default.json", tree("0.jpg", "1.jpg", "2.jpg"))
    read_folder(root)
    assert len(list(cache.iterdir())) == 2


def test_no_place_for_it(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refuse(root, WriteError, "cannot write the masks.*XDG_CACHE_HOME")


def test_without_the_extra(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    refuse(root, ConfigError, r"pip install 'fewmask\[coco\]'")


def broken(change):
    content = tree("0.jpg", "1.jpg")
    change(content)
    return content


BROKEN = {
    "a box": (lambda t: t["annotations"][0].update(segmentation=[], bbox=[1, 1, 3, 3]), "box without outline"),
    "no category": (lambda t: t["annotations"][0].update(category_id=9), "category 9, which is not declared"),
    "no image": (lambda t: t["annotations"][0].update(image_id=9), "not listed"),
    "no size": (lambda t: t["images"][0].pop("height"), "lacks 'height'"),
    "twice": (lambda t: t["images"].append({**t["images"][0], "id": 5}), "lists an image twice"),
    "huge": (lambda t: t["images"][0].update(height=10**6, width=10**6), "is said to be 1000000x1000000"),
    "far": (lambda t: t["annotations"][0].update(segmentation=[[1, 1, 1e12, 2, 3, 3]]), "far outside"),
    "long": (  # pycocotools takes gigabytes for it, and does not look whether it got them
        lambda t: t["annotations"][0].update(segmentation=[[0, 0, 160, 120] * 5000]), "100 times as long"),
    "nan": (lambda t: t["annotations"][0].update(segmentation=[[1, 1, float("nan"), 2, 3, 3]]), "far outside"),
    "odd": (lambda t: t["annotations"][0].update(segmentation=[[1, 1, 2, 2, 3, 3, 4]]), "odd in number"),
    "text": (lambda t: t["annotations"][0].update(segmentation=[["a", "b"]]), "no shape that can be drawn"),
    "runs beyond": (
        lambda t: t["annotations"][0].update(segmentation={"size": [12, 16], "counts": "_" * 40}), "run lengths"),
    "runs of another size": (
        lambda t: t["annotations"][0].update(segmentation={"size": [99, 16], "counts": [5]}), "run lengths of 16x99"),
    "negative runs": (
        lambda t: t["annotations"][0].update(segmentation={"size": [12, 16], "counts": [-5, 197]}), "do not fill"),
    "names": (lambda t: t["categories"].append({"id": 8, "name": "crop"}), "categories: name"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_and_hostile_files(root, case):
    change, message = BROKEN[case]
    write(root / "annotations" / "instances_default.json", broken(change))
    error = refuse(root, DataError, message)
    assert "instances_default.json" in str(error)


def test_a_polygon_of_two_points_covers_nothing(root):
    """pycocotools would take four numbers for a box."""
    write(root / "annotations" / "instances_default.json", tree("0.jpg", shapes=([[1, 1, 5, 5]], SQUARE)))
    found = mask_of(read_folder(root, val_fraction=0), "images/0")
    assert set(np.unique(found)) == {0, 2}


def test_names_that_two_images_could_mean(root):
    image(root / "more" / "0.jpg")
    refuse(root, DataError, "may be 'images/0' or 'more/0'")
    write(root / "annotations" / "instances_default.json", tree("images/0.jpg", "../../images/1.jpg"))
    assert mask_of(read_folder(root, val_fraction=0), "images/1").any()


@pytest.mark.parametrize(
    ("said", "there", "means"),
    [
        ("fieldA/7.jpg", ["fieldB/7.jpg"], None),  # cameras give the same names again
        ("fieldA/7.jpg", ["fieldA/7.jpg", "fieldB/7.jpg"], "fieldA/7"),
        ("/home/me/proj/fieldA/7.jpg", ["images/fieldA/7.jpg", "images/fieldB/7.jpg"], "images/fieldA/7"),
        ("C:\\me\\fieldA\\7.jpg", ["images/7.jpg"], "images/7"),
        ("7.jpg", ["images/fieldB/7.jpg"], "images/fieldB/7"),
        ("images/7.jpg", ["fieldB/7.jpg"], "fieldB/7"),
        ("val/7.jpg", ["train/7.jpg"], None),
        ("20240101/7.jpg", ["fieldB/7.jpg"], "fieldB/7"),
    ],
)
def test_which_image_a_path_means(said, there, means, tmp_path):
    files = {name.removesuffix(".jpg"): [tmp_path / name] for name in there}
    assert Names(files, tmp_path).find(said, tmp_path / "a.json") == means


def test_a_category_that_is_its_own_parent(root):
    """As labelme2coco writes it; the annotations use only the first."""
    content = tree("images/a.jpg", categories=((1, "crop"), (7, "weed")))
    for category in content["categories"]:
        category["supercategory"] = category["name"]
    write(root / "a.json", content)
    assert read_folder(root, val_fraction=0).classes == ("background", "crop", "weed")


def test_images_that_are_not_here(root):
    write(root / "annotations" / "instances_default.json", tree("0.jpg", "nine.jpg"))
    assert "1 annotated images are not here, first 'nine.jpg'" in read_folder(root, val_fraction=0).notes
    write(root / "annotations" / "instances_default.json", tree("../etc/passwd"))
    refuse(root, DataError, "none of 1 annotated images is here")


def test_files_that_disagree(root):
    other = copy.deepcopy(tree("2.jpg", categories=((1, "weed"), (7, "crop"))))
    write(root / "more.json", other)
    refuse(root, DataError, "has other categories than")
    write(root / "more.json", tree("0.jpg"))
    refuse(root, DataError, "is annotated in two files")


def test_folders_of_masks_come_first(root):
    """An export that holds both: masks are what somebody chose to write."""
    for n in range(2):
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((12, 16), n, np.uint8)).save(root / "masks" / f"{n}.png")
    index = read_folder(root)
    assert index.layout == "folders"
    told = "2 images have annotations in 'annotations/instances_default.json' too, which are not"
    assert any(told in note and "layout: coco" in note for note in index.notes)


def test_void_and_background_are_no_classes_of_their_own(root):
    content = tree("0.jpg", shapes=(SQUARE, SQUARE, [[9, 2, 12, 2, 12, 8, 9, 8]]),
                   categories=((3, "Background"), (5, "void"), (6, "weed")))  # fmt: skip
    write(root / "annotations" / "instances_default.json", content)
    index = read_folder(root, val_fraction=0)
    assert index.classes == ("background", "weed")
    assert sorted(np.unique(mask_of(index, "images/0"))) == [0, 1, 255]
