"""``--method auto`` in real processes: who is tried, who goes on, killed and continued, and what is said of it."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import yaml

from fewmask.run.halving import METHODS
from process.helpers import assert_same, good, metrics_of, outcome, run, training


@pytest.fixture(scope="module")
def chosen(data, tmp_path_factory):
    """A finished run of 160 steps whose method was found by trying, and what it said."""
    out = tmp_path_factory.mktemp("chosen") / "run"
    ended = good(run(out.parent / "io", command(data, out)))
    return out, ended.stderr


def command(data, out, *more):
    return training(data, out, "--method", "auto", "--steps", "160", "train.save_every=80", "train.eval_every=0", *more)


def test_the_better_ones_go_on_and_the_best_is_trained(chosen):
    out, told = chosen
    found = json.loads((out / "halving/halving.json").read_text())
    first, second = found["rungs"]
    assert tuple(first["miou"]) == METHODS and (first["steps"], second["steps"]) == (20, 53)
    assert sorted(second["miou"]) == sorted(sorted(METHODS, key=lambda m: -first["miou"][m])[:2])
    assert found["chosen"] == max(second["miou"], key=lambda m: second["miou"][m])
    assert metrics_of(out)["method"] == found["chosen"] and metrics_of(out)["steps"] == 160
    for n, rung in enumerate((first, second), start=1):
        for name, miou in rung["miou"].items():
            tried = metrics_of(out / f"halving/{n}-{name}")
            assert tried["val"]["miou"] == pytest.approx(miou) and tried["steps"] == rung["steps"]
            assert tried["method"] == name
    assert found["why"] in told and f"method: {found['chosen']}, the best of supervised, fixmatch" in found["why"]
    # three val images of 12x16 pixels tell little: the interval says so
    assert found["told_apart"] is False and "too few to tell" in found["why"], "whatever their interval says"
    assert "Chosen" in (out / "report.html").read_text()


def test_it_is_what_the_method_is_when_it_is_named(chosen, data, tmp_path, io):
    out, _ = chosen
    words = [w for w in command(data, tmp_path / "run") if w != "auto"]
    words.insert(words.index("--method") + 1, metrics_of(out)["method"])
    good(run(io, words))
    one, other = outcome(out), outcome(tmp_path / "run")
    assert_same(one, other)


def test_killed_while_methods_are_tried(chosen, data, tmp_path, io):
    out = tmp_path / "run"
    assert run(io, command(data, out), "step.inside:50").code == -signal.SIGKILL
    assert not (out / "config.yaml").exists() and (out / "halving/1-fixmatch/metrics.json").exists()
    ended = run(io, command(data, out, "optim.lr=0.01"))
    assert ended.code == 4 and "optim.lr" in ended.error, "tries with another rate say nothing of this one"
    ended = good(run(io, command(data, out)))
    assert "auto, 20 steps: fixmatch" not in ended.stderr
    assert_same(outcome(out), outcome(chosen[0]))
    assert (out / "halving/halving.json").read_bytes() == (chosen[0] / "halving/halving.json").read_bytes()
    assert "already finished" in good(run(io, command(data, out))).stderr


def test_killed_and_found_again_without_out(chosen, data, tmp_path, io):
    """The folder below runs/ is not begun while methods are tried; its first try tells whose it is."""
    words = [w for w in command(data, "") if w not in ("--out", "")]
    first, second = (tmp_path / "runs" / f"{data.name}-auto-{n:03d}" for n in (1, 2))
    assert run(io, words, "step.inside:30", cwd=tmp_path).code == -signal.SIGKILL
    assert not (first / "config.yaml").exists() and (first / "halving/1-supervised/metrics.json").exists()
    assert run(io, [*words, "optim.lr=0.01"], "step.inside:5", cwd=tmp_path).code == -signal.SIGKILL
    assert (second / "halving/1-supervised/config.yaml").exists(), "another rate is another run"
    told = good(run(io, words, cwd=tmp_path)).stderr
    assert "auto, 20 steps: supervised" not in told and "auto, 20 steps: fixmatch" in told
    assert_same(outcome(first), outcome(chosen[0]))
    assert not (second / "metrics.json").exists() and len(list((tmp_path / "runs").iterdir())) == 2


def test_without_the_flag_one_is_chosen_from_the_data(data, tmp_path, io):
    ended = good(run(io, training(data, tmp_path / "run")))
    assert "method: fixmatch, since there are 7 unlabelled images" in ended.stderr
    assert not (tmp_path / "run/halving").exists()


def test_the_plan_counts_the_tries(data, tmp_path, io):
    ended = good(run(io, command(data, tmp_path / "run", "--plan")))
    assert "auto: supervised, fixmatch, mean_teacher, cps, ucc are tried first" in ended.stderr
    plan = json.loads(ended.stdout)
    assert "this is the recipe of fixmatch, and the time of" in plan["why"][-2]
    assert 0 < plan["expected"]["tries_seconds"] < plan["expected"]["seconds"]
    assert "to try methods" in plan["why"][-1]


def test_where_nothing_can_be_tried(data, tmp_path, io):
    ended = good(run(io, command(data, tmp_path / "run", "--unlabelled", "none")))
    assert "auto: without unlabelled images there is nothing to choose from" in ended.stderr
    assert metrics_of(tmp_path / "run")["method"] == "supervised"


def test_of_a_cross_fitted_run_the_first_fold_decides(data, tmp_path, io):
    shutil.copytree(data, tmp_path / "data")
    for part in ("images", "masks"):
        shutil.rmtree(tmp_path / "data" / part / "val")
    out = tmp_path / "run"
    good(run(io, training(tmp_path / "data", out, "--method", "auto", "--steps", "24", "train.eval_every=0")))
    first = yaml.safe_load((out / "data.yaml").read_text())["folds"][0]
    tried = yaml.safe_load((out / "halving/1-cps/data.yaml").read_text())
    assert not set(first) & set(tried["labelled_names"]) and tried["val"] == len(first)
    assert len(metrics_of(out)["folds"]) == 3
    found = json.loads((out / "halving/halving.json").read_text())
    assert [rung["steps"] for rung in found["rungs"]] == [20], "a third of 24 steps would be the same tries again"
    assert set(found["rungs"][0]["miou"]) == set(METHODS)


@pytest.mark.slow  # the time that is given
def test_within_a_time(data, tmp_path, io):
    """The tries and the run together; the tries' steps stay what they were when an interrupted search goes on."""
    out = tmp_path / "run"
    words = [w for w in training(data, out, "--method", "auto") if not w.startswith("train.")]
    at = words.index("--steps")
    words[at : at + 2] = ["--time", "40s"]
    assert run(io, words, "step.inside:60").code == -signal.SIGKILL
    planned = json.loads((out / "halving/plan.json").read_text())
    good(run(io, words))
    found = json.loads((out / "halving/halving.json").read_text())
    assert found["rungs"][0]["steps"] == max(20, round(planned["steps"] / 8))
    assert json.loads((out / "plan.json").read_text())["time"] == 40
