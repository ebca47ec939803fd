import json
import time

import numpy as np
import pytest
from PIL import Image

from fewmask.data.check import check, duplicate_images, empty_mask_doubt
from fewmask.data.index import ROLES
from fewmask.data.layouts import read_folder, without_empty_masks
from fewmask.data.scan import scan
from fewmask.errors import ConfigError, DataError
from fixtures_data import SHARED, blocks, make_folder, make_voc, save_image, save_mask


def look(root, **options):
    return check(root, cache=False, **options)


def duplicates_of(root):
    index = read_folder(root)
    return duplicate_images(index, scan([i for r in ROLES for i in index.items[r]], 2, index.code, cache=False))


def write_masks(root, masks):
    for name, ids in masks.items():
        save_mask(root / "masks" / f"{name}.png", blocks(ids))


def test_a_folder_without_faults(tmp_path):
    make_folder(tmp_path, [f"train/{c}" for c in "abc"] + ["val/d"], ["train/e"], ids=(0, 1, 255))
    save_image(tmp_path / "images/train/e.jpg", height=40, width=30)
    report = look(tmp_path)
    assert report.problems == () and report.notes == ()
    assert report.doubts == (
        "31% of the pixels in masks do not count (255, and what is declared as ignored), most of them in 4 masks: "
        "a class that nothing names would be among them",
    )
    assert report.roles["train"] == {"images": 4, "labelled": 3, "unlabelled": 1}
    assert report.roles["val"] == {"images": 1, "labelled": 1, "unlabelled": 0}
    zeros, ones = ((blocks((0, 1, 255)) == i).sum() for i in (0, 1))
    assert [c.share for c in report.classes] == [zeros / (zeros + ones), ones / (zeros + ones)]
    assert report.classes[1].images == {"train": 3, "val": 1, "test": 0}
    assert report.sizes == {"min": [12, 16], "median": [12, 16], "max": [40, 30], "distinct": 2}
    assert report.encodings == {"PNG, palette index": 4} and report.opened == 5
    assert report.uncounted == 5 / 16
    text = "\n".join(report.lines())
    assert "31.2% of all pixels in masks do not count" in text
    assert "16x12 to 30x40, median 16x12; 2 different" in text and "3 labelled, 1 unlabelled" in text
    assert json.loads(json.dumps(report.to_json()))["classes"][1]["name"] == "b"


def test_problems_are_all_listed(tmp_path):
    make_folder(tmp_path, ["train/a", "train/b", "train/c", "val/d"])
    write_masks(tmp_path, {"train/a": (0, 9), "train/b": (0, 1, 8)})
    (tmp_path / "images/train/c.jpg").write_bytes(b"")
    report = look(tmp_path)
    assert [p.name for p in report.problems] == ["train/a", "train/b", "train/c"]
    assert sum(line.startswith("problem: ") for line in report.lines()) == 3


def test_a_missing_folder_is_the_callers_error(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        look(tmp_path / "none")


def test_classes_that_nothing_names(tmp_path):
    make_folder(tmp_path, ["train/a", "val/b"], ids=(0, 38), classes=None)
    report = look(tmp_path)
    assert "ids from 0 to 38" in report.problems[0].what
    assert [(c.value, c.name, c.share) for c in report.classes] == [("0", "?", 0.5), ("38", "?", 0.5)]
    write_masks(tmp_path, {"train/a": (0, 1), "val/b": (0, 1)})
    assert [c.name for c in look(tmp_path).classes] == ["class 0", "class 1"]


def test_zero_and_255(tmp_path):
    make_folder(tmp_path, ["train/a", "val/b"], ids=(0, 255), classes=None)
    assert "two readings" in look(tmp_path).problems[0].what
    (tmp_path / "data.yaml").write_text("classes: {0: background, 255: object}")
    report = look(tmp_path)
    assert report.problems == () and [c.share for c in report.classes] == [0.5, 0.5]
    assert [c.value for c in report.classes] == ["0", "255"], "what files say, not our index"
    assert "    0 background" in "\n".join(report.lines()) and "  255 object" in "\n".join(report.lines())
    (tmp_path / "data.yaml").write_text("classes: {0: a, 1: b, 255: a}")
    assert [c.value for c in look(tmp_path).classes] == ["0, 255", "1"]


class TestEmptyMasks:
    def make(self, root, empty, declared=None):
        make_folder(root, [f"train/{i}" for i in range(8)] + ["val/0", "val/1"])
        write_masks(root, {name: (0,) for name in empty})
        if declared:
            (root / "data.yaml").write_text(f"empty_masks: {declared}")
        return root

    def test_more_than_a_fifth_stops(self, tmp_path):
        self.make(tmp_path, ["train/0", "train/1"])
        assert look(tmp_path).problems == ()
        self.make(tmp_path, ["train/0", "train/1", "val/0"])
        (problem,) = look(tmp_path).problems
        assert problem.what == "3 of 10 masks hold class 0 only, first 'train/0'"
        assert "empty_masks: labelled" in problem.todo and "empty_masks: unlabelled" in problem.todo
        index = read_folder(tmp_path)
        found = scan([i for r in ROLES for i in index.items[r]], 2, index.code, cache=False)
        assert empty_mask_doubt(found, index) == problem

    @pytest.mark.parametrize(("declared", "labelled", "val"), [("labelled", 8, 2), ("unlabelled", 6, 1)])
    def test_a_declaration_settles_it(self, tmp_path, declared, labelled, val):
        report = look(self.make(tmp_path, ["train/0", "train/1", "val/0"], declared))
        assert report.problems == ()
        assert report.roles["train"] == {"images": 8, "labelled": labelled, "unlabelled": 8 - labelled}
        assert report.roles["val"]["images"] == val

    def test_unlabelled_ones_lose_the_path_to_their_mask(self, tmp_path):
        index = read_folder(self.make(tmp_path, ["train/0", "val/0"], "unlabelled"))
        found = scan([i for r in ROLES for i in index.items[r]], 2, index.code, cache=False)
        after = without_empty_masks(index, found)
        assert [i.name for i in after.items["train"] if i.mask is None] == ["train/0"]
        assert [i.name for i in after.items["val"]] == ["val/1"]


class TestDuplicates:
    def test_a_leak_is_a_problem_under_any_name(self, tmp_path):
        make_folder(tmp_path, ["train/a", "train/b", "val/c"])
        (tmp_path / "images/val/c.jpg").write_bytes((tmp_path / "images/train/b.jpg").read_bytes())
        (problem,) = look(tmp_path).problems
        assert problem.what == "the same picture stands in train ('train/b') and val ('val/c')"
        (same,) = duplicates_of(tmp_path)
        assert [(role, item.name) for role, item in same] == [("train", "train/b"), ("val", "val/c")]

    def test_labelled_and_unlabelled_is_a_doubt(self, tmp_path):
        make_folder(tmp_path, ["train/a", "train/b", "train/d", "val/c"], ["train/e"])
        (tmp_path / "images/train/e.jpg").write_bytes((tmp_path / "images/train/a.jpg").read_bytes())
        report = look(tmp_path)
        assert report.problems == () and report.duplicates == (("train/train/a", "train/train/e"),)
        assert report.doubts == (
            "1 images repeat another one of their role, first 'train/a' and 'train/e';"
            " 1 stand among both labelled and unlabelled ones",
        )

    @pytest.mark.parametrize("kind", ["png", "bmp", "tif"])
    def test_another_format_is_the_same_picture(self, tmp_path, kind):
        make_folder(tmp_path, ["train/a", "val/b"], ["train/c"])
        (tmp_path / "images/train/c.jpg").unlink()
        with Image.open(tmp_path / "images/val/b.jpg") as same:
            same.save(tmp_path / f"images/train/other-name.{kind}")
        for remembered in (False, False, tmp_path / "cache", tmp_path / "cache"):
            (problem,) = check(tmp_path, cache=remembered).problems
            assert problem.what == "the same picture stands in train ('train/other-name') and val ('val/b')"

    def test_nearly_the_same_is_a_doubt(self, tmp_path, monkeypatch):
        """The same scene, smaller and as another JPEG; the others are noise. Ours is the only limit of pixels."""
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        make_folder(tmp_path, [*(f"train/{c}" for c in "aefg"), "val/b", "val/c"], ["train/d"])
        y, x = np.mgrid[:60, :80]
        waves = 128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7 + x / 13)
        scene = Image.fromarray(waves.clip(0, 255).astype(np.uint8)).convert("RGB")
        scene.save(tmp_path / "images/train/d.jpg", quality=95)
        scene.resize((40, 30), Image.Resampling.BILINEAR).save(tmp_path / "images/val/b.jpg", quality=80)
        save_mask(tmp_path / "masks/val/b.png", blocks((0, 1), height=30, width=40))
        report = look(tmp_path)
        assert report.problems == ()
        assert report.doubts == ("1 images of val are nearly the same as one of train, first 'val/b' and 'train/d'",)

    @pytest.mark.parametrize("grouped", [False, True])
    def test_pictures_that_are_scored_again(self, tmp_path, grouped):
        """Saved again as JPEG, a picture is another one to the bootstrap, unless its group says otherwise."""
        make_folder(tmp_path, ["train/a", "train/e", *(f"val/{c}{k}" for c in "bc" for k in range(3)), "val/d0"])
        y, x = np.mgrid[:60, :80]
        for shift, c in enumerate("bc"):
            waves = 128 + 60 * np.sin(x / (9 + 8 * shift)) + 60 * np.cos(y / 7 + x / 13 + shift)
            for k in range(3):
                scene = Image.fromarray(waves.clip(0, 255).astype(np.uint8)).convert("RGB")
                scene.save(tmp_path / f"images/val/{c}{k}.jpg", quality=95 - 10 * k)
                save_mask(tmp_path / f"masks/val/{c}{k}.png", blocks((0, 1), height=60, width=80))
        report = check(tmp_path, cache=False, groups=r"([bcd])\d" if grouped else None)
        again = [doubt for doubt in report.doubts if "nearly the same as another one" in doubt]
        assert report.problems == () and len(again) == (not grouped), report.doubts
        assert all(
            doubt.startswith("6 images of val") and "'val/b0' and 'val/b1': 2 pictures" in doubt for doubt in again
        )

    def test_nearly_the_same_in_declared_bands(self, tmp_path):
        """Files that Pillow cannot open are compared as their data say; its own limit of pixels is not asked."""
        rasterio = pytest.importorskip("rasterio")
        y, x = np.mgrid[:60, :80]
        waves = 2000 + 900 * np.sin(x / 9) + 900 * np.cos(y / 7 + x / 13)
        for name, more in (("train/a", 0), ("val/b", 7), ("train/c", None), ("train/d", None)):
            values = np.random.default_rng(len(name)).integers(0, 4096, (60, 80)) if more is None else waves + more
            path = tmp_path / f"images/{name}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            stack = np.stack([values * share for share in (1, 0.8, 0.5, 0.9)]).astype(np.uint16)
            with rasterio.open(path, "w", driver="GTiff", height=60, width=80, count=4, dtype="uint16") as file:
                file.write(stack)
            save_mask(tmp_path / f"masks/{name}.png", blocks((0, 1), height=60, width=80))
        bands = ", ".join(f"{{band: {n}, name: b{n}, range: [0, 4095]}}" for n in (1, 2, 3, 4))
        (tmp_path / "data.yaml").write_text(f"classes: [a, b]\nchannels: [{bands}]\n")
        report = look(tmp_path)
        assert report.problems == ()
        assert "1 images of val are nearly the same as one of train, first 'val/b' and 'train/a'" in report.doubts

    def test_equal_length_is_not_equal(self, tmp_path):
        make_folder(tmp_path, ["train/a", "val/b"])
        for name in ("train/a", "val/b"):
            save_image((tmp_path / "images" / name).with_suffix(".bmp"), seed=len(name))
            (tmp_path / "images" / name).with_suffix(".jpg").unlink()
        assert duplicates_of(tmp_path) == []


class TestGroups:
    def test_groups_in_two_roles(self, tmp_path):
        train, test = [f"train/v1_{i}" for i in range(4)], [f"test/v1_{i}" for i in range(3)]
        make_folder(tmp_path, [*train, *test, *(f"test/v2_{i}" for i in range(5)), "val/v3_1", "val/v3_2", "val/v3_3"])
        report = look(tmp_path)
        assert report.groups == {"v1": {"train": 4, "test": 3}, "v2": {"test": 5}, "v3": {"val": 3}}
        assert report.groups_from == "names" and report.problems == ()
        assert report.doubts[:2] == (
            "group v1 stands in train (4 of 4 images) and test (3 of 8 images)",
            "of test, only v2 (5 of 8 images) is unseen in the other roles",
        )

    def test_declared_groups_that_are_kept_whole_raise_no_doubt(self, tmp_path):
        make_folder(tmp_path, [f"v{g}_{i}" for g in range(5) for i in range(4)])
        report = look(tmp_path, groups=r"^v\d")
        assert report.groups_from == "declared" and len(report.groups) == 5 and report.doubts == ()
        (doubt,) = look(tmp_path).doubts
        assert "suggest 5 groups" in doubt and "folds cut through them" in doubt and "--group-by names" in doubt
        assert look(tmp_path, groups="names").groups == report.groups and look(tmp_path, groups="names").doubts == ()

    def test_voc_years_are_no_groups(self, tmp_path):
        make_voc(tmp_path, [f"2007_{i:06}" for i in range(5)], [f"2008_{i:06}" for i in range(5)])
        assert look(tmp_path).groups == {}


def test_rare_and_absent_classes(tmp_path):
    make_folder(tmp_path, [f"train/{c}" for c in "abcd"] + ["val/x"], classes="a\nb\nc\nd\n")
    write_masks(tmp_path, {"train/a": (0, 2), "val/x": (0, 1, 3)})
    assert look(tmp_path).doubts == (
        "class 'c' is rare: 10.00% of the pixels, 1 training masks",
        "class 'c' is absent from val: its IoU cannot be measured there",
        "class 'd' is in no training mask: it cannot be learned",
    )


def test_a_sample_opens_few_and_says_so(tmp_path):
    make_folder(tmp_path, [f"train/{i}" for i in range(10)] + ["val/x"])
    report = look(tmp_path, sample=3)
    assert report.opened == 3 and report.roles["train"]["images"] == 10
    assert report.notes == ("only 3 of 11 images were opened",)
    assert report.encodings == {"PNG, palette index": 3} and report.doubts == ()
    assert look(tmp_path, sample=99).opened == 11
    with pytest.raises(ConfigError, match="opens nothing"):
        look(tmp_path, sample=0)


def test_the_findings_of_a_set_are_listed_one_by_one(tmp_path):
    """Three equal pictures in one role and one in another: each is named, in JSON and in the text."""
    make_folder(tmp_path, [*(f"train/{c}" for c in "abcd"), "val/x", "val/y"])
    for name in ("train/b", "val/x", "val/y"):
        (tmp_path / f"images/{name}.jpg").write_bytes((tmp_path / "images/train/a.jpg").read_bytes())
    (tmp_path / "images/train/c.jpg").write_bytes((tmp_path / "images/train/d.jpg").read_bytes())
    report = look(tmp_path)
    assert [p.name for p in report.problems] == ["val/x", "val/y"]
    ((level, repeated),) = [found for found in report.findings() if found[1].kind == "repeated_picture"]
    assert level == "doubt" and repeated.names == ("train/c", "train/d")
    lines = report.lines()
    assert "problems, the same picture in two roles: 2" in lines and "    train/c" in lines and "    train/d" in lines


def test_text_holds_no_control_characters(tmp_path):
    make_folder(tmp_path, ["train/a\n\x1b[31m", "train/\udcff", "val/x"], ids=(0, 9))
    text = look(tmp_path).lines()
    assert any("\\n\\x1b[31m" in line for line in text) and any("\\udcff" in line for line in text)
    assert all(line.isprintable() for line in text)


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="no ../shared/data/camvid beside the repository")
def test_camvid(tmp_path):
    """What is true of CamVid, and nothing else: groups in two roles, and no picture or name twice."""
    start = time.perf_counter()
    report = check(SHARED / "camvid", cache=tmp_path)
    assert time.perf_counter() - start < 60, "a few seconds on a free machine"
    assert report.problems == report.notes == report.duplicates == ()
    assert report.encodings == {"PNG, palette index": 701} and report.opened == 701
    assert report.sizes == {"min": [360, 480], "median": [360, 480], "max": [360, 480], "distinct": 1}
    counts = {"train": 367, "val": 101, "test": 233}
    assert report.roles == {role: {"images": n, "labelled": n, "unlabelled": 0} for role, n in counts.items()}
    assert [(c.name, c.images["train"]) for c in report.classes[:1]] == [("sky", 366)]
    assert report.groups == {
        "0001TP": {"train": 62, "test": 62},
        "0006R0": {"train": 101},
        "0016E5": {"train": 204, "val": 101},
        "Seq05VD": {"test": 171},
    }
    assert report.doubts == (
        "group 0001TP stands in train (62 of 367 images) and test (62 of 233 images)",
        "group 0016E5 stands in train (204 of 367 images) and val (101 of 101 images)",
        "no group of val is unseen in the other roles",
        "of test, only Seq05VD (171 of 233 images) is unseen in the other roles",
        "these groups are read off the names; if they are videos or patients, --group-by names keeps them whole",
        "70 images of val are nearly the same as another one, first 'val/0016E5_07961' and 'val/0016E5_07963': "
        "23 pictures, and intervals take them for more",
        "39 images of test are nearly the same as another one, first 'test/0001TP_009210' and 'test/0001TP_009270': "
        "2 pictures, and intervals take them for more",
    )
    assert [(level, f.kind, f.value) for level, f in report.findings()] == [
        ("doubt", "group_in_two_roles", "0001TP"), ("doubt", "group_in_two_roles", "0016E5"),
        ("doubt", "near_picture", None), ("doubt", "near_picture", None),
    ]  # fmt: skip


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "wbc").is_dir(), reason="no ../shared/data/wbc beside the repository")
def test_wbc(tmp_path):
    report = check(SHARED / "wbc", cache=tmp_path)
    assert report.problems == () and report.roles["val"]["labelled"] == 80
    assert report.sizes["max"] == [300, 300] and report.duplicates
    assert report.groups == {"d1": {"train": 240, "val": 60}, "d2": {"train": 80, "val": 20}}
