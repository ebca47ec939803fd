"""Hugging Face's tables and Datumaro's JSON: roles, what is left out, and what is refused."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.errors import DataError
from fixtures_layouts import names, refuse


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def image(path, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (16, 12)).save(path)


# --- Hugging Face -------------------------------------------------------------------------------------------------


def table(root, *rows, role="train"):
    for row in rows:
        for value in row.values():
            if value and ".." not in value and value != "gone.png":
                image(root / role / value, "L" if "m/" in value else "RGB")
    (root / role / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("column", ["annotation_file_name", "mask_file_name", "label_file_name", "mask", "annotation"])
def test_columns(column, tmp_path):
    table(tmp_path, {"file_name": "a.png", column: "m/a.png"}, {"file_name": "b.png"})
    table(tmp_path, {"file_name": "c.png", column: "m/c.png"}, role="validation")
    image(tmp_path / "train" / "spare.png")
    index = read_folder(tmp_path)
    assert names(index, "train") == ["train/a", "train/b"] and names(index, "val") == ["validation/c"]
    assert [i.mask for i in index.items["train"]] == [tmp_path / "train/m/a.png", None]
    assert "1 images stand in no table and are left out, first train/spare.png" in index.notes


def test_a_table_of_commas(tmp_path):
    for name in ("a.png", "b.png"):
        image(tmp_path / name)
        image(tmp_path / "m" / name, "L")
    (tmp_path / "metadata.csv").write_text("image_file_name,mask_file_name\na.png,m/a.png\nb.png,m/b.png\n")
    assert names(read_folder(tmp_path, val_fraction=0), "train") == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "a.png", "mask": "../../etc/passwd.png"}, "row 1 leads out of the folder"),
        ({"file_name": "a.png", "mask": "gone.png"}, "row 1 names 'gone.png', which is not there"),
        ({"mask": "m/a.png"}, "row 1 names no image"),
    ],
)
def test_rows_that_are_refused(row, message, tmp_path):
    table(tmp_path, row)
    refuse(tmp_path, DataError, message)


@pytest.mark.parametrize("text", ["file_name,label\na.png,cat\n", "no,table\n"])
def test_another_table_of_that_name(text, tmp_path):
    """A column of class names makes no Hugging Face folder of images/ and masks/."""
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "masks" / "a.png", "L")
    (tmp_path / "metadata.csv").write_text(text)
    (tmp_path / "metadata.jsonl").write_text("{ no json")
    assert read_folder(tmp_path, val_fraction=0).layout == "folders"


def test_a_damaged_export_of_datumaro(tmp_path):
    export(tmp_path, ["crop"], item("a", mask(0)))
    path = tmp_path / "annotations" / "train.json"
    path.write_text(path.read_text()[:-9])
    refuse(tmp_path, DataError, "is no JSON")


def test_an_image_twice(tmp_path):
    row = {"file_name": "a.png", "mask": "m/a.png"}
    table(tmp_path, row, row)
    refuse(tmp_path, DataError, "row 2 names an image again")


# --- Datumaro -----------------------------------------------------------------------------------------------------

RUNS = {"size": [12, 16], "counts": [0, 96, 96]}  # the left half


def item(name, *annotations):
    return {"id": name, "annotations": list(annotations), "image": {"path": f"{name}.png", "size": [12, 16]}}


def export(root, labels, *items, role="train"):
    tree = {
        "dm_format_version": "1.0",
        "categories": {"label": {"labels": [{"name": n} for n in labels]}},
        "items": items,
    }
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"{role}.json").write_text(json.dumps(tree))
    for one in items:
        image(root / "images" / role / f"{one['id']}.png")


def mask(kind, **more):
    return {"type": "mask", "label_id": kind, "rle": RUNS, **more}


def test_roles_and_kinds(tmp_path):
    """Boxes and tags say nothing of pixels; "void" does not count; what no shape covers is background."""
    right = {"type": "polygon", "label_id": 1, "points": [8, 0, 16, 0, 16, 12, 8, 12]}
    export(tmp_path, ["crop", "void"], item("a", mask(0), right), item("b", {"type": "bbox"}, {"type": "label"}))
    export(tmp_path, ["crop", "void"], item("c", mask(0, z_order=2)), role="val")
    index = read_folder(tmp_path)
    assert index.layout == "datumaro" and index.classes == ("background", "crop")
    assert names(index, "train") == ["train/a", "train/b"] and names(index, "val") == ["val/c"]
    a, b = index.items["train"]
    assert a.mask is not None and b.mask is None
    assert read_mask(a.mask, index.code)[0].tolist() == [1] * 8 + [255] * 8


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"type": "ellipse", "label_id": 0}, "annotation 1 of 'a' is of type ellipse"),
        ({"type": "mask", "label_id": 7, "rle": RUNS}, "an item lacks 7"),
        ({"type": "mask", "label_id": 0, "rle": {"size": [12, 16], "counts": [5]}}, "do not fill the image"),
        ({"type": "mask", "label_id": 0}, "an item lacks 'rle'"),
    ],
)
def test_items_that_are_refused(annotation, message, tmp_path):
    export(tmp_path, ["crop"], item("a", annotation))
    refuse(tmp_path, DataError, message)


def test_files_that_disagree(tmp_path):
    export(tmp_path / "labels", ["crop"], item("a", mask(0)))
    export(tmp_path / "labels", ["weed"], item("b", mask(0)), role="val")
    refuse(tmp_path / "labels", DataError, "has other labels")
    export(tmp_path / "none", ["crop"], item("a", {"type": "bbox"}))
    refuse(tmp_path / "none", DataError, "no image here is annotated")


# --- label_colors.txt ---------------------------------------------------------------------------------------------


def like_cityscapes(root, table):
    image(root / "leftImg8bit/train/a_leftImg8bit.png")
    path = root / "gtFine/train/a_gtFine_labelIds.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (16, 12), 2).save(path)
    (root / "label_colors.txt").write_text(table)
    return root


def test_another_data_set_in_the_manner_of_cityscapes(tmp_path):
    """Its ids count its own list: they are not those of the published data, whatever the folders are called."""
    index = read_folder(like_cityscapes(tmp_path, "0 0 0 void\n9 9 9 crop\n128 0 0 tall weed\n"), val_fraction=0)
    assert index.classes == ("crop", "tall weed") and index.code.ignore == (0,)
    (found,) = index.labelled
    assert found.mask is not None and (read_mask(found.mask, index.code) == 1).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [("1 2 3 a\nb\n", "'b' has no colour, others have"), ("300 0 0 a\n", "line 1 is no R G B NAME"),
     ("1 1 1 a\n2 2 2 a\n", "one class stands there twice"), ("0 0 0 void\n", "names no class")],
)  # fmt: skip
def test_tables_that_are_refused(table, message, tmp_path):
    refuse(like_cityscapes(tmp_path, table), DataError, message)
