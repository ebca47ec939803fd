"""NaN and infinity in a loss, a gradient or an image: the step is left out; too many of them end the run."""

from __future__ import annotations

import json
import signal

import pytest
import safetensors.torch
import torch

from fewmask.cli import run as in_this_process
from fewmask.engine.learner import Learner
from process.helpers import STEPS, assert_refused, assert_same, good, metrics_of, outcome, run, training

DIVERGING = ["--method", "process.spy:Diverging", "train.log_every=5"]


@pytest.fixture
def without(data, tmp_path, monkeypatch):
    """Train Mean Teacher with steps that do nothing, and return its networks after the last one."""

    def networks(*steps):
        update = Learner.update

        def maybe(self, batch, t):
            return ({"sup": torch.zeros(())}, {}) if t + 1 in steps else update(self, batch, t)

        out, threads = tmp_path / "without", torch.get_num_threads()
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "update", maybe)
            torch.set_num_threads(1)  # as in the other process
            assert in_this_process(training(data, out, "--method", "mean_teacher")) == 0
        torch.set_num_threads(threads)
        return checkpoint(out)

    return networks


def checkpoint(out, step=STEPS):
    return safetensors.torch.load_file(out / "checkpoints" / f"step-{step:08d}" / "networks.safetensors")


@pytest.mark.parametrize(
    ("steps", "back"),
    [
        ({1: "images"}, [(3, 0)]),  # noticed by the first save: there is nothing to go back to but the start
        ({5: "loss"}, [(5, 4)]),  # by the log; step 4 was saved as the best so far
        ({7: "gradient"}, [(8, 6)]),
        ({4: "images", 8: "gradient", 12: "loss"}, [(4, 3), (8, 6), (12, 9)]),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_steps_are_left_out(steps, back, data, tmp_path, io, without, monkeypatch):
    """Everything that a step touches is as before it: weights, moments, normalisation statistics, the teacher."""
    monkeypatch.setenv("SPY_STEPS", ",".join(f"{step}={kind}" for step, kind in steps.items()))
    out = tmp_path / "run"
    ended = good(run(io, training(data, out, *DIVERGING)))
    for step, kind in steps.items():
        what = "a gradient" if kind == "gradient" else "the loss"
        assert f"WARNING: step {step} is left out: {what} is NaN or infinite there" in ended.stderr
    assert "; l: train/0" in ended.stderr and ", u: train/bare" in ended.stderr, "the images of the step"
    for noticed, saved in back:
        assert f"NaN or infinite by step {noticed}; back to step {saved}, to find" in ended.stderr
    mine, expected = checkpoint(out), without(*steps)
    assert mine.keys() == expected.keys() and all(torch.equal(mine[k], expected[k]) for k in mine)
    state = json.loads((out / "checkpoints" / f"step-{STEPS:08d}" / "state.json").read_text())["state"]
    assert state["skipped"] == list(steps) == metrics_of(out)["skipped"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "skipped" in line] == list(steps)
    assert not (out / "debug").exists()


def test_too_many_end_the_run(data, tmp_path, io, monkeypatch):
    monkeypatch.setenv("SPY_STEPS", "2=loss,5=images,7=loss,9=gradient")
    out = tmp_path / "run"
    ended = run(io, training(data, out, *DIVERGING))
    folder = out / "debug" / "step-00000009"
    assert_refused(ended, 5, "NaN or infinite at 4 steps, the last one step 9", str(folder), "optim.lr", first=False)
    assert not (out / "metrics.json").exists() and not (out / "model").exists()
    for file in (out / "checkpoints").rglob("*.safetensors"):
        assert all(x.isfinite().all() for x in safetensors.torch.load_file(file).values() if x.is_floating_point())

    report = json.loads((folder / "report.json").read_text())
    assert report["step"] == 9 and report["skipped"] == [2, 5, 7, 9] and report["terms"].keys() == {"sup", "con"}
    assert len(report["images"]["l"]) == 2 and report["not_finite"]
    batch = safetensors.torch.load_file(folder / "batch.safetensors")
    assert batch["l.view0.weak"].shape == (2, 3, 12, 12) and batch["l.view0.weak"].dtype == torch.uint8
    assert all(x.isfinite().all() for x in safetensors.torch.load_file(folder / "networks.safetensors").values())

    again = run(io, training(data, out, *DIVERGING))  # nothing has changed
    assert again.code == 5


def test_killed_on_the_way_back(data, tmp_path, io, monkeypatch):
    """What was left out is state: a run that is killed after it, or while it looks for it, ends in the same tensors."""
    monkeypatch.setenv("SPY_STEPS", "5=images,8=loss")
    whole = tmp_path / "whole"
    good(run(io, training(data, whole, *DIVERGING)))
    for kill in ("step.end:6", "step.end:9", "step.end:14"):
        out = tmp_path / kill.replace(":", "-")
        command = training(data, out, *DIVERGING)
        assert run(io, command, kill).code == -signal.SIGKILL
        good(run(io, command))
        assert_same(outcome(out), outcome(whole))
