"""Folders as annotation tools and other libraries write them, and what stands in their way."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.errors import ConfigError, DataError
from fixtures_data import blocks, save_mask
from fixtures_layouts import names, refuse


def ids(index, name):
    """Return the classes in an item's mask, from left to right."""
    item = next(i for items in index.items.values() for i in items if i.name == name)
    return list(dict.fromkeys(read_mask(item.mask, index.code)[0].tolist()))


def rgb_mask(path, *colours):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.repeat(np.array([colours], np.uint8), 4, axis=1).repeat(12, axis=0)).save(path)


def image(path, width=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, 12), (90, 120, 60)).save(path)


class TestCvat:
    @pytest.fixture
    def root(self, tmp_path):
        """Three annotated frames, one of them palette, in lists of CVAT; one that nobody annotated."""
        (tmp_path / "labelmap.txt").write_text(
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsugar beet:128,0,0::\n"
            "ignored:224,224,192::\nweed:0,128,0::\n"
        )
        for n in range(4):
            image(tmp_path / "JPEGImages" / f"cam/{n}.jpg")
        for n in range(3):
            mask = tmp_path / "SegmentationClass" / f"cam/{n}.png"
            rgb_mask(mask, (0, 128, 0), (128, 0, 0), (0, 0, 0), (224, 224, 192))
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "default.txt").write_text("cam/0\ncam/1\n")
        (lists / "val.txt").write_text("cam/2\n")
        return tmp_path

    def test_classes_and_colours(self, root):
        index = read_folder(root)
        assert index.classes == ("background", "sugar beet", "weed") and index.layout == "voc with labelmap.txt"
        assert ids(index, "cam/0") == [2, 1, 0, 255]
        assert names(index, "train") == ["cam/0", "cam/1", "cam/3"] and names(index, "val") == ["cam/2"]
        assert [i.mask is None for i in index.items["train"]] == [False, False, True]

    def test_a_palette_that_shows_the_colours(self, root):
        path = root / "SegmentationClass" / "cam" / "0.png"
        Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save(path)
        assert ids(read_folder(root), "cam/0") == [2, 1, 0, 255]

    def test_all_photos_beside_those_that_the_tool_saved(self, root):
        """CVAT saves the annotated images; the others lie where they were."""
        for n in range(6):
            image(root / "images" / f"cam/{n}.jpg")
        index = read_folder(root, val_fraction=0)
        assert [i.name for i in index.items["train"] if i.mask is None] == ["cam/3", "cam/4", "cam/5"]
        assert index.items["train"][0].image == root / "JPEGImages/cam/0.jpg"

    @pytest.mark.parametrize("place", ["images", "Photos", "."])
    def test_images_that_the_tool_did_not_save(self, root, place):
        (root / "JPEGImages" / "cam").rename(root / "cam")
        (root / "JPEGImages").rmdir()
        if place == ".":
            for part in ("SegmentationClass",):
                for file in (root / part / "cam").iterdir():
                    file.rename(root / part / file.name)
            for file in list((root / "cam").iterdir()):
                file.rename(root / file.name)
            for file in (root / "ImageSets/Segmentation").iterdir():
                file.write_text(file.read_text().replace("cam/", ""))
        else:
            (root / place).mkdir()
            (root / "cam").rename(root / place / "cam")
        index = read_folder(root)
        assert [len(index.items[r]) for r in ("train", "val")] == [3, 1] and len(index.labelled) == 2

    def test_subsets_as_the_tool_calls_them(self, root):
        lists = root / "ImageSets" / "Segmentation"
        (lists / "val.txt").rename(lists / "Validation.txt")
        (lists / "default.txt").rename(lists / "Train.txt")
        index = read_folder(root)
        assert names(index, "train") == ["cam/0", "cam/1", "cam/3"] and names(index, "val") == ["cam/2"]
        (lists / "Train.txt").rename(lists / "monday.txt")
        (lists / "trainval.txt").write_text("cam/0\ncam/1\ncam/2\n")
        index = read_folder(root)
        assert names(index, "train") == ["cam/0", "cam/1", "cam/3"] and "train: 2 images of monday.txt" in index.notes
        (lists / "test.txt").write_text("cam/2\n")
        refuse(root, DataError, "'cam/2' is in Validation.txt too")

    def test_masks_that_no_list_names(self, root):
        (root / "ImageSets/Segmentation/default.txt").write_text("cam/0\n")
        assert "1 masked images are in no list and are left out, first 'cam/1'" in read_folder(root).notes

    def test_without_images(self, root):
        (root / "JPEGImages").rename(root / "pictures")
        refuse(root, DataError, "masks are here and no images.*option to save images")

    @pytest.mark.parametrize("line", ["crop", "crop:1,2", "crop:300,0,0::", "background:9,9,9::", "soil:0,0,0::"])
    def test_a_bad_labelmap(self, root, line):
        with (root / "labelmap.txt").open("a") as file:
            file.write(line + "\n")
        refuse(root, DataError, "no NAME:R,G,B|stands there twice")


class TestRoboflow:
    @pytest.fixture
    def root(self, tmp_path):
        for part, count in (("train", 3), ("valid", 2), ("test", 1)):
            (tmp_path / part).mkdir()
            (tmp_path / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, nucleus\n2, cell\n")
            for n in range(count):
                image(tmp_path / part / f"a{n}_jpg.rf.12ab.jpg")
                save_mask(tmp_path / part / f"a{n}_jpg.rf.12ab_mask.png", blocks((2, 0, 1)))
        (tmp_path / "README.roboflow.txt").write_text("x")
        image(tmp_path / "train" / "bare.jpg")
        return tmp_path

    def test_it(self, root):
        index = read_folder(root)
        assert index.layout == "roboflow" and index.classes == ("background", "nucleus", "cell")
        assert [len(index.items[r]) for r in ("train", "val", "test")] == [4, 2, 1]
        assert ids(index, "train/a0_jpg.rf.12ab") == [2, 0, 1]
        assert [i.name for i in index.items["train"] if i.mask is None] == ["train/bare"]

    def test_parts_that_disagree(self, root):
        (root / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, cell\n")
        refuse(root, DataError, "names other classes than")

    def test_no_table(self, root):
        (root / "train" / "_classes.csv").write_text("Pixel Value, Class\nx\n")
        refuse(root, DataError, "no table of pixel value")


class TestNnunet:
    @pytest.fixture
    def root(self, tmp_path):
        (tmp_path / "dataset.json").write_text(json.dumps({
            "channel_names": {"0": "R", "1": "G", "2": "B"}, "numTraining": 2, "file_ending": ".png",
            "labels": {"background": 0, "road": 1, "ignore": 2},
        }))  # fmt: skip
        for n in range(3):
            image(tmp_path / "imagesTr" / f"img-{n}_0000.png")
            save_mask(tmp_path / "labelsTr" / f"img-{n}.png", blocks((0, 1, 2)))
            image(tmp_path / "imagesTs" / f"ts-{n}_0000.png")
        save_mask(tmp_path / "labelsTs" / "ts-1.png", blocks((1,)))
        return tmp_path

    def test_it(self, root):
        index = read_folder(root)
        assert index.layout == "nnunet" and index.classes == ("background", "road")
        assert names(index, "test") == ["ts-1"] and ids(index, "img-0") == [0, 1, 255]
        assert sum(i.mask is None for i in index.items["train"]) == 2

    def test_further_channels(self, root):
        image(root / "imagesTr" / "img-0_0001.png")
        refuse(root, DataError, "further channels")

    @pytest.mark.parametrize("labels", [{"a": [1, 2]}, ["a"], None])
    def test_regions_and_nonsense(self, root, labels):
        (root / "dataset.json").write_text(json.dumps({"labels": labels}))
        refuse(root, DataError, "one number each")


class TestBeside:
    def test_masks_beside(self, tmp_path):
        for name in ("field1/a", "field1/b", "field2/c"):
            image(tmp_path / f"{name}.jpg")
            save_mask(tmp_path / f"{name}_mask.png", blocks((0, 1)))
        image(tmp_path / "field2" / "d.jpg")
        index = read_folder(tmp_path, val_fraction=0)
        assert names(index, "train") == ["field1/a", "field1/b", "field2/c", "field2/d"] and index.layout == "beside"
        assert index.items["train"][3].mask is None and ids(index, "field1/a") == [0, 1]

    def test_deepglobe(self, tmp_path):
        (tmp_path / "class_dict.csv").write_text("name,r,g,b\nurban_land,0,255,255\nwater,0,0,255\nunknown,0,0,0\n")
        for part in ("train", "valid"):
            for n in range(2):
                image(tmp_path / part / f"{n}_sat.jpg")
                rgb_mask(tmp_path / part / f"{n}_mask.png", (0, 255, 255), (0, 0, 0), (0, 0, 255), (0, 0, 255))
        index = read_folder(tmp_path)
        assert index.classes == ("urban_land", "water", "unknown") and ids(index, "train/0") == [0, 2, 1]
        assert names(index, "val") == ["valid/0", "valid/1"]

    def test_role_folders_with_companions(self, tmp_path):
        (tmp_path / "class_dict.csv").write_text("name, r, g, b\nSky, 128,128,128\nVoid, 0,0,0\nCar, 64,0,128\n")
        for part in ("train", "val", "test"):
            image(tmp_path / part / "f1.png")
            rgb_mask(tmp_path / f"{part}_labels" / "f1_L.png", (64, 0, 128), (0, 0, 0), (128, 128, 128), (64, 0, 128))
        index = read_folder(tmp_path)
        assert index.classes == ("Sky", "Car") and ids(index, "train/f1") == [1, 255, 0]
        assert [names(index, r) for r in ("train", "val", "test")] == [["train/f1"], ["val/f1"], ["test/f1"]]

    def test_segnets_camvid(self, tmp_path):
        for part, frame in (("train", "0001TP_006690"), ("val", "0016E5_07959"), ("test", "Seq05VD_f00000")):
            image(tmp_path / part / f"{frame}.png")
            save_mask(tmp_path / f"{part}annot" / f"{frame}.png", blocks((0, 10, 11)))
        index = read_folder(tmp_path)
        assert index.layout == "camvid (SegNet)" and len(index.classes) == 11 and index.classes[10] == "bicyclist"
        assert ids(index, "train/0001TP_006690") == [0, 10, 255]

    def test_a_bad_table(self, tmp_path):
        image(tmp_path / "a.jpg")
        save_mask(tmp_path / "a_mask.png", blocks((0, 1)))
        (tmp_path / "class_dict.csv").write_text("name,r,g,b\nx,red,0,0\n")
        refuse(tmp_path, DataError, "no table of name,r,g,b")


class TestPublished:
    def test_ade20k(self, tmp_path):
        for part, short in (("training", "train"), ("validation", "val")):
            image(tmp_path / "images" / part / f"ADE_{short}_00000001.jpg")
            save_mask(tmp_path / "annotations" / part / f"ADE_{short}_00000001.png", blocks((0, 1, 150)))
        rows = [f"{n}\t0.1\t1\t1\t{'wall, x' if n == 1 else f'thing{n}'}" for n in range(1, 151)]
        (tmp_path / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + "\n".join(rows))
        index = read_folder(tmp_path)
        assert index.layout == "ade20k" and index.classes[0] == "wall" and len(index.classes) == 150
        assert ids(index, "training/ADE_train_00000001") == [255, 0, 149] and len(index.items["val"]) == 1

    def test_others_in_the_folders_of_ade20k(self, tmp_path):
        """As mmsegmentation's users have them: ids mean what they mean."""
        for part in ("training", "validation"):
            image(tmp_path / "images" / part / "a.jpg")
            save_mask(tmp_path / "annotations" / part / "a.png", blocks((0, 1, 2)))
        index = read_folder(tmp_path)
        assert index.layout == "folders" and ids(index, "training/a") == [0, 1, 2]

    def test_camvid(self, tmp_path):
        (tmp_path / "label_colors.txt").write_text("64 128 64\tAnimal\n0 0 0\t\tVoid\n128 64 128\tRoad\n")
        for n in range(3):
            image(tmp_path / "701_StillsRaw_full" / f"0001TP_{n:06d}.png")
            rgb_mask(
                tmp_path / "LabeledApproved_full" / f"0001TP_{n:06d}_L.png",
                (128, 64, 128), (0, 0, 0), (64, 128, 64), (128, 64, 128),
            )  # fmt: skip
        image(tmp_path / "701_StillsRaw_full" / "0001TP_999999.png")
        index = read_folder(tmp_path, val_fraction=0)
        assert index.classes == ("Animal", "Road") and ids(index, "0001TP_000000") == [1, 255, 0]
        assert sum(i.mask is None for i in index.items["train"]) == 1

    def test_two_readings(self, tmp_path):
        (tmp_path / "leftImg8bit").mkdir()
        for folder in ("imagesTr", "labelsTr"):
            (tmp_path / folder).mkdir()
        (tmp_path / "dataset.json").write_text("{}")
        refuse(tmp_path, DataError, "looks like Cityscapes and like nnU-Net.*data.yaml")


class TestOtherNames:
    @pytest.mark.parametrize(
        ("images", "masks"), [("Image", "Mask"), ("imgs", "labels"), ("rgb", "gt"), ("raw", "targets")]
    )
    def test_folders_that_are_called_otherwise(self, tmp_path, images, masks):
        for name in ("a", "b"):
            image(tmp_path / images / f"{name}.jpg")
            save_mask(tmp_path / masks / f"{name}.png", blocks((0, 1)))
        index = read_folder(tmp_path, val_fraction=0)
        assert names(index, "train") == ["a", "b"] and f"images in {images!r}, masks in {masks!r}" in index.notes

    def test_two_candidates_are_no_answer(self, tmp_path):
        for folder in ("images", "labels", "gt"):
            image(tmp_path / folder / "a.png")
        refuse(tmp_path, DataError, "no masks folder beside images")

    @pytest.mark.parametrize("order", ["images/train", "train/images"])
    def test_ultralytics(self, tmp_path, order):
        yaml = "path: ../data\ntrain: images/train\nval: images/val\nmasks_dir: masks\nnames: {0: soil, 1: crop}\n"
        (tmp_path / "data.yaml").write_text(yaml)
        for part in ("train", "val"):
            place = order.replace("train", part)
            image(tmp_path / place / "a.jpg")
            save_mask(tmp_path / place.replace("images", "masks") / "a.png", blocks((0, 1)))
        index = read_folder(tmp_path)
        assert (
            index.classes == ("soil", "crop") and names(index, "val") == ["val/a"] and ids(index, "train/a") == [0, 1]
        )

    @pytest.fixture
    def polygons(self, tmp_path, monkeypatch):
        """One image with two objects, one with none, one that nobody looked at."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        root = tmp_path / "data"
        for name in ("a", "b", "c"):
            image(root / "images" / "train" / f"{name}.jpg")
        (root / "labels" / "train").mkdir(parents=True)
        (root / "data.yaml").write_text("train: images/train\nnc: 2\nnames: [crop, weed]\n")
        (root / "labels" / "train" / "a.txt").write_text("1 0 0 0.5 0 0.5 1 0 1\n\n0 0.5 0 1 0 1 1 0.5 1\n")
        (root / "labels" / "train" / "b.txt").write_text("")
        return root

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    def test_polygons_of_ultralytics(self, polygons):
        index = read_folder(polygons, val_fraction=0)
        assert index.layout == "yolo polygons" and index.classes == ("background", "crop", "weed")
        mask = read_mask(index.items["train"][0].mask, index.code)
        assert (mask[:, :8] == 2).all() and (mask[:, 8:] == 1).all()
        assert [i.mask is None for i in index.items["train"]] == [False, False, True]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("0 0.5 0.5 0.2 0.2", "box without outline"), ("7 0 0 1 0 1 1", "class 7 is none of 2"),
            ("0 a b c", "no row of numbers"), ("0 0 0 inf 0 1 1", "far outside"), ("0.5 0 0 1 0 1 1", "class 0.5"),
        ],
    )  # fmt: skip
    def test_lines_that_are_none(self, polygons, line, message):
        (polygons / "labels" / "train" / "b.txt").write_text(f"{line}\n")
        refuse(polygons, DataError, message)

    def test_masks_dir_that_leads_away(self, tmp_path):
        (tmp_path / "data.yaml").write_text("train: a\nnames: [crop]\nmasks_dir: ../../etc\n")
        refuse(tmp_path, ConfigError, "masks_dir leads away")
