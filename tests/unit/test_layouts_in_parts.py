"""A folder of data sets with the same classes: the exports of several tasks, a folder for each site."""

from __future__ import annotations

import json
from zlib import crc32

import numpy as np
import pytest

from fewmask.data.check import check
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.errors import ConfigError, DataError
from fixtures_data import save_image, save_mask
from fixtures_layouts import names, refuse

LABELS = {"soil": (0, 0, 0), "crop": (200, 0, 0), "weed": (0, 200, 0)}


def task(root, *, frames=2, labels=("soil", "crop", "weed"), drawn=("soil", "crop", "weed")):
    """Write what CVAT exports of a task, "Segmentation mask 1.1": masks of stripes in the order of ``drawn``."""
    for n in range(frames):
        save_image(root / "JPEGImages" / f"{n}.jpg", seed=crc32(f"{root.name} {n}".encode()) % 1000)
        mask = np.array([LABELS[name] for name in drawn], np.uint8).repeat(4, axis=0)[None].repeat(12, axis=0)
        save_mask(root / "SegmentationClass" / f"{n}.png", mask, palette=False)
    rows = [f"{name}:{','.join(map(str, LABELS[name]))}::" for name in labels]
    (root / "labelmap.txt").write_text("\n".join(["# label:color_rgb:parts:actions", *rows]))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("".join(f"{n}\n" for n in range(frames)))


def site(root, *, frames=2, masks=2):
    """Write a folder of images and one of masks."""
    for n in range(frames):
        save_image(root / "images" / f"{n}.png", seed=n, width=12)
    for n in range(masks):
        save_mask(root / "masks" / f"{n}.png", np.array([0, 1, 2], np.uint8).repeat(4)[None].repeat(12, axis=0))


class TestTasks:
    def test_one_data_set_whose_names_begin_with_the_task(self, tmp_path):
        task(tmp_path / "task_1")
        task(tmp_path / "task 2", frames=1)
        index = read_folder(tmp_path, val_fraction=0)
        assert names(index, "train") == ["task 2/0", "task_1/0", "task_1/1"]
        assert index.classes == ("soil", "crop", "weed")
        assert "2 folders read as one, an image's name begins with its folder: task 2, task_1" in index.notes

    def test_a_folder_that_an_archive_was_unpacked_into(self, tmp_path):
        task(tmp_path / "export")
        assert names(read_folder(tmp_path, val_fraction=0), "train") == ["export/0", "export/1"]

    def test_labels_in_another_order(self, tmp_path):
        """What counts is which colour is which class."""
        task(tmp_path / "a")
        task(tmp_path / "b", labels=("weed", "soil", "crop"), drawn=("crop", "weed", "soil"))
        index = read_folder(tmp_path, val_fraction=0)
        of_b = next(i for i in index.items["train"] if i.name == "b/0")
        assert [index.classes[i] for i in read_mask(of_b.mask, index.code)[0, ::4]] == ["crop", "weed", "soil"]

    def test_other_labels_stop(self, tmp_path):
        """Of the task without the label nobody knows whether its background is one."""
        task(tmp_path / "a")
        task(tmp_path / "b", labels=("soil", "crop"), drawn=("soil", "crop", "crop"))
        message = """colour "0,200,0" is 'weed' in 'a' and nothing in 'b'"""
        assert "with the same labels in one format" in str(refuse(tmp_path, DataError, message))

    def test_masks_that_spell_classes_otherwise_stop(self, tmp_path):
        task(tmp_path / "a")
        site(tmp_path / "b")
        refuse(tmp_path, DataError, """colour "0,0,0" is 'soil' in 'a' and nothing in 'b', colour "200,0,0" is""")
        (tmp_path / "b" / "classes.txt").write_text("soil\ncrop\nweed\n")
        refuse(tmp_path, DataError, """colour "0,0,0" is 'soil' in 'a' and nothing in 'b', colour "200,0,0" is""")

    def test_all_photos_beside_them(self, tmp_path):
        """They are not taken for anything by themselves; called "unlabelled", they are that."""
        task(tmp_path / "a")
        save_image(tmp_path / "photos" / "x.jpg", seed=77)
        error = refuse(tmp_path, DataError, "'a' is read as 'voc with labelmap.txt', and photos beside it as nothing")
        assert "unlabelled/photos/…" in str(error)
        (tmp_path / "photos").rename(tmp_path / "unlabelled")
        bare = [i.name for i in read_folder(tmp_path, val_fraction=0).items["train"] if i.mask is None]
        assert bare == ["unlabelled/x"]

    def test_folders_called_as_roles(self, tmp_path):
        for role in ("train", "val"):
            task(tmp_path / role)
        index = read_folder(tmp_path)
        assert names(index, "train") == ["train/0", "train/1"] and names(index, "val") == ["val/0", "val/1"]

    def test_a_run_among_them_is_no_part(self, tmp_path):
        task(tmp_path / "a")
        run = tmp_path / "run"
        save_image(run / "pictures" / "x.png")
        for name in ("config.yaml", "environment.json"):
            (run / name).write_text("{}")
        assert names(read_folder(tmp_path, val_fraction=0), "train") == ["a/0", "a/1"]


class TestSites:
    def test_classes_of_a_list_beside_them(self, tmp_path):
        site(tmp_path / "north")
        site(tmp_path / "south", frames=3)
        (tmp_path / "classes.txt").write_text("soil\ncrop\nweed\n")
        index = read_folder(tmp_path, val_fraction=0)
        assert index.classes == ("soil", "crop", "weed") and index.layout == "folders"
        assert [i.name for i in index.items["train"] if i.mask is None] == ["south/2"]

    def test_classes_of_a_table_beside_them(self, tmp_path):
        for name in ("north", "south"):
            site(tmp_path / name)
        (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsoil,0,0,0\ncrop,200,0,0\nweed,0,200,0\n")
        assert read_folder(tmp_path, val_fraction=0).classes == ("soil", "crop", "weed")

    def test_classes_of_each(self, tmp_path):
        for name in ("north", "south"):
            site(tmp_path / name)
            (tmp_path / name / "classes.txt").write_text("soil\ncrop\nweed\n")
        assert read_folder(tmp_path, val_fraction=0).classes == ("soil", "crop", "weed")
        (tmp_path / "south" / "classes.txt").write_text("soil\nweed\ncrop\n")
        refuse(tmp_path, DataError, "value 1 is 'crop' in 'north' and 'weed' in 'south', value 2 is 'weed'")

    def test_what_holds_for_all_is_declared_beside_them(self, tmp_path):
        for name in ("north", "south"):
            site(tmp_path / name)
        (tmp_path / "data.yaml").write_text("classes: [soil, crop, weed]\ngroups: folder\n")
        groups = {i.name: i.group for i in read_folder(tmp_path, val_fraction=0).items["train"]}
        assert groups["north/0"] == groups["north/1"] == "north" and groups["south/0"] == "south"

    def test_how_one_of_them_is_read_is_declared_in_it(self, tmp_path):
        site(tmp_path / "north")
        site(tmp_path / "south")
        (tmp_path / "south" / "masks").rename(tmp_path / "south" / "drawn")
        (tmp_path / "south" / "data.yaml").write_text("images: images\nmasks: drawn\n")
        index = read_folder(tmp_path, val_fraction=0)
        assert [i.mask.parent.name for i in index.items["train"]] == ["masks"] * 2 + ["drawn"] * 2
        assert index.layout == "folders, data.yaml"
        (tmp_path / "south" / "data.yaml").write_text("groups: folder\n")
        error = refuse(tmp_path, ConfigError, "groups holds for all folders beside this one")
        assert f"move it into {tmp_path / 'data.yaml'}" in str(error)

    def test_findings_name_the_image_as_the_data_set_does(self, tmp_path):
        for name in ("north", "south"):
            site(tmp_path / name, masks=1)
        save_mask(tmp_path / "south" / "masks" / "9.png", np.zeros((12, 12)))
        found = [f for _, f in check(tmp_path, cache=False).findings() if f.kind == "mask_without_image"]
        assert [(f.name, f.where) for f in found] == [("south/9", str(tmp_path / "south" / "masks" / "9.png"))]


def test_images_and_masks_of_one_data_set_are_not_parts(tmp_path):
    """Folders whose names say nothing stay refused, and so does a data set whose pictures lie beside a folder of it."""
    save_image(tmp_path / "a" / "x.png")
    save_mask(tmp_path / "b" / "x.png", np.zeros((12, 16)))
    refuse(tmp_path, DataError, "no images folder; there is a, b")


@pytest.mark.parametrize("where", ["task_1", "."])
def test_json_with_the_pictures_in_folders_stays_one_data_set(tmp_path, where):
    """COCO's file at the top names pictures of all folders: these are no parts."""
    for name in ("a", "b"):
        save_image(tmp_path / where / name / "0.png")
    square = [0, 0, 8, 0, 8, 8, 0, 8]
    content = {
        "images": [{"id": n, "file_name": f"{name}/0.png", "height": 12, "width": 16} for n, name in enumerate("ab")],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "segmentation": [square]} for n in range(2)],
        "categories": [{"id": 1, "name": "crop"}],
    }
    (tmp_path / where / "annotations.json").write_text(json.dumps(content))
    prefix = "" if where == "." else f"{where}/"
    assert names(read_folder(tmp_path, val_fraction=0), "train") == [f"{prefix}a/0", f"{prefix}b/0"]


class TestPartsWithoutMasks:
    """Sites that nobody has labelled yet: the usual case here."""

    @pytest.mark.parametrize("empty", [True, False])
    def test_images_alone_are_unlabelled(self, tmp_path, empty):
        site(tmp_path / "north")
        site(tmp_path / "west", masks=0)
        if empty:
            (tmp_path / "west" / "masks").mkdir()
        index = read_folder(tmp_path, val_fraction=0)
        assert [i.name for i in index.items["train"] if i.mask is None] == ["west/0", "west/1"]
        assert "west: 2 images and no mask: unlabelled" in index.notes and index.layout == "folders"

    @pytest.mark.parametrize("more", ["overlays/0.png", "notes.json"])
    def test_where_something_else_may_say_what_they_are_they_are_asked_for(self, tmp_path, more):
        site(tmp_path / "north")
        site(tmp_path / "west", masks=0)
        (tmp_path / "west" / more).parent.mkdir(exist_ok=True)
        save_image(tmp_path / "west" / more) if more.endswith("png") else (tmp_path / "west" / more).write_text("{}")
        error = refuse(tmp_path, DataError, "'north' is read as 'folders', and west beside it as nothing")
        assert "unlabelled/west/…" in str(error)

    def test_no_part_has_masks(self, tmp_path):
        site(tmp_path / "north", masks=0)
        site(tmp_path / "west", masks=0)
        refuse(tmp_path, DataError, "no images folder; there is north, west")
