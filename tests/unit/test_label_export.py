"""An export with its images is the same data set, unlabelled pixels included; and what diff says of it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from fewmask.batch import OPEN
from fewmask.data.groups import groups_of
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.errors import DataError
from fewmask.run.label_diff import diff_labels
from fewmask.run.label_export import export_labels
from fewmask.run.label_import import import_labels
from fewmask.run.matching import by_name
from fixtures_data import blocks, make_folder, save_image, save_mask

TOOLS = ["png", "cvat", "coco", "labelstudio"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(root, masks, yaml, bare=()):
    for name in (*masks, *bare):
        save_image(root / f"images/{name}.png", seed=len(name))
    for name, ids in masks.items():
        save_mask(root / f"masks/{name}.png", blocks(ids), palette=False)
    (root / "data.yaml").write_text(yaml)
    return root


def quiet(text):
    pass


def source_of(out, tool):
    return {"cvat": out / "cvat.zip", "labelstudio": out / "tasks.json"}.get(tool, out)


PARTIAL = "classes: [soil, crop]\nunlabelled_id: 9\n"


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("tool", TOOLS)
def test_pixels_that_nobody_has_labelled(tool, images, tmp_path):
    root = made(tmp_path / "photos", {"a": (0, 1, 9, 255), "b": (1, 9)}, PARTIAL, bare=["c"])
    export_labels(root, tmp_path / "out", tool, images, quiet)
    source = source_of(tmp_path / "out", tool)
    assert diff_labels(root, source) == []
    bare = shutil.copytree(root, tmp_path / "bare")
    (bare / "masks/b.png").unlink()
    assert import_labels(source, bare, False, quiet)["new"] == ["b"]
    assert (np.asarray(Image.open(bare / "masks/b.png")) == blocks((1, 9))).all()
    save_mask(bare / "masks/b.png", blocks((1, 255)))
    (change,) = diff_labels(bare, source)
    assert change.moves == {("void", "unlabelled"): 96}


@pytest.mark.parametrize("tool", TOOLS[1:])
def test_for_data_without_such_an_id_they_are_void(tool, tmp_path):
    root = made(tmp_path / "photos", {"a": (0, 1, 9)}, PARTIAL)
    export_labels(root, tmp_path / "out", tool, False, quiet)
    other = made(tmp_path / "other", {}, "classes: [soil, crop]\n", bare=["a"])
    import_labels(source_of(tmp_path / "out", tool), other, False, quiet)
    assert np.unique(np.asarray(Image.open(other / "masks/a.png"))).tolist() == [0, 1, 255]


def test_what_data_yaml_says(tmp_path):
    yaml = 'classes: [soil, crop, sky]\nunlabelled_id: 9\nignore: [7]\ngroups: "f(\\\\d)"\nempty_masks: unlabelled\n'
    yaml += 'roles: {val: "f1*"}\nexif: ignore\nchannels: rgb\n'
    masks = {"f00": (0, 1), "f01": (1, 2, 7), "f02": (0,), "f10": (2, 9), "f11": (1, 2)}
    root = made(tmp_path / "photos", masks, yaml, bare=["f03"])
    said = []
    export_labels(root, tmp_path / "out", "png", True, said.append)
    assert any(text.startswith("1 blank masks are left out") for text in said)
    before, after = (read_folder(folder, val_fraction=None) for folder in (root, tmp_path / "out"))
    assert after.images == before.images and after.exif == "ignore" and after.empty_masks == "unlabelled"
    assert groups_of(after)[0] == groups_of(before)[0] and after.code.unlabelled == OPEN
    assert 7 in after.code.ignore and after.classes == before.classes
    ours, theirs = by_name(before), by_name(after)
    assert ours.keys() == theirs.keys() and theirs["f02"].mask is None
    for name, item in theirs.items():
        if item.mask is not None:
            mask = read_mask(item.mask, after.code, unlabelled=OPEN)
            assert (mask == read_mask(ours[name].mask, before.code, unlabelled=OPEN)).all(), name


def test_groups_of_a_file_and_bands(tmp_path):
    yaml = "classes: [soil, crop]\ngroups: fields.tsv\nchannels: [{band: 2, name: nir, range: [0, 255]}]\n"
    root = made(tmp_path / "photos", {"a": (0, 1), "b": (1, 0)}, yaml)
    (root / "fields.tsv").write_text("a\tnorth\nb\tsouth\n")
    export_labels(root, tmp_path / "out", "png", True, quiet)
    after = read_folder(tmp_path / "out", val_fraction=None)
    assert {item.group for item in after.items["train"]} == {"north", "south"}
    assert after.images == read_folder(root, val_fraction=None).images and after.images.bands


def test_masks_of_two_values_have_one_reading(tmp_path):
    """Void beside a single class: without a word it could be the second one."""
    root = made(tmp_path / "photos", {"a": (3, 200), "b": (200, 3)}, "classes: {3: crop}\nignore: [200]\n")
    export_labels(root, tmp_path / "out", "png", True, quiet)
    assert diff_labels(root, tmp_path / "out") == []


def test_diff_of_an_export(tmp_path):
    """What a tool has not got is no mask that is gone; what it has beside is named, blank masks are counted."""
    root = made(tmp_path / "photos", {"a": (0, 1), "b": (1, 0), "c": (0, 1)}, "classes: [soil, crop]\n", ["d", "e"])
    back = tmp_path / "back"
    for name, ids in {"a": (1, 0), "d": (0, 1), "e": (0,), "gone": (1,)}.items():
        save_mask(back / f"masks/{name}.png", blocks(ids))
    said = []
    changes = diff_labels(root, back, say=said.append)
    assert {(c.name, c.state) for c in changes} == {("a", "changed"), ("d", "new"), ("e", "new")}
    assert said == [
        "masks that are not in it: 2, first 'b'", "masks of images that are not here: 1, first 'gone'",
        "new masks that hold 'soil' only: 1, first 'e'",
    ]  # fmt: skip
    whole = shutil.copytree(root, tmp_path / "whole")
    (whole / "masks/b.png").unlink()
    assert [(c.name, c.state) for c in diff_labels(root, whole)] == [("b", "gone")]


def test_diff_of_two_exports(tmp_path):
    """As of the guesses that went to the tool, and what came back; their images lie beside the first one."""
    root = made(tmp_path / "photos", {"train/a": (0, 1), "train/b": (1, 0)}, "classes: [soil, crop]\n")
    for tool in ("cvat", "labelstudio"):
        out = tmp_path / tool
        export_labels(root, out, tool, True, quiet)
        back = tmp_path / f"{tool}-back"
        save_mask(back / "masks/a.png", blocks((1,)))
        (back / "classes.txt").write_text("soil\ncrop\n")
        (change,) = diff_labels(source_of(out, tool), back)
        assert change.name.endswith("train/a") and change.moves == {("soil", "crop"): 96}
    shutil.rmtree(tmp_path / "cvat/images")
    with pytest.raises(DataError, match="the images of it are not known"):
        diff_labels(tmp_path / "cvat/cvat.zip", back)


def test_names_that_differ_in_case(tmp_path):
    root = make_folder(tmp_path / "photos", ["a", "b"], classes="soil\nCar\ncar\n")
    for name in ("a", "b"):
        save_mask(tmp_path / f"photos/masks/{name}.png", blocks((0, 1, 2)))
    root = tmp_path / "photos"
    assert diff_labels(root, shutil.copytree(root, tmp_path / "same")) == []
    other = shutil.copytree(root, tmp_path / "other")
    (other / "classes.txt").write_text("soil\nCAR\ntree\n")
    with pytest.raises(DataError, match="class 'CAR' is none"):
        diff_labels(root, other)
    (root / "classes.txt").write_text("SOIL\nTree\nCar\n")  # one of each, whatever the case
    (other / "classes.txt").write_text("soil\nCAR\ntree\n")
    assert all(c.moves == {("Tree", "Car"): 60, ("Car", "Tree"): 60} for c in diff_labels(root, other))
