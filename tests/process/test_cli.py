"""Every command once, and the Python twin: what they print, write and return."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import fewmask
from fewmask.cli import app
from fewmask.cli import run as command
from fewmask.methods import METHODS
from process.helpers import VARIANTS, assert_refused, one_json, run, tiny_data, training

# --- train


def test_train_prints_one_json(data, tmp_path, io):
    ended = run(io, training(data, tmp_path / "run", *VARIANTS["fixmatch-ema"], "--json"))
    assert ended.code == 0, ended.stderr
    metrics = one_json(ended.stdout)
    assert metrics == json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["method"] == "fixmatch" and metrics["steps"] == 12 and metrics["labelled"] == 5
    assert list(metrics["predictors"]) == ["teacher", "student"]
    assert set(metrics["val"]) == {"miou", "iou", "pixel_accuracy"} and set(metrics["val"]["iou"]) == {
        "sky", "sea", "sand",
    }  # fmt: skip
    again = run(io, training(data, tmp_path / "run", *VARIANTS["fixmatch-ema"], "--json"))
    assert again.code == 0 and one_json(again.stdout) == metrics and "already finished" in again.stderr


def test_plan_trains_nothing(data, tmp_path, io):
    ended = run(io, training(data, tmp_path / "run", "--plan", "--baseline"))
    assert ended.code == 0, ended.stderr
    plan = one_json(ended.stdout)
    assert plan == json.loads((tmp_path / "run/plan.json").read_text())
    assert plan["recipe"]["method"]["name"] == "fixmatch" and plan["labelled"] == 5 and plan["unlabelled"] == 7
    assert [(t["method"], t["seed"]) for t in plan["trainings"]] == [("supervised", 0), ("fixmatch", 0)]
    assert len({t["steps"] for t in plan["trainings"]}) == 1
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["plan.json"]
    assert run(io, training(data, tmp_path / "run")).code == 0, "the plan does not stand in the way"
    assert_refused(run(io, training(data, tmp_path / "run", "--plan", "--seed", "3")), 4, "train.seed")


def test_an_error_comes_before_the_notes(data, tmp_path, io):
    """Both say things about the data before they find what is wrong; it is said too, after the error."""
    words = training(data, tmp_path / "run", "--plan", "--time", "0.001s")
    at = words.index("--steps")
    ended = run(io, words[:at] + words[at + 2 :])
    assert_refused(ended, 2, "--time")
    assert len(ended.stderr.splitlines()) > 3
    own = tiny_data(tmp_path / "own")
    for path in (own / "masks/train").glob("*"):
        path.unlink()
    assert_refused(run(io, ["split", str(own), "--labelled", "2", "-o", str(tmp_path / "lists")]), 3)


def test_without_out_the_newest_unfinished_run_goes_on(data, tmp_path, io, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [w for w in training(data, Path("x"), *VARIANTS["supervised"]) if w not in ("--out", "x")]
    assert run(io, command, "step.end:7").code < 0
    ended = run(io, command)
    assert ended.code == 0 and "continuing after step" in ended.stderr
    assert run(io, command).code == 0, "a finished run is not continued: this is another one"
    assert run(io, command, "step.end:7").code < 0
    ended = run(io, [*command, "--new"])
    assert ended.code == 0 and "continuing" not in ended.stderr
    names = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert names == [f"{data.name}-supervised-00{n}" for n in (1, 2, 3, 4)]


def test_what_a_run_leaves(unbroken, data):
    run_folder = unbroken("fixmatch")
    assert yaml.safe_load((run_folder / "config.yaml").read_text())["method"]["tau"] == 0.3
    manifest = yaml.safe_load((run_folder / "data.yaml").read_text())
    assert manifest["classes"] == ["sky", "sea", "sand"] and manifest["unlabelled"] == 7
    assert "torch" in json.loads((run_folder / "environment.json").read_text())["packages"]
    assert (run_folder / "model/classes.txt").read_text() == "sky\nsea\nsand\n"
    assert {p.name.partition("-")[0] for p in (run_folder / "pictures").iterdir()} == {"best", "median", "worst"}
    assert f"fewmask predict {run_folder}" in (run_folder / "NEXT_STEPS.txt").read_text()
    assert not [p for p in run_folder.rglob("*") if p.suffix in (".pt", ".pth", ".pkl", ".ckpt")]


# --- check, split


def test_check(data, io):
    ended = run(io, ["check", str(data), "--json"])
    assert ended.code == 0 and ended.stderr == ""
    report = one_json(ended.stdout)
    assert report["roles"]["train"] == {"images": 12, "labelled": 5, "unlabelled": 7}
    assert [c["name"] for c in report["classes"]] == ["sky", "sea", "sand"] and report["problems"] == []
    ended = run(io, ["check", str(data)])
    assert ended.code == 0 and "12 images: 5 labelled, 7 unlabelled" in ended.stdout


def test_split_draws_and_train_takes_it(data, tmp_path, io):
    ended = run(io, ["split", str(data), "--labelled", "2", "--split-seed", "1", "-o", str(tmp_path / "lists")])
    assert ended.code == 0, ended.stderr
    labelled, unlabelled = (tmp_path / f"lists/{name}labelled.txt" for name in ("", "un"))
    assert len(labelled.read_text().splitlines()) == 2 and len(unlabelled.read_text().splitlines()) == 10
    lists = ("--labelled", str(labelled), "--unlabelled", str(unlabelled))
    given = run(io, training(data, tmp_path / "given", *VARIANTS["cps"], *lists))
    drawn = run(io, training(data, tmp_path / "drawn", *VARIANTS["cps"], "--labelled", "2", "--split-seed", "1"))
    assert given.code == drawn.code == 0, given.stderr + drawn.stderr
    hashes = {yaml.safe_load((tmp_path / n / "data.yaml").read_text())["split_hash"] for n in ("given", "drawn")}
    assert hashes == {ended.stdout.strip()}
    words = ["split", str(data), "--labelled", "2", "--split-seed", "1", "-o", str(tmp_path / "again")]
    told = one_json(run(io, [*words, "--json"]).stdout)
    assert told == {"out": str(tmp_path / "again"), "labelled": 2, "unlabelled": 10, "hash": ended.stdout.strip()}
    refused = run(io, [*words[:-1], str(tmp_path / "third"), "--val", str(labelled)])
    assert_refused(refused, 2, "--val has no effect here: only --check reads it")
    assert_refused(run(io, ["split", "--check", str(labelled), "-o", str(tmp_path / "x")]), 2, "-o has no effect here")


def test_split_check(data, tmp_path, io):
    (tmp_path / "labelled.txt").write_text("train/00\ntrain/01\n")
    (tmp_path / "unlabelled.txt").write_text("train/02\n")
    lists = [str(tmp_path / "labelled.txt"), str(tmp_path / "unlabelled.txt")]
    ended = run(io, ["split", "--check", *lists, "--json"])
    assert ended.code == 0, ended.stderr
    assert isinstance(one_json(ended.stdout), dict)
    (tmp_path / "val.txt").write_text("train/01\nval/00\n")
    ended = run(io, ["split", "--check", *lists, "--val", str(tmp_path / "val.txt"), "--json"])
    assert ended.code == 3 and ended.error.startswith("error:") and one_json(ended.stdout)["problems"]


# --- what there is


def test_methods(io):
    rows = one_json(run(io, ["methods", "--json"]).stdout)
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(set(row) == {"name", "title", "paper", "year", "rounds", "views"} for row in rows)
    text = run(io, ["methods"])
    assert text.code == 0 and all(line.split()[0] in METHODS for line in text.stdout.splitlines())


def test_models(io):
    found = one_json(run(io, ["models", "--json"]).stdout)
    assert {"deeplabv3plus", "unet", "tiny"} <= set(found["architectures"]) and "resnet50" in found["encoders"]
    assert "deeplabv3plus" in run(io, ["models"]).stdout


def test_recipes(tmp_path, io, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no folder ./recipes here" in run(io, ["recipes"]).stderr
    recipe = tmp_path / "recipes/mine/cps.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# my best one\ndata: {dir: photos, crop: 160x192}\nmethod: cps\n")
    assert run(io, ["recipes"]).stdout == "recipes/mine/cps.yaml: my best one\n"
    expanded = run(io, ["recipes", "expand", str(recipe)])
    tree = yaml.safe_load(expanded.stdout)
    assert tree["data"]["crop"] == [160, 192] and tree["method"]["lam"] == 1.5 and tree["train"]["steps"] == 2000
    (tmp_path / "whole.yaml").write_text(expanded.stdout)
    assert run(io, ["recipes", "expand", "whole.yaml"]).stdout == expanded.stdout, "a complete recipe is its own"


def test_a_recipe_trains_and_flags_override_it(data, unbroken, tmp_path, io):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("method: {name: cps, lam: 3}\noptim: {lr: 0.125}\ntrain: {steps: 99}\n")
    command = training(data, tmp_path / "run", "--recipe", str(recipe), "optim.lr=0.0625")
    ended = run(io, command)
    assert ended.code == 0, ended.stderr
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["method"]["lam"] == 3 and config["optim"]["lr"] == 0.0625 and config["train"]["steps"] == 12


def test_doctor(io):
    report = one_json(run(io, ["doctor", "--json"]).stdout)
    assert report["environment"]["fewmask"] == fewmask.__version__ and all(row["ok"] for row in report["checks"][:3])
    assert "torchvision" in run(io, ["doctor"]).stdout


@pytest.mark.parametrize("command", ["", "train", "evaluate", "predict", "check", "split", "methods", "models"])
def test_help_opens_with_an_example(command, io):
    ended = run(io, [*command.split(), "--help"])
    assert ended.code == 0 and "Example: fewmask " in ended.stdout


# --- Python


def test_python_twin(data, unbroken, tmp_path):
    told = []
    keys = {
        "method": "cps", "baseline": False, "model__arch": "tiny", "model__weights": "none",
        "data__crop": 12, "data__batch": 2,
        "data__unlabelled_batch": 2, "train__steps": 12, "train__save_every": 3, "train__eval_every": 4,
        "train__log_every": 1, "machine__precision": "fp32", "machine__devices": "cpu", "machine__workers": 0,
    }  # fmt: skip
    made = fewmask.train(data, tmp_path / "run", say=told.append, **keys)
    assert told and made.path == tmp_path / "run" and made.metrics["method"] == "cps"
    # threads may differ between this process and those of the other tests, so figures are close and not equal
    other = fewmask.load(unbroken("cps"))
    assert other.score == other.metrics["best"]["val"]["miou"]
    assert made.score == pytest.approx(other.score, abs=1)

    picture = np.random.default_rng(0).integers(0, 256, (19, 31, 3), dtype=np.uint8)
    found = other.predict(picture)
    assert found.shape == (19, 31) and found.dtype == np.uint8 and found.max() < 3
    Image.fromarray(picture).save(tmp_path / "picture.png")
    assert np.array_equal(other.predict(tmp_path / "picture.png"), found)
    assert other.model.probabilities(picture).shape == (3, 19, 31)
    with pytest.raises(fewmask.FewmaskError, match="no finished run here"):
        fewmask.load(tmp_path)
    with pytest.raises(fewmask.FewmaskError, match="did you mean 'fixmatch'"):
        fewmask.train(data, method="fixmach")
    with pytest.raises(fewmask.FewmaskError, match="unknown key 'optim.lrr'"):
        fewmask.train(data, optim__lrr=1)


def test_another_rank_leaves_a_finished_run_at_once(data, unbroken, monkeypatch):
    """The first process returns without meeting the others: a rank that waited for it would wait half an hour."""
    monkeypatch.setattr("fewmask.run.execute.is_first_process", lambda: False)
    monkeypatch.setattr("fewmask.run.execute.launch", lambda *_: pytest.fail("it went to meet the others"))
    assert fewmask.train(data, unbroken("cps"), method="cps").path == unbroken("cps")


def test_the_version_and_what_each_command_does(capsys):
    assert command(["--version"]) == 0 and capsys.readouterr().out == f"fewmask {fewmask.__version__}\n"
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    for group in groups:
        for one in group.registered_commands:
            assert one.short_help and len(one.short_help) < 80 and "Example" not in one.short_help, one.short_help
    assert command(["--help"]) == 0
    said = capsys.readouterr().out
    assert "Scores a run's model on whole images" in said and said.count("Example") == 1


def test_importing_fewmask_does_not_wait_for_torch(io):
    """A property of the package itself, so a fresh interpreter and nothing forked."""
    import subprocess
    import sys

    code = "import fewmask, sys; print('torch' in sys.modules, fewmask.__version__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == f"False {fewmask.__version__}\n"


def test_data_are_looked_at_without_torch(data):
    """It takes seconds to import, and ``check`` is what people run first."""
    import subprocess
    import sys

    code = "import sys; from fewmask.cli import run; code = run(sys.argv[1:]); print(code, 'torch' in sys.modules)"
    words = [sys.executable, "-c", code, "check", str(data), "--json"]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert found.endswith("\n0 False\n"), found


def test_a_finished_run_is_read_without_the_framework_that_trains(io):
    """Fabric takes seconds to import: predict, evaluate and report do not wait for it."""
    import subprocess
    import sys

    code = "import sys, fewmask.run.rescore, fewmask.run.report; print('lightning_fabric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_other_versions_are_named_when_a_run_is_continued(data, tmp_path, io):
    command = training(data, tmp_path / "run", "--method", "supervised")
    assert run(io, command, "step.end:7").code == -9
    file = tmp_path / "run" / "environment.json"
    stored = json.loads(file.read_text())
    assert (stored["accelerator"], stored["processes"]) == ("cpu", 1)
    stored["packages"]["torch"] = "2.9.0"
    stored["processes"] = 2
    file.write_text(json.dumps(stored))
    done = run(io, command)
    assert done.code == 0 and "torch 2.9.0 then" in done.stderr
    assert "the run began with 2 processes on cpu, now 1 on cpu" in done.stderr
    assert "continuing after step" in done.stderr
