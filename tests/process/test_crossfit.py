"""Cross-fitting in real processes: who has seen what, what is told, killed and continued, and begun again from it."""

from __future__ import annotations

import csv
import json
import shutil
import signal

import numpy as np
import pytest
import yaml
from PIL import Image

import fewmask
from process.helpers import (
    FIXMATCH,
    assert_refused,
    assert_same,
    evaluation,
    good,
    metrics_of,
    model_bytes,
    outcome,
    run,
    tiny_data,
    training,
)

NAMES = [f"train/{i:02d}" for i in range(5)]


@pytest.fixture(scope="module")
def unscored(tmp_path_factory):
    """Tiny data without val: five masks, which differ."""
    root = tiny_data(tmp_path_factory.mktemp("unscored"))
    for part in ("images", "masks"):
        shutil.rmtree(root / part / "val")
    for n, name in enumerate(NAMES):
        path = root / "masks" / f"{name}.png"
        mask = np.roll(np.array(Image.open(path)), n, axis=1)
        Image.fromarray(mask).save(path)
    return root


@pytest.fixture(scope="module")
def crossed(unscored, tmp_path_factory):
    """A finished cross-fitted run with baselines, and what it said."""
    out = tmp_path_factory.mktemp("crossed") / "run"
    ended = good(run(out.parent / "io", training(unscored, out, *FIXMATCH, "--baseline")))
    return out, ended.stderr


def folds_of(out):
    return yaml.safe_load((out / "data.yaml").read_text())["folds"]


def scores_in(folder):
    rows = csv.DictReader((folder / "doubtful.csv").read_text().splitlines())
    return {row["name"]: row["score"] for row in rows}


def test_every_mask_is_scored_once_by_networks_that_have_not_seen_it(crossed):
    out, told = crossed
    folds = folds_of(out)
    assert sorted(map(len, folds)) == [1, 2, 2] and sorted(n for names in folds for n in names) == NAMES
    assert "no val images: 3 folds of" in told and "training 7 of 7: " in told and "baseline: 3 × supervised" in told
    for k, names in enumerate(folds, start=1):
        part = out / "folds" / str(k)
        manifest = yaml.safe_load((part / "data.yaml").read_text())
        assert manifest["labelled_names"] == [n for n in NAMES if n not in names] and manifest["val"] == len(names)
        for arm in (part, part / "baseline"):
            assert evaluation(arm)["val_names"].tolist() == names
    assert yaml.safe_load((out / "all/data.yaml").read_text())["labelled_names"] == NAMES
    assert metrics_of(out / "all")["val"] is None


def test_what_is_told_is_of_all_folds_together(crossed):
    out, _ = crossed
    metrics, parts = metrics_of(out), [out / "folds" / str(k) for k in (1, 2, 3)]
    for told, arms in ((metrics["val"], parts), (metrics["baseline"]["val"], [p / "baseline" for p in parts])):
        matrix = sum(evaluation(arm)["val_matrix"] for arm in arms)
        hits, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        assert told["miou"] == pytest.approx(100 * float((hits / union).mean()), abs=1e-4)
    assert evaluation(out)["val_names"].tolist() == NAMES == evaluation(out / "baseline")["val_names"].tolist()
    tests = [metrics_of(p)["test"]["miou"] for p in parts]
    assert metrics["test"]["miou"] == pytest.approx(sum(tests) / 3)
    assert metrics["gain"]["covers"] == ["images"] and metrics["interval"]["val"]["covers"] == ["images"]
    gain = metrics["val"]["miou"] - metrics["baseline"]["val"]["miou"]
    assert metrics["gain"]["miou"] == pytest.approx(gain, abs=1e-3)
    arm = "method" if gain >= 0 else "baseline"
    assert metrics["delivered"]["run"] == arm
    assert metrics_of(out / "all")["method"] == ("fixmatch" if arm == "method" else "supervised")
    assert model_bytes(out) == model_bytes(out / "all")
    assert [fold["images"] for fold in metrics["folds"]] == [len(names) for names in folds_of(out)]
    assert [fold["val"]["miou"] for fold in metrics["folds"]] == [metrics_of(p)["val"]["miou"] for p in parts]
    drawn = sorted(p.name for p in (out / "pictures").iterdir())
    assert {name.split("-")[0] for name in drawn} == {"best", "median", "worst"}
    again = next(line for line in (out / "NEXT_STEPS.txt").read_text().splitlines() if "--init" in line)
    assert f" --init {out} --method fixmatch " in again and "--no-baseline" not in again
    assert "--split test" in (out / "NEXT_STEPS.txt").read_text() and str(out / "all") not in (
        out / "NEXT_STEPS.txt"
    ).read_text()  # fmt: skip


def test_a_mask_changes_nothing_in_the_networks_that_are_scored_on_it(crossed, unscored, tmp_path, io):
    """Everything is equal to the last bit in the fold of the changed mask but its score; the other folds learn it."""
    out, _ = crossed
    names = folds_of(out)[1]
    data = tmp_path / "data"
    shutil.copytree(unscored, data)
    path = data / "masks" / f"{names[0]}.png"
    Image.fromarray(np.ascontiguousarray(np.array(Image.open(path))[:, ::-1])).save(path)
    other = tmp_path / "run"
    good(run(io, training(data, other, *FIXMATCH, "--baseline")))
    assert folds_of(other) == folds_of(out)

    def networks(folder, k):
        steps = sorted((folder / f"folds/{k}/checkpoints").glob("step-*"))
        return steps[-1].name, (steps[-1] / "networks.safetensors").read_bytes()

    assert networks(other, 2) == networks(out, 2)
    assert networks(other, 1) != networks(out, 1) and networks(other, 3) != networks(out, 3)
    scores = [metrics_of(f / "folds/2")["val"]["pixel_accuracy"] for f in (out, other)]
    assert scores[0] != scores[1]


def test_killed_anywhere_and_continued(crossed, unscored, tmp_path, io):
    """In a fold, between two, in the training on everything, and when only the summary is missing."""
    out, reference = tmp_path / "run", crossed[0]
    command = training(unscored, out, *FIXMATCH, "--baseline")
    for fault, there in (("step.inside:7", ()), ("step.inside:50", ("folds/1", "folds/2")), ("step.inside:30", ())):
        assert run(io, command, fault).code == -signal.SIGKILL
        assert all((out / part / "metrics.json").exists() for part in there)
    assert (out / "all/checkpoints").is_dir() and not (out / "metrics.json").exists()
    good(run(io, command))
    for part in (".", "all", *(f"folds/{k}{arm}" for k in (1, 2, 3) for arm in ("", "/baseline"))):
        assert_same(outcome(out / part), outcome(reference / part))
    assert (out / "baseline/evaluation.npz").read_bytes() == (reference / "baseline/evaluation.npz").read_bytes()
    (out / "metrics.json").unlink()
    ended = good(run(io, command))
    assert "training" not in ended.stderr
    assert_same(outcome(out), outcome(reference))
    assert "already finished" in good(run(io, command)).stderr
    ended = run(io, [*command, "--folds", "2"])
    assert ended.code == 4 and "folds: 3 in the run, 2 asked" in ended.error


def test_other_commands_on_it(crossed, tmp_path, io):
    out, _ = crossed
    scored = json.loads(good(run(io, ["evaluate", str(out), "--split", "test", "--json"])).stdout)
    assert scored["miou"] == pytest.approx(metrics_of(out)["delivered"]["test"], abs=1e-3)
    for which, told in (("delivered", metrics_of(out)["delivered"]["val"]), ("last", metrics_of(out)["val"]["miou"]),
                        ("baseline", metrics_of(out)["baseline"]["val"]["miou"])):  # fmt: skip
        unseen = json.loads(good(run(io, ["evaluate", str(out), "--split", "val", "--which", which, "--json"])).stdout)
        assert unseen["images"] == 5 and unseen["miou"] == pytest.approx(told, abs=1e-3)
    wrong = "baseline" if metrics_of(out)["delivered"]["run"] == "method" else "last"
    assert_refused(run(io, ["evaluate", str(out), "--split", "test", "--which", wrong]), 2, "only the better arm")
    fold = json.loads(good(run(io, ["evaluate", str(out / "folds/2"), "--split", "val", "--json"])).stdout)
    assert fold["images"] == len(folds_of(out)[1])
    assert fold["miou"] == pytest.approx(metrics_of(out / "folds/2")["delivered"]["val"], abs=1e-3)
    good(run(io, ["suggest", str(out), "-n", "2", "-o", str(tmp_path / "next")]))
    good(run(io, ["suggest", str(out), "--relabel", "-n", "5", "-o", str(tmp_path / "again")]))
    doubts = scores_in(tmp_path / "again")
    for k, names in enumerate(folds_of(out), start=1):  # each by the model of its fold
        single = shutil.copytree(out / "folds" / str(k), tmp_path / f"fold-{k}")
        config = (single / "config.yaml").read_text()
        (single / "config.yaml").write_text(config.replace(f"fold: {k}", "fold: 0"))
        good(run(io, ["suggest", str(single), "--relabel", "-n", "5", "-o", str(tmp_path / f"again-{k}")]))
        theirs = scores_in(tmp_path / f"again-{k}")
        assert {name: doubts[name] for name in names} == {name: theirs[name] for name in names}
    page = (out / "report.html").read_text()
    assert "3 folds" in page
    assert fewmask.load(out).predict(np.zeros((8, 8, 3), np.uint8)).shape == (8, 8)


def test_new_masks_continue_from_networks_that_have_not_seen_what_they_are_scored_on(crossed, unscored, tmp_path, io):
    out, _ = crossed
    data = tmp_path / "data"
    shutil.copytree(unscored, data)
    shutil.copy(data / "masks/train/00.png", data / "masks/train/bare0.png")
    later = tmp_path / "later"
    ended = good(run(io, training(data, later, *FIXMATCH, "--init", str(out))))
    old, new = folds_of(out), folds_of(later)
    assert all(set(a) <= set(b) for a, b in zip(old, new, strict=True)) and sum(map(len, new)) == 6
    for part in ("folds/1", "folds/2", "folds/3", "all"):
        assert yaml.safe_load((later / part / "config.yaml").read_text())["model"]["init"] == str(out / part)
    assert "WARNING" not in ended.stderr

    # with other folds the networks have seen them, and that is said
    ended = good(run(io, training(data, tmp_path / "two", *FIXMATCH, "--init", str(out), "--folds", "2")))
    assert f"WARNING: {out} has trained on images that are scored here" in ended.stderr
    assert len(metrics_of(tmp_path / "two")["folds"]) == 2 and metrics_of(tmp_path / "two")["gain"] is None


def test_two_seeds_of_two_folds(unscored, crossed, tmp_path, io):
    out = tmp_path / "run"
    ended = good(run(io, training(unscored, out, *FIXMATCH, "--seeds", "2", "--folds", "2")))
    assert "training 10 of 10: " in ended.stderr and "WARNING" not in ended.stderr, "the seeds' runs are whole"
    told = json.loads(good(run(io, ["evaluate", str(out), "--split", "val", "--json"])).stdout)
    assert told["images"] == 5 and told["miou"] == pytest.approx(metrics_of(out)["delivered"]["val"], abs=1e-3)
    assert (out / "doubtful/doubtful.csv").is_file()
    each = [metrics_of(out / "seeds" / str(seed)) for seed in (0, 1)]
    metrics = metrics_of(out)
    assert metrics["val"]["miou"] == pytest.approx(sum(m["val"]["miou"] for m in each) / 2)
    assert metrics["baseline"]["val"]["miou"] == pytest.approx(sum(m["baseline"]["val"]["miou"] for m in each) / 2)
    assert metrics["gain"]["miou"] == pytest.approx(sum(m["gain"]["miou"] for m in each) / 2, abs=1e-3)
    assert [fold["images"] for fold in metrics["folds"]] == [len(names) for names in folds_of(out)]
    first = [m["folds"][0]["val"]["miou"] for m in each]
    assert metrics["folds"][0]["val"]["miou"] == pytest.approx(sum(first) / 2)
    assert (out / "model/model.safetensors").is_file() and (out / "report.html").is_file()


def test_one_fold_alone_is_the_one_of_the_run(crossed, unscored, tmp_path, io):
    """So that folds can be trained on several machines."""
    out, _ = crossed
    good(run(io, training(unscored, tmp_path / "run", *FIXMATCH, "--folds", "3", "fold=2")))
    assert metrics_of(tmp_path / "run")["val"] == metrics_of(out / "folds/2")["val"]


def test_folds_that_cannot_be(data, unscored, tmp_path, io):
    ended = run(io, training(data, tmp_path / "a", *FIXMATCH, "--folds", "3"))
    assert_refused(ended, 2, "3 folds are asked for, and the data have 3 val images", "--folds")
    ended = run(io, training(unscored, tmp_path / "b", *FIXMATCH, "--folds", "6"))
    assert_refused(ended, 2, "5 labelled images in 5 groups cannot make 6 folds", "--folds 5")
    ended = run(io, training(unscored, tmp_path / "c", *FIXMATCH, "fold=1"))
    assert_refused(ended, 2, "fold 1 of None folds", "folds=3 fold=1")
    ended = good(run(io, training(unscored, tmp_path / "d", *FIXMATCH, "--labelled", "3")))
    assert "val: 1 of 5 labelled images, drawn" in ended.stderr, "of so many masks there are more to be scored on"
