"""Folders of images and masks: roles, names, the val part that is drawn, groups, and classes that nothing names."""

import os

import pytest

from fewmask.data.index import ROLES, DataIndex, MaskCode
from fewmask.data.layouts import propose_groups, read_folder, with_classes
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.errors import ConfigError, DataError
from fixtures_data import blocks, make_folder, save_image, save_mask
from fixtures_layouts import names, refuse


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
        (tmp_path / "images/train/notes.heic").write_bytes(b"x")
        save_mask(tmp_path / "masks/train/orphan.png", blocks((0,)))
        index = read_folder(tmp_path)
        assert names(index, "train") == ["train/x"]
        assert index.notes == (
            "1 files in images are no images by their names, first 'train/notes.heic'",
            "1 masks have no image and are left out, first 'train/orphan'",
        )

    def test_two_images_of_one_name(self, tmp_path):
        make_folder(tmp_path, ["train/x", "val/y"])
        save_image(tmp_path / "images/train/x.png")
        refuse(tmp_path, DataError, "two images of one name: x.jpg and x.png")

    def test_all_images_of_one_name_are_told_at_once(self, tmp_path):
        make_folder(tmp_path, ["train/a", "train/b", "train/c", "train/d", "val/y"])
        for name in "abcd":
            save_image(tmp_path / f"images/train/{name}.png")
        refuse(tmp_path, DataError, "a.jpg and a.png, b.jpg and b.png, c.jpg and c.png, and 1 more")

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
        (tmp_path / "pictures/train-00000-of-00001.parquet").write_bytes(b"PAR1")
        refuse(tmp_path, DataError, r"cells of tables \(.parquet\).*Parquet and Arrow")
        (tmp_path / "images").mkdir()
        refuse(tmp_path, DataError, "no masks folder")
        (tmp_path / "masks").mkdir()
        refuse(tmp_path, DataError, "no images in 'images'")
        save_image(tmp_path / "images/a.jpg")
        refuse(tmp_path, DataError, "none of 1 images has a mask.*where no mask lies")
        save_mask(tmp_path / "masks/b_mask.png", blocks((0, 1)))
        refuse(tmp_path, DataError, "image 'a', mask 'b_mask'")
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
