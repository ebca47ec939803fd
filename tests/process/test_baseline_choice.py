"""Which baseline a training has: a finished run beside it that matches, or none where nothing is compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fewmask.recipe import read_recipe
from fewmask.run.arms import Arm, arms_of
from fewmask.run.folder import RunFolder
from fewmask.run.prepare import prepare
from fixtures_data import blocks, save_mask
from process.helpers import FIXMATCH, STEPS, good, metrics_of, run, training

# --- which baseline is reused


def test_a_second_method_takes_the_finished_baseline(second, compared):
    out, told = second
    assert not (out / "baseline").exists()
    assert f"baseline: {compared / 'baseline'}, trained before" in told and "training 1 of" not in told
    ours, theirs = metrics_of(out), metrics_of(compared / "baseline")
    assert ours["baseline"] == {"val": theirs["val"], "test": theirs["test"]}
    assert ours["baseline_run"] == str((compared / "baseline").resolve())
    assert ours["gain"]["miou"] == pytest.approx(ours["val"]["miou"] - theirs["val"]["miou"], abs=1e-4)


def arms(compared: Path, keys: dict[str, Any], out: str = "new") -> tuple[list[Arm], list[str]]:
    """Return the trainings of the command of ``compared`` with other keys, in a folder beside it; none is begun."""
    told: list[str] = []
    asked = read_recipe(compared / "config.yaml", keys)
    return arms_of(prepare(asked, RunFolder(compared.parent / out), told.append), told.append), told


@pytest.mark.parametrize(
    "keys",
    [
        {"method": "cps"}, {"method": "mean_teacher"}, {"data.unlabelled": "3"}, {"data.unlabelled_batch": 4},
        {"data.labelled": "5"}, {"train.save_every": 5}, {"train.log_every": 2}, {"machine.workers": 1},
        {"machine.cache_mb": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_baseline_does_not_use_may_differ(keys, compared):
    found, told = arms(compared, keys)
    assert [arm.baseline for arm in found] == [compared / "baseline"], told
    assert any(str(compared / "baseline") in text for text in told)


@pytest.mark.parametrize(
    "keys",
    [
        {"train.seed": 5}, {"train.steps": 13}, {"train.eval_every": 3}, {"optim.lr": 0.01}, {"data.batch": 4},
        {"data.labelled": "4"}, {"data.crop": "8"}, {"data.augment.flip": 0.25}, {"data.resize": "24x32"},
        {"method.sup.loss": "ohem"}, {"machine.precision": "bf16"}, {"protocol": "cityscapes"},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_baseline_depends_on_may_not(keys, compared):
    found, told = arms(compared, keys)
    assert [arm.prepared.recipe.method_name for arm in found] == ["supervised", "fixmatch"], told
    mine = compared.parent / "new"
    assert [arm.prepared.folder for arm in found] == [mine / "baseline", mine]
    assert [arm.baseline for arm in found] == [None, mine / "baseline"]
    baseline, method = (arm.prepared.recipe.complete() for arm in found)
    for key, value in keys.items():
        section, _, leaf = key.partition(".")
        if section not in ("method", "protocol"):
            assert baseline[section] | {"unlabelled": None} == method[section] | {"unlabelled": None}, (
                key,
                value,
                leaf,
            )
    assert baseline["method"]["sup"] == method["method"]["sup"] and baseline["protocol"] == method["protocol"]


def another_val_mask(data: Path) -> None:
    save_mask(data / "masks/val/01.png", blocks((9, 5, 0, 0)))


def a_train_mask(data: Path) -> None:
    save_mask(data / "masks/train/01.png", blocks((9, 5, 0, 0)))


def a_val_image_less(data: Path) -> None:
    for path in sorted(data.glob("*/val/02.*")):
        path.unlink()


@pytest.mark.parametrize("change", [another_val_mask, a_train_mask, a_val_image_less])
def test_a_baseline_of_other_data_is_not_taken(change, compared, own_data):
    """Names and sizes of the files may be the same: scores on masks that were corrected since are none."""
    same, _ = arms(compared, {"data.dir": str(own_data)})
    assert len(same) == 1, "the same data in another folder serve"
    change(own_data)
    found, told = arms(compared, {"data.dir": str(own_data)})
    assert len(found) == 2, told


def test_a_baseline_that_cannot_be_compared_is_not_taken(compared, beside, tmp_path):
    """Found before training, not after it."""
    for fault in ("missing", "truncated", "empty", "other versions", "unfinished", "no environment"):
        shutil.copytree(compared, tmp_path / fault / "one")
        copy = tmp_path / fault / "one" / "baseline"
        file = copy / "evaluation.npz"
        if fault == "missing":
            file.unlink()
        elif fault == "truncated":
            file.write_bytes(file.read_bytes()[:-30])
        elif fault == "empty":
            file.write_bytes(b"")
        elif fault == "other versions":
            stored = json.loads((copy / "environment.json").read_text())
            stored["packages"]["torch"] = "2.9.0"
            (copy / "environment.json").write_text(json.dumps(stored))
        elif fault == "unfinished":
            (copy / "metrics.json").unlink()
        else:
            (copy / "environment.json").unlink()
        found, _ = arms(tmp_path / fault / "one", {})
        assert [arm.prepared.recipe.method_name for arm in found] == ["supervised", "fixmatch"], fault
        shutil.rmtree(copy)
    whole, _ = arms(compared, {})
    assert len(whole) == 1


def test_a_supervised_run_serves_as_baseline(compared, unbroken, tmp_path):
    shutil.copytree(compared, tmp_path / "one")
    shutil.rmtree(tmp_path / "one" / "baseline")
    shutil.copytree(unbroken("supervised"), tmp_path / "mine")
    found, _ = arms(tmp_path / "one", {})
    assert [arm.baseline for arm in found] == [tmp_path / "mine"]


# --- without one


def test_supervised_training_has_no_baseline(data, beside, tmp_path, io):
    out = tmp_path / "run"
    ended = good(run(io, training(data, out, "--method", "supervised", "--baseline")))
    metrics = metrics_of(out)
    assert metrics["baseline"] is metrics["gain"] is metrics["baseline_run"] is None
    assert metrics["delivered"]["run"] == "method" and not (out / "baseline").exists()
    assert "no baseline: " in ended.stderr and "supervised" in ended.stderr


def test_no_validation_images_no_baseline(own_data, tmp_path, io):
    for folder in own_data.glob("*/val"):
        shutil.rmtree(folder)
    for path in (own_data / "masks/train").iterdir():  # from several, some would be drawn for val
        if path.stem != "00":
            path.unlink()
    out = tmp_path / "run"
    ended = good(run(io, training(own_data, out, *FIXMATCH, "--baseline")))
    metrics = metrics_of(out)
    assert metrics["baseline"] is metrics["gain"] is metrics["baseline_run"] is metrics["val"] is None
    assert metrics["delivered"] == {"run": "method", "checkpoint": "last", "step": STEPS, "val": None}
    assert metrics["interval"]["val"] is None and metrics["interval"]["test"] is not None
    assert "no baseline: without validation images" in ended.stderr and not (out / "baseline").exists()


def test_no_unlabelled_images_no_baseline(data, compared):
    """What is trained then is supervised itself."""
    found, told = arms(compared, {"method": "auto", "data.unlabelled": "none"})
    assert [(arm.prepared.recipe.method_name, arm.baseline) for arm in found] == [("supervised", None)]
    assert any("since there are 0 unlabelled images" in text for text in told)
    assert any(text.startswith("no baseline: ") for text in told)


def test_no_baseline_is_asked_for(unbroken):
    metrics = metrics_of(unbroken("fixmatch"))
    assert metrics["baseline"] is metrics["gain"] is metrics["baseline_run"] is None
    assert metrics["delivered"]["run"] == "method" and not (unbroken("fixmatch") / "baseline").exists()
