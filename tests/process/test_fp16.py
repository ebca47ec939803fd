"""fp16 on a device: killed and continued it ends as it does without, its gradient scaler too."""

from __future__ import annotations

import json
import signal

import pytest
import torch

from process.helpers import STEPS, assert_same, good, outcome, run, training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
FP16 = ["--method", "fixmatch", "method.tau=0.3", "--precision", "fp16", "--devices", "1", "machine.deterministic=true"]


@pytest.mark.parametrize("more", [[], ["optim.clip=1"], ["--baseline"]], ids=["plain", "clip", "baseline"])
def test_killed_and_continued(more, data, tmp_path, io):
    good(run(io, training(data, tmp_path / "whole", *FP16, *more)))
    command = training(data, tmp_path / "killed", *FP16, *more)
    assert run(io, command, "step.end:8").code == -signal.SIGKILL
    good(run(io, command))
    assert_same(outcome(tmp_path / "killed"), outcome(tmp_path / "whole"))
    last = tmp_path / "killed" / "checkpoints" / f"step-{STEPS:08d}" / "state.json"
    scaler = json.loads(last.read_text())["state"]["scaler"]
    assert scaler["scale"] > 0 and scaler["_growth_tracker"] > 0
