"""fewmask.run.arms: the matched training of a run, and every reason why a finished one does not match."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewmask.data.index import DataIndex, Pools
from fewmask.engine.precision import Format
from fewmask.method import Task
from fewmask.recipe import read_recipe
from fewmask.run.arms import matched, mismatch
from fewmask.run.environment import environment
from fewmask.run.folder import RunFolder
from fewmask.run.prepare import Prepared
from fixtures_evaluation import arm, saved


def prepared(folder: Path, **keys: Any) -> Prepared:
    """A run of CPS that has been prepared, without data."""
    given = {"data.dir": "photos", "method.name": "cps", "model.arch": "tiny", "machine.precision": "fp32"}
    recipe = read_recipe(None, given | {key.replace("__", "."): value for key, value in keys.items()})
    recipe = recipe.replace("machine", channels_last=False)
    manifest = {
        "classes": ["sky", "sea"], "labelled": 2, "unlabelled": 9, "val": 3, "test": 0, "data_hash": "d",
        "split_hash": "s", "pixels_hash": "p", "truth_hash": "t", "labelled_pixels": {"sky": 5, "sea": 7},
        "labelled_names": ["a", "b"],
    }  # fmt: skip
    index = DataIndex(Path("photos"), "folder", ("sky", "sea"), {"train": (), "val": (), "test": ()})
    return Prepared(
        recipe, folder, index, Pools((), ()), Task(2, None), Format("fp32", False, "as asked"), manifest
    )  # fmt: skip


@pytest.fixture
def wanted(tmp_path) -> Prepared:
    return matched(prepared(tmp_path / "run"))


@pytest.fixture
def finished(wanted, tmp_path) -> RunFolder:
    """A finished run that matches."""
    folder = saved(tmp_path / "finished", arm(50, 60))
    folder.config.write_text(yaml.safe_dump(wanted.recipe.complete()))
    folder.data.write_text(yaml.safe_dump(wanted.manifest))
    folder.environment.write_text(json.dumps(environment()))
    folder.metrics.write_text(json.dumps({"method": "supervised"}))
    return folder


def change(file: Path, **keys: Any) -> None:
    tree = yaml.safe_load(file.read_text())
    for key, value in keys.items():
        *sections, leaf = key.split("__")
        part = tree
        for section in sections:
            part = part[section]
        part[leaf] = value
    file.write_text(json.dumps(tree) if file.suffix == ".json" else yaml.safe_dump(tree))


def test_the_matched_training(tmp_path):
    mine = prepared(tmp_path / "run", method__sup__loss="ohem", train__seed=4, seeds=3, optim__lr=0.25)
    wanted = matched(mine)
    assert wanted.folder == tmp_path / "run" / "baseline"
    tree, own = wanted.recipe.complete(), mine.recipe.complete()
    assert tree["method"]["name"] == "supervised" and tree["method"]["sup"] == own["method"]["sup"]
    assert tree["method"]["sup"]["loss"] == "ohem"
    assert tree["baseline"] is False and tree["seeds"] == 1 and tree["data"]["unlabelled"] == "none"
    for section in ("model", "optim", "train", "machine"):
        assert tree[section] == own[section]
    assert tree["data"] | {"unlabelled": None} == own["data"]
    assert wanted.manifest["unlabelled"] == 0 and wanted.manifest["labelled"] == 2


def test_a_match(wanted, finished):
    assert mismatch(wanted, finished) == []
    change(finished.config, data__dir="/elsewhere", data__unlabelled="7", data__labelled="2", data__unlabelled_batch=9)
    change(finished.config, machine__workers=3, machine__devices="cpu:2", train__save_every=1, train__log_every=1)
    change(finished.config, data__split_seed=8, data__group_by="folder", baseline=True)
    change(finished.data, root="/elsewhere", unlabelled=99, split_hash="x", pixels_hash="y")
    assert mismatch(wanted, finished) == []


@pytest.mark.parametrize(
    ("file", "keys", "reason"),
    [
        ("config", {"train__seed": 1}, "train.seed is 1, not 0"),
        ("config", {"train__steps": 9}, "train.steps is 9, not 2000"),
        ("config", {"train__eval_every": 9}, "train.eval_every is 9, not 250"),
        ("config", {"optim__lr": 0.25}, "optim.lr is 0.25, not 0.0005"),
        ("config", {"model__init": "runs/a"}, "model.init is 'runs/a', not None"),
        ("config", {"data__batch": 8}, "data.batch is 8, not 4"),
        ("config", {"data__augment__flip": 0.0}, "data.augment.flip is 0.0, not 0.5"),
        ("config", {"method__sup__loss": "ohem"}, "method.sup.loss is 'ohem', not 'ce'"),
        ("config", {"data__augment__labelled": "strong"}, "data.augment.labelled is 'strong', not 'weak'"),
        ("config", {"machine__precision": "bf16"}, "machine.precision is 'bf16', not 'fp32'"),
        ("config", {"machine__channels_last": True}, "machine.channels_last is True, not False"),
        ("config", {"protocol": "cityscapes"}, "protocol is 'cityscapes', not 'whole'"),
        ("config", {"unheard_of": 1}, "unheard_of is 1, not None"),
        ("data", {"classes": ["sea", "sky"]}, "classes differ"),
        ("data", {"labelled_names": ["a", "c"]}, "labelled_names differ"),
        ("data", {"data_hash": "x"}, "data_hash differ"),
        ("data", {"truth_hash": "x"}, "truth_hash differ"),
        ("data", {"val": 4}, "val differ"),
        ("environment", {"packages__torch": "2.9.0"}, "packages differ"),
        ("environment", {"fewmask": "0.0.1"}, "fewmask differ"),
        ("metrics", {"method": "cps"}, "its method is 'cps', not 'supervised'"),
    ],
    ids=str,
)
def test_a_mismatch_has_a_reason(file, keys, reason, wanted, finished):
    change(getattr(finished, file), **keys)
    assert mismatch(wanted, finished) == [reason]


def test_every_reason_is_given(wanted, finished):
    change(finished.config, train__seed=1, optim__lr=0.25)
    change(finished.data, data_hash="x")
    assert mismatch(wanted, finished) == ["optim.lr is 0.25, not 0.0005", "train.seed is 1, not 0", "data_hash differ"]


def test_what_cannot_be_read_is_no_match(wanted, finished):
    damage = {
        "metrics": ("{", "metrics.json of the run is damaged"),
        "data": ("- a", "data.yaml of the run is not a mapping"),
        "config": ("a: [", "config.yaml of the run cannot be read"), "environment": ("{", "it cannot be read"),
        "evaluation": ("PK", "the run's scores of single images are missing or damaged"),
    }  # fmt: skip
    for name, (text, reason) in damage.items():
        file: Path = getattr(finished, name)
        before = file.read_bytes()
        file.write_text(text)
        assert mismatch(wanted, finished) == [reason], name
        file.unlink()
        assert len(mismatch(wanted, finished)) == 1, name
        file.write_bytes(before)
    assert mismatch(wanted, finished) == []


def test_a_run_of_several_seeds_is_no_baseline(wanted, finished):
    change(finished.metrics, seeds=[4, 5, 6])
    assert mismatch(wanted, finished) == [f"it is a run of the seeds [4, 5, 6], not of {wanted.recipe.train.seed}"]
