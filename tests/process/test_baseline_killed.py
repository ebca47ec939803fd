"""A training and its baseline, killed or asked to stop in either, and continued."""

from __future__ import annotations

import os
import signal
import time

import pytest

import fewmask
from fewmask.recipe import read_recipe
from fewmask.run import training as training_module
from fewmask.run.execute import execute
from process.helpers import FIXMATCH, assert_same, good, metrics_of, outcome, run, start, training


def test_killed_in_both_trainings(compared, data, tmp_path, io):
    """In a step and in the scoring of the baseline, and in a step of the method; other configurations between them."""
    out = tmp_path / "runs" / "run"
    command = training(data, out, *FIXMATCH, "--baseline")
    finished = [out / "baseline" / "metrics.json", out / "metrics.json"]

    def state() -> tuple[bool, ...]:
        return tuple(path.exists() for path in finished)

    def kill(fault: str) -> None:
        ended = run(io, command, fault)
        assert ended.code == -signal.SIGKILL, f"{fault} did not strike: {ended.stderr}"

    kill("step.inside:5")
    assert (out / "baseline/checkpoints/step-00000003").is_dir() and state() == (False, False)
    (out / "baseline" / ".tmp-1-0123abcd").write_text("half a file")
    kill("validate.inside:10")  # nine images of three validations, then the first one of test
    assert (out / "baseline/checkpoints/step-00000012").is_dir() and state() == (False, False)
    assert not (out / "checkpoints").exists()
    kill("step.inside:8")  # the baseline has no step left
    assert (out / "checkpoints/step-00000006").is_dir() and state() == (True, False)

    for other, key in ((["optim.lr=0.5"], "optim.lr"), (["--no-baseline"], "baseline"), (["--seeds", "2"], "seeds")):
        words = [w for w in command if w != "--baseline"] if "--no-baseline" in other else command
        ended = run(io, [*words, *other])
        assert ended.code == 4 and f"{key}: " in ended.error and "another configuration" in ended.error, ended.stderr
    assert state() == (True, False)

    ended = good(run(io, command))
    assert "continuing after step 6" in ended.stderr
    assert_same(outcome(out), outcome(compared))
    assert_same(outcome(out / "baseline"), outcome(compared / "baseline"))
    assert not [p for p in out.rglob(".*") if p.name != ".lock"], "leftovers of the killed processes"
    ended = run(io, [*command, "optim.lr=0.5"])
    assert ended.code == 4 and "optim.lr" in ended.error, "finished, and of another configuration"


def test_asked_to_stop_in_the_baseline(data, tmp_path, io):
    out = tmp_path / "run"
    command = training(data, out, *FIXMATCH, "--baseline", "--steps", "150", "train.eval_every=0")
    running = start(io, command)
    log = out / "baseline" / "metrics.jsonl"
    while not (log.exists() and log.stat().st_size) and running.process.is_alive():
        time.sleep(0.002)
    running.kill(signal.SIGTERM)
    ended = running.wait()
    assert ended.code == 75 and "stopped by SIGTERM after step" in ended.error, ended.stderr
    assert list((out / "baseline/checkpoints").glob("step-*")) and not (out / "baseline/metrics.json").exists()
    assert "continuing after step" in good(run(io, command)).stderr
    assert metrics_of(out)["steps"] == 150 == metrics_of(out / "baseline")["steps"]


def test_asked_to_stop_while_the_baseline_is_scored(data, tmp_path, monkeypatch):
    """The next training does not begin; the signal is not forgotten."""
    finish = training_module.finish

    def signalled(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(*arguments)

    keys = read_recipe(None, {
        "data.dir": str(data), "method": "fixmatch", "model.arch": "tiny", "model.weights": "none", "data.crop": 12,
        "data.batch": 2, "data.unlabelled_batch": 2, "train.steps": 3, "machine.precision": "fp32",
        "machine.devices": "cpu", "machine.workers": 0,
    })  # fmt: skip
    monkeypatch.setattr(training_module, "finish", signalled)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(fewmask.FewmaskError, match="stopped by SIGTERM after training 1 of 2") as stopped:
        execute(keys, tmp_path / "run", say=lambda _: None)
    assert stopped.value.exit_code == 75 and signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "run/baseline/metrics.json").exists() and not (tmp_path / "run/checkpoints").exists()
    # in the last training nothing is left to be put off: the run is finished
    assert execute(keys, tmp_path / "run", say=lambda _: None).metrics["gain"] is not None
