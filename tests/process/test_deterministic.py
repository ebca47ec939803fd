"""Deterministic mode in real processes: what a run records of it, what it refuses, and runs that are older than it."""

from __future__ import annotations

import json
import re
import signal

import pytest

from process.helpers import VARIANTS, assert_refused, assert_same, good, metrics_of, outcome, run, training

MODE = "machine.deterministic=true"


@pytest.mark.parametrize("variant", ["u2pl", "self_training"])
def test_interrupted_and_continued(variant, data, tmp_path, io):
    """Rounds and banks; what it was is written down."""
    command = [*VARIANTS[variant], MODE]
    good(run(io, training(data, tmp_path / "whole", *command)))
    killed = training(data, tmp_path / "killed", *command)
    assert run(io, killed, "step.end:5").code == -signal.SIGKILL
    good(run(io, killed))
    assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))
    assert metrics_of(tmp_path / "killed")["deterministic"] is True
    assert json.loads((tmp_path / "killed" / "environment.json").read_text())["deterministic"] is True


def test_a_cpu_needs_no_mode(unbroken):
    assert metrics_of(unbroken("cps"))["deterministic"] is True
    assert json.loads((unbroken("cps") / "environment.json").read_text())["deterministic"] is True


def test_an_operation_that_has_no_such_form(data, tmp_path, io):
    """It is named before anything is trained, and no run is left."""
    out = tmp_path / "run"
    ended = run(io, training(data, out, "--method", "process.spy:Unsteady", MODE))
    assert_refused(ended, 2, "put_ has no deterministic form on this device", "machine.deterministic")
    assert not out.exists()
    good(run(io, training(data, out, "--method", "process.spy:Unsteady")))


def test_a_run_that_began_before_there_was_the_key(data, unbroken, tmp_path, io):
    out = tmp_path / "run"
    command = training(data, out, *VARIANTS["cps"])
    assert run(io, command, "step.begin:8").code == -signal.SIGKILL
    config = (out / "config.yaml").read_text()
    assert "\n  deterministic: false" in config
    (out / "config.yaml").write_text(config.replace("\n  deterministic: false", ""))
    record = json.loads((out / "environment.json").read_text())
    del record["deterministic"]
    (out / "environment.json").write_text(json.dumps(record))
    for state in out.glob("checkpoints/*/state.json"):
        assert '"deterministic": true' in state.read_text()
    assert_refused(run(io, [*command, MODE]), 4, "machine.deterministic: False in the run, True asked")
    ended = good(run(io, command))
    assert re.search(r"continuing after step \d", ended.stderr)
    assert_same(outcome(out), outcome(unbroken("cps")))
