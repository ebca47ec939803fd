"""data.yaml: every key of it, and what it refuses."""

import pytest

from fewmask.data.datayaml import DataYaml, json_schema
from fewmask.data.index import ROLES, MaskCode
from fewmask.data.layouts import read_folder
from fewmask.errors import ConfigError, DataError
from fixtures_data import blocks, make_folder, save_image, save_mask
from fixtures_layouts import names, refuse


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
            ("unlabelled_id: no", "unlabelled_id: false is no id"),
            ("unlabelled_id: 4", "unlabelled_id needs classes with names"),
            ("classes: [a, b]\nunlabelled_id: 1", "unlabelled_id: 1 is also class 'b'"),
            ("classes: [a, b]\nignore: 7\nunlabelled_id: 7", "unlabelled_id: 7 is also one of ignore"),
            ("classes: [a, b]\nunlabelled_id: 255", "unlabelled_id: 255 is also void"),
            ("channels: rgbn", "channels: write rgb, or a list of 1 to 64 bands"),
            ("images: index.csv", "images: an index file is JSONL"),
            ("exif: turn", "exif: is 'turn', must be"),
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


def test_the_published_schema():
    """Every key with a sentence, and no other; what it calls a wrong key is one."""
    schema = json_schema()
    assert schema["properties"].keys() == DataYaml.model_fields.keys() and schema["additionalProperties"] is False
    assert all(key == "version" or "description" in found for key, found in schema["properties"].items())
    ids = schema["properties"]["unlabelled_id"]
    assert (ids["minimum"], ids["maximum"]) == (0, 65535) and schema["properties"]["version"]["const"] == 1
