"""What the experiment runner takes for finished."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from benchmarks.experiments import __main__ as runner
from benchmarks.experiments import same, source, study


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of studies and results of its own."""
    shutil.copytree(study.HERE / "data", tmp_path / "data")
    monkeypatch.setattr(study, "HERE", tmp_path)
    monkeypatch.setattr(runner, "HERE", tmp_path)
    return tmp_path


def one(name: str, arm: str = "a", lr: float = 1e-3) -> study.Experiment:
    keys = {"method.name": "fixmatch", "model.arch": "tiny", "optim.lr": lr, "train.seed": 3}
    return study.Experiment(name, arm, "camvid-dev", keys)


def test_a_result_serves_every_study_that_asks_for_it(here):
    first, alike, other = one("first"), one("second", "b"), one("second", "b", lr=3e-3)
    runner._write(first.result(), {"study": "first", "arm": "a", "curve": [1, 2]})
    assert runner.adopt(alike) and not runner.adopt(other)
    assert json.loads(alike.result().read_text()) == {"study": "second", "arm": "b", "curve": [1, 2]}
    assert json.loads(first.result().read_text())["study"] == "first"


def test_a_run_that_was_finished_meanwhile_is_not_trained_again(here, monkeypatch):
    monkeypatch.setattr(runner.subprocess, "run", lambda *a, **k: pytest.fail("trained again"))
    runner._write(one("first").result(), {"study": "first", "arm": "a"})
    assert runner.carry_out(one("second", "b")).endswith("another study has it")
    assert one("second", "b").result().is_file()


def test_a_result_of_another_source_serves_only_where_that_is_asked_for(here, monkeypatch):
    run = one("first")
    runner._write(run.result(), {"study": "first", "arm": "a"})
    assert runner.finished(run, older=False) == [run.result()]
    with monkeypatch.context() as patch:
        for module in (study, same):
            patch.setattr(module, "source_hash", lambda method: "0" * 12)
        assert runner.finished(run, older=False) == [] and not runner.adopt(run)
        assert runner.adopt(run, older=True)
        assert [p.name.split("-")[0] for p in runner.finished(run, older=True)] == [run.config_key()]


def test_an_older_source_counts_where_it_was_proved_equal(tmp_path, monkeypatch):
    """Step by step to the current hash, for the very arm; whatever the seed, the draw and the number of steps."""
    keys = {"method.name": "fixmatch", "method.tau": 0.9, "train.seed": 0, "train.steps": 100}
    now, arm = source.source_hash("fixmatch"), same.arm_key(keys, "wbc")
    monkeypatch.setattr(same, "FILE", tmp_path / "same.json")
    assert same.is_current(keys, "wbc", now) and not same.is_current(keys, "wbc", "aa")
    steps = [{"arm": arm, "older": "bb", "newer": now}, {"arm": arm, "older": "aa", "newer": "bb"}]
    same.FILE.write_text(json.dumps(steps))
    assert same.is_current(keys, "wbc", "aa") and not same.is_current(keys, "wbc", "cc")
    other = keys | {"train.seed": 2, "train.steps": 50, "data.split_seed": 3}
    assert same.is_current(other, "wbc", "aa")
    assert not same.is_current(keys | {"method.tau": 0.8}, "wbc", "aa") and not same.is_current(keys, "camvid", "aa")
    same.FILE.write_text(json.dumps([{"arm": arm, "older": now, "newer": "dd"}]))
    assert same.is_current(keys, "wbc", now) and not same.is_current(keys, "wbc", "dd")
