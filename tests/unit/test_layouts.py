import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))
from fewmask.data.index import ROLES, DataIndex, MaskCode
from fewmask.data.layouts import CITYSCAPES_CLASSES, propose_groups, read_folder, with_classes
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.errors import ConfigError, DataError
from fixtures_data import SHARED, blocks, make_cityscapes, make_folder, make_voc, save_image, save_mask


def names(index, role):
    return [i.name for i in index.items[role]]


def refuse(root, error, message, **options):
    with pytest.raises(error, match=message) as caught:
        read_folder(root, **options)
    return caught.value


class TestFolders:
    def test_roles_masks_and_unlabelled_images(self, tmp_path):
        make_folder(tmp_path, ["train/b", "train/sub/a", "val/c", "test/d"], ["train/e"])
        index = read_folder(tmp_path)
        assert index.layout == "folders" and index.classes == ("a", "b") and index.notes == ()
        assert names(index, "train") == ["train/b", "train/e", "train/sub/a"]
        assert names(index, "val") == ["val/c"] and names(index, "test") == ["test/d"]
        assert [i.mask is None for i in index.items["train"]] == [False, True, False]
        assert index.items["train"][2].mask == tmp_path / "masks/train/sub/a.png"

    @pytest.mark.parametrize("name", ["a b", "#1", "ü", "u\u0308", "new\nline", "a.b", "日本", "X"])
    def test_odd_names(self, tmp_path, name):
        make_folder(tmp_path, [f"train/{name}", "train/x", "val/y"])
        index = read_folder(tmp_path)
        assert names(index, "train") == sorted([f"train/{name}", "train/x"])
        assert all(i.mask.stem == i.image.stem for i in index.items["train"])

    def test_a_mask_may_spell_its_accents_the_other_way(self, tmp_path):
        make_folder(tmp_path, ["train/u\u0308", "val/y"])
        (tmp_path / "masks/train/u\u0308.png").rename(tmp_path / "masks/train/\u00fc.png")
        assert read_folder(tmp_path).labelled[0].mask.stem == "\u00fc"

    def test_a_name_that_is_no_unicode(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"])
        for folder, end in (("images", b"jpg"), ("masks", b"png")):
            old = os.fsencode(tmp_path / folder / "train" / "x.") + end
            os.rename(old, old.replace(b"/x.", b"/\xff."))
        item = read_folder(tmp_path).labelled[0]
        assert os.fsencode(item.name) == b"train/\xff"
        assert read_mask(item.mask, MaskCode()).shape == (12, 16)

    def test_hidden_and_foreign_files_are_left_alone(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"])
        for path in ("images/.DS_Store", "images/__MACOSX/train/._x.jpg", "images/train/.x.jpg", "masks/.git/a.png"):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"x")
        (tmp_path / "images/train/notes.gif").write_bytes(b"x")
        save_mask(tmp_path / "masks/train/orphan.png", blocks((0,)))
        index = read_folder(tmp_path)
        assert names(index, "train") == ["train/x"]
        assert index.notes == (
            "1 files in images are no images by their names, first 'train/notes.gif'",
            "1 masks have no image and are left out, first 'train/orphan'",
        )

    def test_two_images_of_one_name(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"])
        save_image(tmp_path / "images/train/x.png")
        refuse(tmp_path, DataError, "two images of one name: x.jpg and x.png")

    def test_linked_folders_are_followed_once(self, tmp_path):
        make_folder(tmp_path / "real", ["x", "y"])
        (tmp_path / "data").mkdir()
        (tmp_path / "data/images").symlink_to(tmp_path / "real/images")
        (tmp_path / "data/masks").symlink_to(tmp_path / "real/masks")
        (tmp_path / "real/images/loop").symlink_to(tmp_path / "real/images")
        index = read_folder(tmp_path / "data")
        assert sorted(names(index, "train") + names(index, "val")) == ["x", "y"]

    def test_images_beside_role_folders(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"], ["more/z"])
        index = read_folder(tmp_path)
        assert names(index, "train") == ["more/z", "train/x"]
        assert "1 images outside train, val and test have no mask" in index.notes[0]
        save_mask(tmp_path / "masks/more/z.png", blocks((0, 1)))
        refuse(tmp_path, DataError, "1 labelled images stand outside train, val and test, first 'more/z'")

    def test_val_and_test_without_masks_are_left_out(self, tmp_path):
        make_folder(tmp_path, ["training/x", "validation/y"], ["validation/z", "test/w"])
        index = read_folder(tmp_path)
        assert names(index, "val") == ["validation/y"] and names(index, "test") == []
        assert index.notes == (
            "1 val images have no mask and are left out",
            "1 test images have no mask and are left out",
        )

    def test_what_is_no_data_set(self, tmp_path):
        assert refuse(tmp_path / "none", DataError, "does not exist").exit_code == 3
        refuse(tmp_path, DataError, "data folder is empty")
        (tmp_path / "pictures").mkdir()
        refuse(tmp_path, DataError, "no images folder; there is pictures")
        (tmp_path / "images").mkdir()
        refuse(tmp_path, DataError, "no masks folder")
        (tmp_path / "masks").mkdir()
        refuse(tmp_path, DataError, "no images in 'images'")
        save_image(tmp_path / "images/a.jpg")
        refuse(tmp_path, DataError, "none of 1 images has a mask.*where no mask lies")
        save_mask(tmp_path / "masks/a_mask.png", blocks((0, 1)))
        refuse(tmp_path, DataError, "image 'a', mask 'a_mask'")
        refuse(tmp_path / "images/a.jpg", DataError, "is a file")

    def test_a_read_only_folder(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"])
        before = sorted(tmp_path.rglob("*"))
        tmp_path.chmod(0o555)
        try:
            read_folder(tmp_path)
        finally:
            tmp_path.chmod(0o755)
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a\n\nb\n", "name 1 is ''"),
            ("a\na\n", "repeats"),
            ("\n".join(map(str, range(256))), "256 classes"),
            ("", "0"),
        ],
    )
    def test_classes_txt(self, tmp_path, text, message):
        make_folder(tmp_path, ["train/x", "val/y"], classes=text)
        refuse(tmp_path, DataError, message)

    def test_classes_txt_of_windows(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"], classes=None)
        (tmp_path / "classes.txt").write_bytes("\ufeffsky\r\ntraffic light\r\n\r\n".encode())
        assert read_folder(tmp_path).classes == ("sky", "traffic light")


class TestDivision:
    def test_val_is_drawn_and_said(self, tmp_path):
        make_folder(tmp_path, [f"{i:02}" for i in range(20)], ["u1", "u2"])
        index = read_folder(tmp_path)
        assert len(index.items["val"]) == 4 and len(index.labelled) == 16 and len(index.items["train"]) == 18
        assert index.items["test"] == ()
        assert index.notes == ("val: 4 of 20 labelled images, drawn with split seed 0",)
        assert names(index, "val") == names(read_folder(tmp_path), "val")
        others = {tuple(names(read_folder(tmp_path, split_seed=s), "val")) for s in range(8)}
        assert len(others) > 4

    def test_new_images_move_few_old_ones(self, tmp_path):
        make_folder(tmp_path, [f"{i:02}" for i in range(40)])
        before = set(names(read_folder(tmp_path), "val"))
        make_folder(tmp_path, ["new"])
        assert len(before - set(names(read_folder(tmp_path), "val"))) <= 1

    def test_groups_stay_whole(self, tmp_path):
        masked = [f"v{g}_{i}" for g in range(6) for i in range(3 + g)]
        make_folder(tmp_path, masked, [f"v{g}_u" for g in range(6)])
        for seed in range(5):
            index = read_folder(tmp_path, groups=r"^(v\d)_", split_seed=seed)
            groups = [{i.group for i in index.items[role]} for role in ROLES]
            assert groups[0] & groups[1] == set() and groups[1]
            assert groups[0] | groups[1] == {f"v{g}" for g in range(6)}
            assert "groups kept whole" in index.notes[0] and "unlabelled images of these groups" in index.notes[0]

    def test_where_nothing_can_be_drawn(self, tmp_path):
        make_folder(tmp_path, ["a_1", "a_2"])
        assert read_folder(tmp_path, val_fraction=0).notes == ("no val images: none was asked for",)
        index = read_folder(tmp_path, groups="^a")
        assert index.items["val"] == () and "too few" in index.notes[0]
        assert len(read_folder(tmp_path, val_fraction=0.9).labelled) == 1
        refuse(tmp_path, ConfigError, "val_fraction", val_fraction=1)
        refuse(tmp_path, ConfigError, "out of range", split_seed=-1)


class TestGroups:
    def groups(self, root, rule):
        return {i.name: i.group for role in ROLES for i in read_folder(root, groups=rule).items[role]}

    def test_regex_folder_and_file(self, tmp_path):
        make_folder(tmp_path, ["train/s1/a_1", "train/s2/b_1", "val/s1/a_2"])
        assert self.groups(tmp_path, "folder") == {"train/s1/a_1": "s1", "train/s2/b_1": "s2", "val/s1/a_2": "s1"}
        assert set(self.groups(tmp_path, "^s.").values()) == {"s1", "s2"}
        assert set(self.groups(tmp_path, "([ab])_").values()) == {"a", "b"}
        (tmp_path / "g.tsv").write_text("train/s1/a_1\tp1\nval/s1/a_2\tp1\n\n")
        assert self.groups(tmp_path, "g.tsv") == {"train/s1/a_1": "p1", "train/s2/b_1": "", "val/s1/a_2": "p1"}
        assert "1 images are in no group and stand alone" in read_folder(tmp_path, groups="g.tsv").notes

    def test_rules_that_say_nothing(self, tmp_path):
        make_folder(tmp_path, ["train/a", "val/b"])
        refuse(tmp_path, ConfigError, "no regular expression", groups="(")
        refuse(tmp_path, ConfigError, "no image into a group", groups="zzz" * 200)
        (tmp_path / "g.tsv").write_text("train/x\tg\n")
        refuse(tmp_path, DataError, "unknown image 'train/x'", groups="g.tsv")
        (tmp_path / "g.tsv").write_text("train/a g\n")
        refuse(tmp_path, DataError, "no name<TAB>group line", groups="g.tsv")

    @pytest.mark.parametrize(
        ("given", "proposed"),
        [
            (["16E5_07", "16E5_08", "16E5_1", "Seq_f04", "Seq_f1", "Seq_f2"], {"16E5": 3, "Seq": 3}),
            (["p1/a", "p1/b", "p1/c", "p2/a", "p2/b", "p2/c"], {"p1": 3, "p2": 3}),
            (["img_1", "img_2", "img_3", "img_4"], None),
            (["DSC0001", "DSC0002", "DSC0003", "IMG0001", "IMG0002", "IMG0003"], None),
            (["a_1", "b_1", "c_1", "d_1"], None),
        ],
    )
    def test_proposals(self, tmp_path, given, proposed):
        found = propose_groups(read_folder(make_folder(tmp_path, [f"train/{n}" for n in given]), val_fraction=0))
        assert (found and {g: len(members) for g, members in found.items()}) == proposed


class TestDataYaml:
    def write(self, root, text):
        root.mkdir(exist_ok=True)
        (root / "data.yaml").write_text(text)
        return root

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("clases: [a]", "unknown key 'clases'.*did you mean 'classes'"),
            ("classes: [a, no]", "name 1 is False"),
            ("classes: {0: a, 0: b}", "key 0 stands there twice"),
            ("a: &x [1]\nb: *x", "aliases"),
            ("a: !!python/object/apply:os.system [ls]", "no valid YAML"),
            ("[" * 5000, "no valid YAML"),
            ("version: 2", "version: is 2, must be 1"),
            ("- a", "is no mapping"),
            ("unlabelled_id: 4", "unlabelled_id: .*not implemented"),
            ("channels: rgbn", "channels: only rgb is implemented"),
            ("images: index.jsonl", "images: an index file is not implemented"),
            ("exif: apply", "exif: apply is not implemented"),
            ("empty_masks: maybe", "empty_masks: is 'maybe'"),
            ("roles: {training: x}", "roles.training: is 'training', must be"),
            ("images: ../x", "leads out of the data folder"),
            ("images: /etc", "leads out of the data folder"),
            ("classes: [a, b]\nignore: 1", "id 1 is also class 'b'"),
            ('classes: [a]\ncolours: {"0,0,0": b}', "unknown class 'b'"),
            ('classes: [a]\ncolours: {"0,0,0": 3}', "leads to id 3, which is no class"),
            ('colours: {"0,0": 3}', "is no colour"),
        ],
    )
    def test_refusals(self, tmp_path, text, message):
        make_folder(tmp_path, ["train/x", "val/y"], classes=None)
        error = refuse(self.write(tmp_path, text), ConfigError, message)
        assert error.exit_code == 2 and "Traceback" not in str(error)

    def test_two_lists_of_classes(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"])
        refuse(self.write(tmp_path, "classes: [a, c]"), ConfigError, "name different classes")
        assert read_folder(self.write(tmp_path, "classes: {0: a, 7: b}")).code.mapping == ((0, 0), (7, 1))

    def test_a_whole_one(self, tmp_path):
        text = "classes: {0: bg, 7: road, 8: road, 255: car}\nignore: [9]\ngroups: '^(.)'\n"
        text += 'colours: {"0,0,0": bg, "1,1,1": 8, "2,2,2": ignore}\n'
        index = read_folder(make_folder(self.write(tmp_path, text), ["a1", "b1", "b2"], classes=None))
        assert index.classes == ("bg", "road", "car")
        assert index.code == MaskCode(
            ignore=(9,),
            mapping=((0, 0), (7, 1), (8, 1), (255, 2)),
            colours=(((0, 0, 0), 0), ((1, 1, 1), 8), ((2, 2, 2), -1)),
        )
        assert {i.group for role in ROLES for i in index.items[role]} == {"a", "b"}

    def test_globs_pair_what_their_wildcards_match(self, tmp_path):
        for scene in ("s1/f1", "s1/f2", "s2/f1"):
            save_image(tmp_path / "data" / scene / "rgb.png")
            save_mask(tmp_path / "data" / scene / "label.png", blocks((0, 1)))
        self.write(tmp_path, "images: data/**/rgb.png\nmasks: data/**/label.png")
        index = read_folder(tmp_path, val_fraction=0)
        assert names(index, "train") == ["s1/f1", "s1/f2", "s2/f1"]
        assert all(i.mask.parent == i.image.parent for i in index.labelled)

    def test_masks_beside_their_images(self, tmp_path):
        for name in ("a", "b"):
            save_image(tmp_path / f"photos/{name}.png")
            save_mask(tmp_path / f"photos/{name}_mask.png", blocks((0, 1)))
        save_image(tmp_path / "photos/c.png")
        self.write(tmp_path, "images: photos/*\nmasks: photos/*_mask.*")
        index = read_folder(tmp_path, val_fraction=0)
        assert names(index, "train") == ["a", "b", "c"] and len(index.labelled) == 2

    def test_roles_by_glob_and_list(self, tmp_path):
        make_folder(tmp_path, ["train/s1_1", "train/s2_1", "val/s1_2", "test/s3_1"])
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists/test.txt").write_text("val/s1_2\n")
        index = read_folder(self.write(tmp_path, "roles: {val: train/s2_*, test: lists/test.txt}"))
        assert [names(index, r) for r in ROLES] == [["test/s3_1", "train/s1_1"], ["train/s2_1"], ["val/s1_2"]]
        index = read_folder(self.write(tmp_path, "roles: {train: '*_1', val: [val/*]}"))
        assert [len(index.items[r]) for r in ROLES] == [3, 1, 0]
        refuse(self.write(tmp_path, "roles: {val: nothing*}"), DataError, "no image matches 'nothing")
        refuse(self.write(tmp_path, "roles: {val: 'val/*', test: '*'}"), DataError, "'val/s1_2' is both val and test")
        refuse(self.write(tmp_path, "roles: {val: ../other.txt}"), DataError, "no list")
        index = read_folder(self.write(tmp_path, "roles: {train: 'train/*', val: 'val/*'}"))
        assert index.notes == ("1 images have no role in data.yaml and are left out",)


class TestVoc:
    def test_fine_masks_come_first(self, tmp_path):
        make_voc(tmp_path, ["2007_000001", "2007_000002"], ["2007_000003"], ["2008_000001"], ["2009_000001"])
        index = read_folder(tmp_path)
        assert index.layout == "voc" and len(index.classes) == 21 and index.classes[20] == "tvmonitor"
        assert names(index, "train") == ["2007_000001", "2007_000002", "2008_000001"]
        assert [i.mask.parent.name for i in index.items["train"]] == ["SegmentationClass"] * 2 + [
            "SegmentationClassAug"
        ]
        assert names(index, "val") == ["2007_000003"] and index.items["test"] == ()
        assert "train: 3 images of trainaug.txt" in index.notes
        assert "1 images are in neither list and are left out" in index.notes
        assert propose_groups(index) is None

    def test_inside_a_devkit_and_without_aug_masks(self, tmp_path):
        root = tmp_path / "VOCdevkit" / "VOC2012"
        make_voc(root, ["a"], ["b"], ["c"])
        (root / "SegmentationClassAug" / "c.png").unlink()
        index = read_folder(tmp_path)
        assert [(i.name, i.mask is None) for i in index.items["train"]] == [("a", False), ("c", True)]
        (root / "ImageSets/Segmentation/val.txt").unlink()
        refuse(tmp_path, DataError, "no list val.txt")


class TestCityscapes:
    NAMES = ("train/aachen/aachen_000000_000019", "val/bonn/bonn_000000_000019", "test/ulm/ulm_000000_000019")

    def test_train_ids(self, tmp_path):
        index = read_folder(make_cityscapes(tmp_path, self.NAMES))
        assert index.layout == "cityscapes" and index.classes == CITYSCAPES_CLASSES and index.code == MaskCode()
        assert names(index, "train") == [self.NAMES[0]] and names(index, "val") == [self.NAMES[1]]
        assert "1 images outside train and val are left out" in index.notes[0]

    def test_label_ids_are_mapped(self, tmp_path):
        index = read_folder(make_cityscapes(tmp_path, self.NAMES, "labelIds", ids=(0, 7, 33, 29)))
        mask = read_mask(index.labelled[0].mask, index.code)
        np.testing.assert_array_equal(mask, blocks((255, 0, 18, 255)))
        # the published table, https://github.com/mcordts/cityscapesScripts labels.py: road 7, car 26, bicycle 33
        assert dict(index.code.mapping)[26] == CITYSCAPES_CLASSES.index("car")
        assert len(index.code.mapping) == 19 and len(index.code.ignore) == 15

    def test_mixed_masks_are_refused(self, tmp_path):
        make_cityscapes(tmp_path, self.NAMES[:1])
        make_cityscapes(tmp_path, self.NAMES[:2], "labelIds")
        refuse(tmp_path, DataError, "1 masks have labelIds, but no labelTrainIds")

    def test_other_classes_do_not_replace_the_mapping(self, tmp_path):
        make_cityscapes(tmp_path, self.NAMES, "labelIds")
        (tmp_path / "classes.txt").write_text("a\nb\n")
        refuse(tmp_path, ConfigError, "has its own ids")


class TestWithClasses:
    def index(self, root, ids) -> tuple[DataIndex, DataIndex]:
        index = read_folder(make_folder(root, ["train/x", "val/y"], ids=ids, classes=None))
        found = scan([i for r in ROLES for i in index.items[r]], None, index.code, cache=False)
        return index, with_classes(index, found)

    def test_named_after_their_ids(self, tmp_path):
        before, after = self.index(tmp_path, (0, 2, 255))
        assert before.classes == () and after.classes == ("class 0", "class 1", "class 2")
        assert "nothing names the classes" in after.notes[0]

    def test_wide_gaps_stop(self, tmp_path):
        with pytest.raises(DataError, match="2 ids from 0 to 38.*classes: {0: ..., 38: ...}"):
            self.index(tmp_path, (0, 38))

    def test_nothing_but_ignored_pixels(self, tmp_path):
        with pytest.raises(DataError, match="no class at all"):
            self.index(tmp_path, (255,))


@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "camvid").is_dir(), reason="no ../shared/data/camvid beside the repository")
def test_camvid():
    index = read_folder(SHARED / "camvid")
    assert [len(index.items[r]) for r in ROLES] == [367, 101, 233]
    assert len(index.classes) == 11 and index.notes == () and len(index.labelled) == 367
    counts = {role: Counter(i.name.split("/")[1].split("_")[0] for i in index.items[role]) for role in ROLES}
    members = {group: set(found) for group, found in propose_groups(index).items()}
    for group, found in members.items():
        assert len(found) == sum(counts[role][group] for role in ROLES)
    assert set(members) == {"0001TP", "0006R0", "0016E5", "Seq05VD"}
