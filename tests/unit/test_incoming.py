"""Masks that come back from tools as people send them: without images, without folders, zipped once more."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from fewmask.data.layouts import read_folder
from fewmask.data.scan import scan
from fewmask.errors import DataError
from fewmask.run.label_diff import diff_labels
from fewmask.run.label_export import export_labels
from fewmask.run.label_import import import_labels
from fewmask.run.matching import by_name
from fixtures_data import blocks, make_folder, save_image, save_mask

CLASSES = "soil\ncrop\n"
COLOURS = {"soil": (0, 0, 0), "crop": (128, 0, 0)}


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Images in two fields, of which one has a mask; cameras give the same names again."""
    names = ["fieldA/1", "fieldA/2", "fieldB/1", "fieldB/9"]
    make_folder(tmp_path / "photos", names[:1], names[1:], classes=CLASSES)
    return tmp_path / "photos"


def cvat(folder, *names, lists=()):
    """Write masks as CVAT exports them."""
    folder.mkdir(parents=True)
    (folder / "labelmap.txt").write_text("".join(f"{n}:{','.join(map(str, c))}::\n" for n, c in COLOURS.items()))
    for name in names:
        mask = folder / "SegmentationClass" / f"{name}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.zeros((12, 16, 3), np.uint8)
        pixels[6:] = COLOURS["crop"]
        Image.fromarray(pixels).save(mask)
        (folder / "SegmentationObject").mkdir(exist_ok=True)
    (folder / "ImageSets" / "Segmentation").mkdir(parents=True)
    (folder / "ImageSets" / "Segmentation" / "default.txt").write_text("".join(f"{n}\n" for n in (*names, *lists)))
    return folder


def zipped(folder):
    return type(folder)(shutil.make_archive(str(folder), "zip", folder))


def taken(source, root, replace=False, empty=None, say=lambda text: None):
    return import_labels(source, root, replace, say, empty=empty)


@pytest.mark.parametrize("how", ["folder", "zip", "zip of the folder"])
def test_a_tool_that_drops_the_folders(how, root, tmp_path):
    """2 and 9 are clear; 1 may be two, and is none of them."""
    source = cvat(tmp_path / "a" / "export", "2", "9", "1", "gone")
    if how != "folder":
        source = zipped(source if how == "zip" else tmp_path / "a")
    found = taken(source, root)
    assert found["new"] == ["fieldA/2", "fieldB/9"] and sorted(found["unknown"]) == ["1", "gone"]
    assert np.unique(np.asarray(Image.open(root / "masks/fieldA/2.png"))).tolist() == [0, 1]


@pytest.mark.parametrize("blank", [False, True], ids=["no mask", "a mask that data.yaml calls none"])
def test_first_masks_of_val_images(blank, tmp_path):
    """Nothing can be measured on them until these come in."""
    root = make_folder(tmp_path / "photos", ["train/1", "val/2"], ["val/3", "test/4"], classes=CLASSES)
    if blank:
        (root / "data.yaml").write_text("empty_masks: unlabelled\n")
        save_mask(root / "masks/val/3.png", np.zeros((12, 16), np.uint8))
    found = taken(cvat(tmp_path / "e", "val/3", "4"), root)
    assert found["new"] == ["test/4", "val/3"] and not found["unknown"]
    items = read_folder(root, val_fraction=None).items
    assert [i.name for i in items["val"]] == ["val/2", "val/3"] and [i.name for i in items["test"]] == ["test/4"]


def test_folders_are_kept_apart(root, tmp_path):
    found = taken(cvat(tmp_path / "e", "fieldB/1", "fieldC/9", "camera/fieldA/2"), root)
    assert found["new"] == ["fieldA/2", "fieldB/1"] and found["unknown"] == ["fieldC/9"]


def test_lists_that_name_images_that_are_gone(root, tmp_path):
    found = taken(cvat(tmp_path / "e", "fieldA/2", lists=["fieldA/blurred"]), root)
    assert found["new"] == ["fieldA/2"] and found["unknown"] == []


def test_nothing_fits(root, tmp_path):
    with pytest.raises(DataError, match=r"none of 2 masks is of an image of .*photos \(mask '.*'\); .*/e; "):
        taken(cvat(tmp_path / "e", "x", "y"), root)


@pytest.mark.parametrize("place", [".", "masks", "my masks", "export/masks"])
@pytest.mark.parametrize("names", ["classes.txt", "data.yaml"])
def test_pngs_alone_have_the_ids_of_the_folder(place, names, root, tmp_path):
    if names == "data.yaml":
        (root / "classes.txt").unlink()
        (root / "data.yaml").write_text("classes: {10: soil, 20: crop}\n")
        save_mask(root / "masks/fieldA/1.png", blocks((10, 20)))
    ids = (0, 1) if names == "classes.txt" else (10, 20)
    save_mask(tmp_path / "e" / place / "2.png", blocks(ids))
    save_mask(tmp_path / "e" / place / "9_mask.png", blocks(ids[::-1]))
    found = taken(zipped(tmp_path / "e"), root)
    assert found["new"] == ["fieldA/2", "fieldB/9"]
    assert (np.asarray(Image.open(root / "masks/fieldB/9.png")) == blocks(ids[::-1])).all()


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"annotations.xml": "<annotations/>"}, "CVAT's own XML.*Segmentation mask 1.1"),
        ({"task-1-annotation-1-by-1-tag-crop-0.png": None}, "each brush of Label Studio.*export JSON"),
        ({"p.json": [{"id": 1, "image": "a.jpg", "annotation_id": 3}]}, "JSON-MIN.*export JSON"),
        ({"readme.md": "x"}, "read as no export.*Segmentation mask 1.1"),
    ],
)
@pytest.mark.parametrize("below", ["", "project-7/"])
def test_other_exports_are_named(files, says, below, root, tmp_path):
    for name, content in files.items():
        path = tmp_path / "e" / below / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            save_mask(path, blocks((0, 1)))
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=f"(?s){says}") as caught:
        taken(zipped(tmp_path / "e"), root)
    assert "fewmask-" not in str(caught.value) and "e.zip" in caught.value.where


@pytest.mark.parametrize("how", ["damaged", "cut off", "locked"])
def test_archives_that_cannot_be_unpacked(how, root, tmp_path):
    path = zipped(cvat(tmp_path / "e", "2"))
    data = bytearray(path.read_bytes())
    if how == "damaged":
        with zipfile.ZipFile(path) as file:
            at = file.getinfo("labelmap.txt").header_offset + 30 + len("labelmap.txt")
        data[at : at + 8] = b"\xff" * 8
    elif how == "cut off":
        del data[len(data) // 2 : -22]
    else:
        for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            at = -1
            while (at := data.find(sign, at + 1)) >= 0:
                data[at + place] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"cannot be unpacked: .*e\.zip; export it again|is no folder, zip"):
        taken(path, root)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("rule", ["ignore", "apply"])
def test_turned_photos(orientation, rule, root, tmp_path):
    """What is declared of them holds for every command: import, export, diff."""
    (root / "data.yaml").write_text(f"exif: {rule}\n")
    exif = Image.Exif()
    exif[274] = orientation
    for path in (root / "images/fieldA").iterdir():
        Image.open(path).convert("RGB").save(path, exif=exif)
    turned = rule == "apply" and orientation == 6
    for name in ("fieldA/1", "fieldA/2"):
        mask = blocks((0, 1))
        save_mask(tmp_path / "e" / "masks" / f"{name}.png", mask.T if turned else mask)
    if turned:
        save_mask(root / "masks/fieldA/1.png", blocks((0, 1)).T)
    assert taken(zipped(tmp_path / "e"), root)["new"] == ["fieldA/2"]
    out = export_labels(root, tmp_path / "out", "png", True, lambda text: None)
    assert out["masks"] == 2 and read_folder(tmp_path / "out").exif == rule
    assert diff_labels(root, tmp_path / "out") == []


def test_masks_that_are_not_annotated_are_no_masks(root, tmp_path):
    """``empty_masks: unlabelled``: the black mask that a tool wrote is replaced without being asked, and kept."""
    (root / "data.yaml").write_text("empty_masks: unlabelled\n")
    save_mask(root / "masks/fieldB/9.bmp", np.zeros((12, 16), np.uint8))
    found = taken(cvat(tmp_path / "e", "fieldB/9"), root)
    assert found["new"] == ["fieldB/9"] and found["replaced"]
    assert [p.name for p in (root / "masks/fieldB").iterdir()] == ["9.png"]
    assert len(list((root / "replaced").rglob("9.bmp"))) == 1


def test_an_export_with_its_images_is_the_same_data_set(tmp_path):
    """Of a layout whose roles stand in lists."""
    source = cvat(tmp_path / "voc", "a", "b", "c")
    lists = source / "ImageSets" / "Segmentation"
    (lists / "default.txt").write_text("a\n")
    (lists / "Validation.txt").write_text("b\n")
    (lists / "Test.txt").write_text("c\n")
    (source / "JPEGImages").mkdir()
    for name in "abcd":
        Image.new("RGB", (16, 12)).save(source / "JPEGImages" / f"{name}.jpg")
    export_labels(source, tmp_path / "out", "png", True, lambda text: None)
    before, after = (read_folder(folder, val_fraction=None) for folder in (source, tmp_path / "out"))
    assert {r: [i.name for i in items] for r, items in before.items.items()} == {
        r: [i.name for i in items] for r, items in after.items.items()
    }
    assert [n for n, i in by_name(after).items() if i.mask is None] == ["d"] and after.classes == before.classes
    scan(list(by_name(after).values()), 2, after.code).raise_first()


def coco(path, drawn, blank):
    """Images of which a tool lists all and has annotated some: a box of crop in each of these."""
    names = [*drawn, *blank]
    tree = {
        "images": [{"id": n, "file_name": f"{name}.jpg", "height": 12, "width": 16} for n, name in enumerate(names)],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]]}
            for n in range(len(drawn))
        ],
        "categories": [{"id": 1, "name": "crop"}],
    }
    path.write_text(json.dumps(tree))
    return path


@pytest.fixture
def fields(tmp_path):
    make_folder(tmp_path / "fields", ["train/a"], [f"train/{n}" for n in "bcdef"], classes="background\ncrop\n")
    return tmp_path / "fields"


class TestBlankMasks:
    """Tools export frames that nobody annotated as masks of background."""

    @pytest.fixture(params=["coco", "cvat", "png"])
    def half(self, request, tmp_path):
        drawn, blank = ("train/b", "train/c"), ("train/d", "train/e")
        if request.param == "coco":
            return coco(tmp_path / "half.json", drawn, blank)
        if request.param == "png":
            for name in (*drawn, *blank):
                save_mask(tmp_path / f"half/masks/{name}.png", blocks((0, 1) if name in drawn else (0,)))
            return tmp_path / "half"
        folder = cvat(tmp_path / "half", *drawn, *blank)
        (folder / "labelmap.txt").write_text("background:0,0,0::\ncrop:128,0,0::\n")
        for name in blank:
            Image.new("RGB", (16, 12)).save(folder / f"SegmentationClass/{name}.png")
        return folder

    def test_many_are_a_question(self, half, fields):
        with pytest.raises(DataError, match="2 of 4 masks to take hold 'background' only, first .*--empty unlabelled"):
            taken(half, fields)
        assert [p.name for p in (fields / "masks/train").iterdir()] == ["a.png"], "nothing is written"

    @pytest.mark.parametrize("how", ["flag", "data.yaml"])
    @pytest.mark.parametrize("empty", ["labelled", "unlabelled"])
    def test_the_answer(self, empty, how, half, fields):
        if how == "data.yaml":
            (fields / "data.yaml").write_text(f"empty_masks: {empty}\n")
        said = []
        found = taken(half, fields, empty=empty if how == "flag" else None, say=said.append)
        assert len(found["new"]) == (4 if empty == "labelled" else 2) and sorted(found["blank"]) == [
            "train/d",
            "train/e",
        ]
        assert {p.stem for p in (fields / "masks/train").iterdir()} == {"a", *(n[-1] for n in found["new"])}
        assert ("2 hold 'background' only" in said[-1]) and ("are left out" in said[-1]) == (empty == "unlabelled")

    def test_a_few_are_told(self, fields, tmp_path):
        said = []
        assert len(taken(coco(tmp_path / "e.json", "bcde", "f"), fields, say=said.append)["new"]) == 5
        assert said[-1].endswith("; 1 hold 'background' only")

    def test_masks_that_are_there_are_not_blanked(self, fields, tmp_path):
        source = coco(tmp_path / "e.json", "", "a")
        with pytest.raises(DataError, match="1 of 1 masks to take"):
            taken(source, fields, replace=True)
        assert taken(source, fields, empty="unlabelled")["changed"] == []


@pytest.mark.parametrize("how", ["folder", "zip", "in masks"])
def test_bare_names_where_the_data_have_roles(how, fields, tmp_path):
    place = tmp_path / "e" / ("masks" if how == "in masks" else "")
    for name in ("b", "c_mask", "zzz"):
        save_mask(place / f"{name}.png", blocks((0, 1)))
    said = []
    found = taken(zipped(tmp_path / "e") if how == "zip" else tmp_path / "e", fields, say=said.append)
    assert found["new"] == ["train/b", "train/c"] and found["unknown"] == ["zzz"]
    assert "1 of images that are not here, first 'zzz'" in said[-1]
    save_mask(place / "train/b.png", blocks((0, 1)))
    with pytest.raises(DataError, match="two masks are of image 'train/b'"):
        taken(tmp_path / "e", fields)


def test_folders_of_roles_without_one_around_them(fields, tmp_path):
    save_image(fields / "images/val/b.jpg")
    save_mask(fields / "masks/val/b.png", blocks((0, 1)))
    for name in ("train/b", "val/b"):
        save_mask(tmp_path / f"e/{name}.png", blocks((0, 1)))
    found = taken(tmp_path / "e", fields)
    assert found["new"] == ["train/b"] and found["same"] == ["val/b"] and not found["unknown"]


def test_errors_name_a_file_once(fields, tmp_path):
    source = coco(tmp_path / "e.json", "bc", "")
    source.write_text(source.read_text().replace('"category_id": 1', '"category_id": 7'))
    with pytest.raises(DataError, match="which is not declared") as caught:
        taken(source, fields)
    assert caught.value.where == str(source)


def test_replaced_masks_are_found_again(fields, tmp_path):
    said = []
    save_mask(tmp_path / "e/masks/a.png", blocks((1, 0)))
    found = taken(tmp_path / "e", fields, replace=True, say=said.append)
    assert said[-1] == f"the masks that were there are in {found['replaced']}"


class TestSeveralTasks:
    """A project of CVAT, each task unpacked into a folder of its own."""

    def test_with_their_images_they_come_in_at_once(self, root, tmp_path):
        for field in ("fieldA", "fieldB"):
            cvat(tmp_path / "export" / field, "1")
            save_image(tmp_path / "export" / field / "JPEGImages" / "1.png")
        found = taken(tmp_path / "export", root, replace=True)
        assert sorted([*found["new"], *found["changed"], *found["same"]]) == ["fieldA/1", "fieldB/1"]

    def test_without_them_one_after_the_other(self, root, tmp_path):
        for field in ("fieldA", "fieldB"):
            cvat(tmp_path / "export" / field, f"{field}/1")
        with pytest.raises(DataError, match="holds the exports of 2 tasks, fieldA, fieldB") as caught:
            taken(tmp_path / "export", root)
        assert f"fewmask labels import {tmp_path / 'export' / 'fieldA'} DIR" in caught.value.todo
        assert taken(tmp_path / "export" / "fieldB", root)["new"] == ["fieldB/1"]

    def test_one_name_for_images_of_two_fields_is_told(self, root, tmp_path):
        told = list[str]()
        found = taken(cvat(tmp_path / "export", "1", "2"), root, say=told.append)
        assert found["new"] == ["fieldA/2"] and found["unknown"] == ["1"]
        assert any("may be of more than one image, first '1': 'fieldA/1' or 'fieldB/1'" in text for text in told)
