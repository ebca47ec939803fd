"""The matched baseline beside a run: what is written, which arm is delivered, and one that is named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import fewmask
from fewmask.cli.train import spell_out
from process.helpers import (
    CLASSES,
    FIXMATCH,
    SEEDS,
    STEPS,
    VARIANTS,
    assert_same,
    evaluation,
    good,
    metrics_of,
    model_bytes,
    outcome,
    popen,
    run,
    training,
)

# --- the baseline and what is written


def test_metrics_of_a_compared_run(compared):
    ours, theirs = metrics_of(compared), metrics_of(compared / "baseline")
    assert theirs["method"] == "supervised" and theirs["unlabelled"] == 0
    assert theirs["baseline"] is None is theirs["gain"] and theirs["baseline_run"] is None
    assert all(ours[key] == theirs[key] for key in ("seed", "steps", "protocol", "labelled"))
    assert ours["baseline"] == {"val": theirs["val"], "test": theirs["test"]} and ours["baseline_run"] == "baseline"

    gain = ours["gain"]
    assert gain["miou"] == pytest.approx(ours["val"]["miou"] - theirs["val"]["miou"], abs=1e-4)
    assert gain["low"] < gain["miou"] < gain["high"], "last against last, and the images differ"
    assert gain["verdict"] == "not shown" and gain["covers"] == ["images"]
    assert f"by {abs(gain['miou']):.1f} mIoU on this validation set, one seed" in gain["text"]
    assert set(gain["iou"]) == CLASSES
    for name, part in gain["iou"].items():
        difference = ours["val"]["iou"][name] - theirs["val"]["iou"][name]
        assert part["gain"] == pytest.approx(difference, abs=1e-4) and part["low"] <= part["gain"] <= part["high"]

    for role in ("val", "test"):
        assert ours["interval"][role]["low"] < ours["interval"][role]["high"]
        assert ours["interval"][role]["covers"] == ["images"]


def test_evaluation_npz_holds_the_last_checkpoint(compared):
    """Scores of single images add up to the score of the set, in both arms on the same images."""
    truths = []
    for folder in (compared, compared / "baseline"):
        found, metrics = evaluation(folder), metrics_of(folder)
        assert {key.partition("_")[0] for key in found} == {"val", "test"}
        for role, images in (("val", 3), ("test", 2)):
            matrix, counts = found[f"{role}_matrix"], found[f"{role}_counts"]
            assert counts.shape == (images, 3, 3) and counts.dtype == matrix.dtype == np.int64
            assert list(found[f"{role}_names"]) == [f"{role}/{n:02d}" for n in range(images)]
            assert list(found[f"{role}_groups"]) == [""] * images
            whole = np.stack([matrix.diagonal(), matrix.sum(1), matrix.sum(0)])
            assert np.array_equal(counts.sum(0), whole)
            iou = 100 * whole[0] / (whole[1] + whole[2] - whole[0])
            assert list(metrics[role]["iou"].values()) == pytest.approx(iou.tolist())
        truths.append(found["val_counts"][:, 1])
    assert np.array_equal(*truths)


def test_the_baseline_is_the_supervised_run(compared, unbroken):
    """Bit for bit what `--method supervised` trains on its own; only the number of unlabelled images differs."""
    alone, beside = outcome(unbroken("supervised")), outcome(compared / "baseline")
    assert alone["metrics.json"].pop("unlabelled") == 7 and beside["metrics.json"].pop("unlabelled") == 0
    assert_same(alone, beside)


def test_the_same_command_again_is_finished(compared, data, io):
    before = outcome(compared)
    ended = good(run(io, training(data, compared, *FIXMATCH, "--baseline", "--json")))
    assert "is already finished" in ended.stderr and json.loads(ended.stdout) == metrics_of(compared)
    assert_same(outcome(compared), before)


def assert_better_arm_delivered(folder: Path) -> str:
    """RUN/model holds exactly the tensors of the checkpoint of the arm with the better val; return which that is."""
    ours = metrics_of(folder)
    there = folder / ours["baseline_run"]
    theirs = metrics_of(there)
    mine, other = ours["best"]["val"]["miou"], theirs["delivered"]["val"]
    if mine >= other:
        source, metrics = folder, ours
        expected = {"run": "method", "step": ours["best"]["step"], "val": mine}
    else:
        source, metrics = there, theirs
        expected = {"run": "baseline", "step": theirs["best"]["step"], "val": other}
        assert model_bytes(folder) == model_bytes(there) and outcome(folder)["pictures"] == outcome(there)["pictures"]
        assert worst_images(folder) == worst_images(there), "of the pictures' model"
    assert ours["delivered"] == expected | {"checkpoint": "last" if expected["step"] == STEPS else "best"}
    networks = load_file(source / "checkpoints" / f"step-{expected['step']:08d}" / "networks.safetensors")
    prefix = f"{next(iter(metrics['predictors']))}."
    model = load_file(folder / "model" / "model.safetensors")
    assert {prefix + key for key in model} == {key for key in networks if key.startswith(prefix)}
    assert all(np.array_equal(value, networks[prefix + key]) for key, value in model.items())
    assert json.loads((folder / "model/config.json").read_text())["method"] == metrics["method"]
    assert fewmask.load(folder).score == expected["val"]
    return expected["run"]


def worst_images(folder: Path) -> list[str]:
    lines = (folder / "NEXT_STEPS.txt").read_text().splitlines()
    return lines[lines.index("# the validation images with the lowest scores") :]


def test_the_better_arm_is_delivered(compared, second, three):
    for folder in (compared, second[0], *(three[0] / "seeds" / str(seed) for seed in SEEDS)):
        assert_better_arm_delivered(folder)
        theirs = metrics_of(folder / metrics_of(folder)["baseline_run"])
        assert theirs["delivered"]["val"] == theirs["best"]["val"]["miou"]


def test_evaluate_the_baseline(compared, second, io):
    for folder in (compared, second[0]):
        found = json.loads(good(run(io, ["evaluate", str(folder), "--which", "baseline", "--json"])).stdout)
        expected = metrics_of(folder)["baseline"]["val"]
        assert {key: found[key] for key in expected} == expected and found["step"] == STEPS
        for which, key in (("last", "val"), ("delivered", None)):
            found = json.loads(good(run(io, ["evaluate", str(folder), "--which", which, "--json"])).stdout)
            metrics = metrics_of(folder)
            assert found["miou"] == (metrics["delivered"]["val"] if key is None else metrics[key]["miou"])


def test_evaluate_without_a_baseline(unbroken, io):
    ended = run(io, ["evaluate", str(unbroken("cps")), "--which", "baseline"])
    assert ended.code == 4 and "the run has no baseline" in ended.error


# --- --baseline RUN


@pytest.mark.parametrize(("val", "better"), [(0.0, "method"), (100.0, "baseline")])
def test_a_named_baseline(val, better, compared, data, tmp_path, io):
    """In another folder, where nothing would be found; its score is changed so that it loses, or wins."""
    named = tmp_path / "named"
    shutil.copytree(compared / "baseline", named)
    theirs = metrics_of(named)
    theirs["delivered"]["val"] = val
    (named / "metrics.json").write_text(json.dumps(theirs))
    out = tmp_path / "runs" / "run"
    ended = good(run(io, training(data, out, *VARIANTS["mean_teacher"], "--baseline", str(named))))
    assert not (out / "baseline").exists() and "training 1 of" not in ended.stderr
    metrics = metrics_of(out)
    assert metrics["baseline"]["val"] == theirs["val"] and metrics["gain"] is not None
    assert metrics["baseline_run"] == str(named.resolve())
    assert assert_better_arm_delivered(out) == better
    assert ("delivered: the supervised baseline" in ended.stderr) == (better == "baseline")


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["train.seed=1"], "train.seed is 0, not 1"),
        (["optim.lr=0.25"], "optim.lr is 0.0005, not 0.25"),
        (["--steps", "13"], "train.steps is 12, not 13"),
        (["--labelled", "4"], "labelled_names differ"),
        (["--seeds", "2"], "train.seed is 0, not 1"),
    ],
    ids=str,
)
def test_a_named_baseline_that_does_not_match(keys, expected, compared, data, tmp_path, io):
    named = str(compared / "baseline")
    ended = run(io, training(data, tmp_path / "run", *FIXMATCH, "--baseline", named, *keys))
    assert ended.code == 2 and expected in ended.error and named in ended.error, ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_named_baseline_that_is_none(compared, unbroken, data, tmp_path, io):
    out = tmp_path / "run"
    for named in (tmp_path / "nothing", data):
        ended = run(io, training(data, out, *FIXMATCH, "--baseline", str(named)))
        assert ended.code == 4 and "no finished run here" in ended.error and str(named) in ended.error
    ended = run(io, training(data, out, *FIXMATCH, "--baseline", str(unbroken("cps"))))
    assert ended.code == 2 and "its method is 'cps', not 'supervised'" in ended.error
    ended = run(io, training(data, out, *FIXMATCH, "--baseline", str(compared), "--no-baseline"))
    assert ended.code == 2 and "contradict" in ended.error
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--baseline"], True), (["--baseline", "--json"], True), (["--baseline", "optim.lr=1"], True),
        (["--baseline", "runs/a"], "runs/a"), (["--baseline=runs/lr=1"], "runs/lr=1"),
    ],
    ids=str,
)  # fmt: skip
def test_baseline_may_stand_without_a_run(words, expected):
    spelled = spell_out(["train", "photos", *words, "-x"])
    given = next(w for w in spelled if w.startswith("--baseline"))
    if given == "--baseline":
        value = spelled[spelled.index(given) + 1]
    else:
        value = True if given == "--baseline=on" else given.partition("=")[2]
    assert value == expected


# --- several processes


@pytest.mark.slow
def test_two_processes(data, tmp_path, io):
    out = tmp_path / "run"
    four = [*FIXMATCH, "--unlabelled-batch", "4", "--baseline", "--devices", "cpu:2"]
    command = [sys.executable, "-m", "fewmask", *training(data, out, *four)]
    assert popen(io, command).wait(280) == 0, (io / "stderr").read_text()
    told = (io / "stderr").read_text()
    assert told.count("training 2 of 2") == 1, "only the first process speaks"
    ours, theirs = metrics_of(out), metrics_of(out / "baseline")
    assert ours["baseline"]["val"] == theirs["val"] and ours["baseline_run"] == "baseline"
    assert ours["gain"]["miou"] == pytest.approx(ours["val"]["miou"] - theirs["val"]["miou"], abs=1e-4)
    for folder in (out, out / "baseline"):
        found = evaluation(folder)
        assert found["val_counts"][:, 1].sum() == found["val_matrix"].sum() > 0
        assert (found["val_counts"][:, 1].sum(1) > 0).all(), "every image was counted, by one process or the other"
