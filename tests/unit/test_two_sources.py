"""Two kinds of annotation of the same images: the folder stops with both readings, or what is left aside is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fewmask.data import layouts
from fewmask.data.layouts import read_folder
from fewmask.data.layouts.found import begins, read_json
from fewmask.data.masks import read_mask
from fewmask.errors import ConfigError, DataError
from fixtures_data import blocks, make_folder, make_voc, save_image, save_mask
from fixtures_layouts import names, refuse

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SQUARE = [[2, 2, 8, 2, 8, 8, 2, 8]]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def coco(path, *files, outline=SQUARE):
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {
        "images": [{"id": n, "file_name": f, "height": 12, "width": 16} for n, f in enumerate(files)],
        "categories": [{"id": 1, "name": "crop"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [2, 2, 6, 6], "segmentation": outline}
            for n in range(len(files))
        ],
    }  # fmt: skip
    path.write_text(json.dumps(tree))


def label_studio(path, *files):
    value = {"points": [[10, 10], [60, 10], [60, 60]], "polygonlabels": ["crop"]}
    result = {"type": "polygonlabels", "value": value, "original_width": 16, "original_height": 12}
    tasks = [{"id": n, "data": {"image": f}, "annotations": [{"result": [result]}]} for n, f in enumerate(files)]
    path.write_text(json.dumps(tasks))


def declare(root, text):
    (root / "data.yaml").write_text(text)
    return read_folder(root, val_fraction=0)


def notes(index):
    return " | ".join(index.notes)


class TestMasksAndJson:
    @pytest.fixture
    def root(self, tmp_path):
        """Images in the folder itself, masks of two of them in masks/, outlines of two in a JSON file."""
        for n in range(3):
            save_image(tmp_path / "data" / f"{n}.jpg", seed=n)
        for n in range(2):
            save_mask(tmp_path / "data/masks" / f"{n}.png", blocks((0, 1)))
        coco(tmp_path / "data/annotations.json", "0.jpg", "1.jpg")
        return tmp_path / "data"

    def test_stop_with_both_readings(self, root):
        error = refuse(root, DataError, "2 images are annotated twice.*'coco'.*masks such as 'masks/0.png'")
        assert "layout: coco, or masks: 'masks/*.png' and images:" in error.todo

    def test_the_one(self, root):
        index = declare(root, "layout: coco\n")
        assert names(index, "train") == ["0", "1", "2"] and len(index.labelled) == 2, "masks are no images"
        assert index.classes == ("background", "crop") and "masks such as 'masks/0.png' too" in notes(index)

    def test_the_other(self, root):
        index = declare(root, "images: '*.jpg'\nmasks: 'masks/*.png'\n")
        assert [i.mask for i in index.labelled] == [root / "masks/0.png", root / "masks/1.png"]
        assert "2 images have annotations in 'annotations.json' too" in notes(index)

    def test_masks_beside(self, tmp_path):
        for n in range(2):
            save_image(tmp_path / f"{n}.jpg", seed=n)
            save_mask(tmp_path / f"{n}_mask.png", blocks((0, 1)))
        coco(tmp_path / "a.json", "0.jpg")
        error = refuse(tmp_path, DataError, "masks such as '0_mask.png'")
        assert "layout: beside" in error.todo
        assert len(declare(tmp_path, "layout: beside\n").labelled) == 2
        assert names(declare(tmp_path, "layout: coco\n"), "train") == ["0", "1"]

    @pytest.mark.parametrize(("folders", "stops"), [(("images", "masks"), False), (("imgs", "labels"), True)])
    def test_folders_that_are_the_default_are_chosen(self, tmp_path, folders, stops):
        for n in range(2):
            save_image(tmp_path / folders[0] / f"{n}.jpg", seed=n)
            save_mask(tmp_path / folders[1] / f"{n}.png", blocks((0, 1)))
        coco(tmp_path / "all.json", "0.jpg", "1.jpg")
        if stops:
            assert "layout: folders, or layout: coco" in refuse(tmp_path, DataError, "annotated twice").todo
        else:
            told = notes(read_folder(tmp_path, val_fraction=0))
            assert "the masks in folders are read; 2 images have annotations in 'all.json' too" in told
        pixels = {
            key: np.count_nonzero(read_mask(index.labelled[0].mask, index.code))
            for key in ("folders", "coco") if (index := declare(tmp_path, f"layout: {key}\n"))
        }  # fmt: skip
        assert pixels == {"folders": 12 * 8, "coco": 36}

    def test_label_studio(self, tmp_path):
        for n in range(2):
            save_image(tmp_path / "imgs" / f"{n}.jpg", seed=n)
            save_mask(tmp_path / "labels" / f"{n}.png", blocks((0, 1)))
        label_studio(tmp_path / "export.json", "/data/upload/3/ab12-0.jpg")
        assert "layout: labelstudio" in refuse(tmp_path, DataError, "1 images are annotated twice").todo
        assert len(declare(tmp_path, "layout: labelstudio\n").labelled) == 1

    def test_two_files_of_outlines(self, tmp_path):
        save_image(tmp_path / "0.jpg")
        coco(tmp_path / "coco.json", "0.jpg")
        label_studio(tmp_path / "studio.json", "0.jpg")
        assert "layout: coco, or layout: labelstudio" in refuse(tmp_path, DataError, "'studio.json'").todo

    @pytest.mark.parametrize("outline", [None, []])
    def test_boxes_alone_are_no_second_reading(self, tmp_path, outline):
        for n in range(2):
            save_image(tmp_path / "imgs" / f"{n}.jpg", seed=n)
            save_mask(tmp_path / "labels" / f"{n}.png", blocks((0, 1)))
        coco(tmp_path / "boxes.json", "0.jpg", outline=outline)
        assert read_folder(tmp_path, val_fraction=0).layout == "folders"

    def test_outlines_of_images_elsewhere_are_none(self, tmp_path):
        for n in range(2):
            save_image(tmp_path / "imgs" / f"{n}.jpg", seed=n)
            save_mask(tmp_path / "labels" / f"{n}.png", blocks((0, 1)))
        coco(tmp_path / "other.json", "far.jpg")
        assert "annotations" not in notes(read_folder(tmp_path, val_fraction=0))


class TestVoc:
    def test_masks_elsewhere_are_told(self, tmp_path):
        make_voc(tmp_path, ["2007_1", "2007_2"], ["2007_3"])
        save_mask(tmp_path / "SegmentationObject" / "2007_1.png", blocks((0, 1)))
        assert "too, and are not read" not in notes(read_folder(tmp_path))
        for name in ("2007_1", "2007_3", "none"):
            save_mask(tmp_path / "cvat/SegmentationClass" / f"{name}.png", blocks((0, 2)))
        told = notes(read_folder(tmp_path))
        assert "2 masks of these images lie in 'cvat/SegmentationClass' too, and are not read" in told

    def test_beside_json(self, tmp_path):
        make_voc(tmp_path, ["2007_1", "2007_2"], ["2007_3"])
        coco(tmp_path / "annotations/all.json", "2007_1.jpg")
        assert "layout: voc, or layout: coco" in refuse(tmp_path, DataError, "1 images are annotated twice").todo
        assert declare(tmp_path, "layout: voc\n").layout == "voc"
        index = declare(tmp_path, "layout: coco\n")
        assert [i.name for i in index.labelled] == ["JPEGImages/2007_1"]
        assert all(i.name.startswith("JPEGImages/") for i in index.items["train"])

    def test_two_layouts(self, tmp_path):
        make_voc(tmp_path, ["2007_1"], ["2007_3"])
        (tmp_path / "leftImg8bit").mkdir()
        assert "layout: voc, or layout: cityscapes" in refuse(tmp_path, DataError, "looks like").todo
        assert declare(tmp_path, "layout: voc\n").layout == "voc"


class TestFolders:
    def test_other_masks_are_told(self, tmp_path):
        make_folder(tmp_path, ["train/a", "train/b", "val/c"])
        save_mask(tmp_path / "labels/train/a.png", blocks((0, 1)))
        told = "1 masks of these images lie in 'labels/train' too, and are not read"
        assert told in notes(read_folder(tmp_path))

    def test_polygons_and_masks(self, tmp_path):
        for n in range(2):
            save_image(tmp_path / "images/train" / f"{n}.jpg", seed=n)
            save_mask(tmp_path / "masks/train" / f"{n}.png", blocks((0, 1)))
        text = tmp_path / "labels/train/0.txt"
        text.parent.mkdir(parents=True)
        text.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
        yolo = "train: images/train\nnames: [crop]\n"
        (tmp_path / "data.yaml").write_text(yolo)
        assert "layout: yolo, or layout: folders" in refuse(tmp_path, DataError, "annotated twice").todo


class TestDeclared:
    def test_what_is_not_there(self, tmp_path):
        make_folder(tmp_path, ["train/a", "val/c"])
        for key in ("voc", "coco", "beside"):
            (tmp_path / "data.yaml").write_text(f"layout: {key}\n")
            refuse(tmp_path, DataError, f"cannot be read as layout: {key}")
        (tmp_path / "data.yaml").write_text("layout: pascal\n")
        refuse(tmp_path, ConfigError, "layout: is 'pascal', must be 'folders'")
        (tmp_path / "data.yaml").write_text("layout: folders\nmasks: masks\n")
        refuse(tmp_path, ConfigError, "leave one of them away")


@pytest.mark.parametrize(
    ("text", "first"),
    [(b"\xef\xbb\xbf \r\n[1]", "["), (b"{}", "{"), (b"  \t", ""), (b"", ""), ("é".encode(), "\ufffd")],
)
def test_what_json_begins_with(tmp_path, text, first):
    (tmp_path / "a.json").write_bytes(text)
    assert begins(tmp_path / "a.json") == first and begins(tmp_path / "none.json") == "" == begins(tmp_path)


def test_annotations_are_parsed_once(tmp_path, monkeypatch):
    """They may have hundreds of megabytes, and every command reads the folder."""
    data, parsed = tmp_path / "data", list[str]()
    save_image(data / "images/a.png")
    coco(data / "annotations.json", "a.png")
    for module in (layouts.coco, layouts.labelstudio):
        monkeypatch.setattr(module, "read_json", lambda path: (parsed.append(path.name), read_json(path))[1])
    assert read_folder(data).layout == "coco" and parsed == ["annotations.json"]
