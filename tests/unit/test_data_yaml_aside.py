"""--data-yaml: a file in place of the data folder's own, for folders that nothing can be put into."""

import json

import pytest

from fewmask.cli import run
from fewmask.data.check import check
from fewmask.data.datayaml import DataYaml
from fewmask.data.declared import load_data_yaml, read_data_yaml
from fewmask.data.layouts import read_folder, read_unlabelled
from fewmask.errors import CheckpointError, ConfigError, DataError
from fewmask.recipe import read_recipe
from fewmask.run.data import open_folder
from fewmask.run.folder import RunFolder
from fewmask.run.label_diff import diff_labels
from fewmask.run.label_export import export_labels
from fewmask.run.label_import import import_labels
from fixtures_data import blocks, make_folder, save_image, save_mask
from fixtures_layouts import names


@pytest.fixture
def folder(tmp_path):
    """Three images a role, classes named nowhere."""
    every = [f"{role}/{n}" for role in ("train", "val") for n in "abc"]
    return make_folder(tmp_path / "data", every, classes=None)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine" / "photos.yaml"


class TestReading:
    def test_in_place_of_the_folders_own(self, folder, file):
        (folder / "data.yaml").write_text("classes: [x, y]\n")
        file.write_text("classes: [sky, sea]\n")
        index = read_folder(folder, declared=read_data_yaml(file))
        assert index.classes == ("sky", "sea") and read_folder(folder).classes == ("x", "y")
        assert any(f"{file} is read in place of the folder's own data.yaml" in note for note in index.notes)

    def test_errors_name_the_file(self, folder, file):
        with pytest.raises(ConfigError, match=f"cannot be read.*{file}"):
            read_data_yaml(file)
        file.write_text("clases: [a]\n")
        with pytest.raises(ConfigError, match=f"unknown key 'clases'; {file}"):
            read_data_yaml(file)
        file.write_text("classes: [a, b]\nignore: 1\n")
        with pytest.raises(ConfigError, match=f"also class 'b'; {file}"):
            read_folder(folder, declared=read_data_yaml(file))
        file.write_text("roles: {val: none.txt}\n")
        with pytest.raises(DataError, match=f"in the data folder or beside that file; {file}"):
            read_folder(folder, declared=read_data_yaml(file))

    def test_lists_lie_in_the_folder_or_beside_the_file(self, folder, file, tmp_path):
        (folder / "v.txt").write_text("train/a\n")
        (file.parent / "t.txt").write_text("train/b\n")
        (file.parent / "groups.tsv").write_text("train/c\tone\nval/a\tone\n")
        (tmp_path / "far.txt").write_text("val/b\n")
        file.write_text(f"roles: {{val: v.txt, test: [t.txt, {tmp_path / 'far.txt'}]}}\ngroups: groups.tsv\n")
        index = read_folder(folder, declared=read_data_yaml(file))
        assert names(index, "val") == ["train/a"] and names(index, "test") == ["train/b", "val/b"]
        assert {i.name for i in index.items["train"] if i.group == "one"} == {"train/c", "val/a"}

    def test_the_folders_own_leads_nowhere_else(self, folder, tmp_path):
        (tmp_path / "far.txt").write_text("val/b\n")
        for text in (f"roles: {{val: {tmp_path / 'far.txt'}}}\n", "roles: {val: ../far.txt}\n"):
            (folder / "data.yaml").write_text(text)
            with pytest.raises(DataError, match="no list"):
                read_folder(folder)
        (folder / "data.yaml").write_text("groups: ../far.txt\n")
        with pytest.raises(ConfigError, match="leads out of the data folder"):
            read_folder(folder)

    def test_an_index_file_beside_it(self, folder, file):
        rows = [
            {"image": str(folder / f"images/train/{n}.jpg"), "mask": str(folder / "masks/train/a.png")} for n in "ab"
        ]
        (file.parent / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file.write_text("images: index.jsonl\n")
        index = read_folder(folder, val_fraction=0, declared=read_data_yaml(file))
        assert names(index, "train") == ["images/train/a", "images/train/b"]

    def test_ultralytics_file_of_polygons(self, tmp_path, file):
        root = tmp_path / "yolo"
        for seed, name in enumerate(("train/a", "val/b")):
            save_image(root / "images" / f"{name}.jpg", seed=seed)
            (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "labels" / f"{name}.txt").write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
        file.write_text("path: /elsewhere\ntrain: images/train\nval: images/val\nnames: {0: crop}\n")
        index = read_folder(root, declared=read_data_yaml(file))
        assert index.layout == "yolo polygons" and index.classes == ("background", "crop")
        own = DataYaml(exif="ignore").lying(file.with_name("other.yaml"))
        (root / "data.yaml").write_text(file.read_text())
        index = read_folder(root, declared=own)  # it says something else: the folder's own names the polygons
        assert index.classes == ("background", "crop") and index.exif == "ignore"

    def test_a_link_that_leads_nowhere_is_no_missing_file(self, folder):
        (folder / "data.yaml").symlink_to("gone.yaml")
        with pytest.raises(ConfigError, match="cannot be read"):
            load_data_yaml(folder)


class TestEmptyMasks:
    @pytest.fixture
    def black(self, folder):
        save_mask(folder / "masks/train/a.png", blocks((0,)))
        save_mask(folder / "masks/train/b.png", blocks((0,)))
        return folder

    def test_check(self, black, file):
        assert [p.kind for p in check(black, cache=False).problems] == ["empty_masks"]
        for value, labelled in (("labelled", 3), ("unlabelled", 1)):
            file.write_text(f"empty_masks: {value}\n")
            report = check(black, cache=False, declared=read_data_yaml(file))
            assert not report.problems and report.roles["train"]["labelled"] == labelled

    def test_training_data(self, black, file):
        file.write_text("empty_masks: unlabelled\n")
        keys = {"data.dir": str(black), "data.data_yaml": str(file)}
        index, _ = open_folder(read_recipe(None, keys))
        assert [i.name for i in index.labelled] == ["train/c"]


class TestLabels:
    def test_export_import_diff(self, folder, file, tmp_path):
        file.write_text("classes: {0: sky, 1: sea}\n")
        declared = read_data_yaml(file)
        said = export_labels(folder, tmp_path / "out", "png", True, lambda text: None, declared)
        assert said["classes"] == ["sky", "sea"]
        (tmp_path / "out/masks/train/a.png").unlink()
        found = import_labels(tmp_path / "out", folder, False, lambda text: None, declared)
        assert found["new"] == [] and len(found["same"]) == 5
        assert [(c.name, c.state) for c in diff_labels(folder, tmp_path / "out", declared)] == [("train/a", "gone")]

    def test_an_unlabelled_folder(self, tmp_path, file):
        save_image(tmp_path / "bare/images/a.jpg")
        file.write_text("classes: [sky, sea]\n")
        index = read_unlabelled(tmp_path / "bare", read_data_yaml(file))
        assert index is not None and index.classes == ("sky", "sea")


class TestRun:
    def test_what_a_run_has_noted(self, folder, file, tmp_path):
        run_folder = RunFolder(tmp_path / "run")
        run_folder.path.mkdir()
        noted = {"file": str(file), "keys": {"classes": {0: "sky", 1: "sea"}}}
        run_folder.data.write_text(json.dumps({"declared": {**noted, "keys": {"classes": ["sky", "sea"]}}}))
        keys = {"data.dir": str(folder), "data.data_yaml": str(file)}  # no such file any more
        index, _ = open_folder(read_recipe(None, keys), run_folder)
        assert index.classes == ("sky", "sea") and run_folder.declared is not None
        assert run_folder.declared.aside == file
        for bad in ([], {"file": 1, "keys": {}}, {"file": "x"}, {"file": "x", "keys": {"clases": []}}):
            run_folder.data.write_text(json.dumps({"declared": bad}))
            with pytest.raises(CheckpointError, match="damaged"):
                _ = run_folder.declared


class TestCommandLine:
    def test_check_writes_it_elsewhere_and_reads_it(self, folder, file, capsys):
        assert run(["check", str(folder), "-o", str(file)]) == 0
        assert f"take it as --data-yaml {file}" in capsys.readouterr().err
        file.write_text(file.read_text().replace("class 0", "sky"))
        assert run(["check", str(folder), "--data-yaml", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["classes"][0]["name"] == "sky"

    def test_groups_outside_the_folder(self, folder, file, tmp_path, capsys):
        groups = tmp_path / "g.tsv"
        groups.write_text("train/a\tone\ntrain/b\tone\n")
        words = ["check", str(folder), "--group-by", str(groups)]
        assert run([*words, "--write"]) == 2 and "move the file there" in capsys.readouterr().err
        assert run([*words, "-o", str(file)]) == 0
        index = read_folder(folder, declared=read_data_yaml(file))
        assert {i.name for i in index.items["train"] if i.group} == {"train/a", "train/b"}

    def test_two_folders_and_a_file(self, folder, file, capsys):
        file.write_text("classes: [sky, sea]\n")
        words = ["check", "--images", str(folder / "images"), "--masks", str(folder / "masks")]
        assert run([*words, "--data-yaml", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["classes"][0]["name"] == "sky"

    def test_split(self, folder, file, tmp_path, capsys):
        file.write_text("roles: {val: 'train/a'}\n")
        words = ["split", str(folder), "--labelled", "100%", "-o", str(tmp_path / "lists")]
        assert run([*words, "--data-yaml", str(file), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["labelled"] == 5
        lists = ["split", "--check", str(tmp_path / "lists/labelled.txt"), "--data-yaml", str(file)]
        assert run(lists) == 2 and "--data-yaml has no effect here" in capsys.readouterr().err
        assert run([*lists, "--data", str(folder)]) == 0

    def test_evaluate_without_other_data(self, file, capsys):
        assert run(["evaluate", "runs/x", "--data-yaml", str(file)]) == 2
        assert "a run has noted what its own data declare" in capsys.readouterr().err
