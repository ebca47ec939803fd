"""torchrun starts the processes of a run again when one of them is lost, and they end as they would have without."""

from __future__ import annotations

import sys

import pytest

from process.helpers import VARIANTS, assert_same, outcome, popen, training

WORLD = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max_restarts", "1", "-m", "fewmask"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variant", "fault"),
    [
        ("LostCPS", "cps", "step.inside:8"), ("LostU2PL", "u2pl", "step.inside:8"),
        ("LostDARS", "dars", "select.inside:2"),
    ],
)  # fmt: skip
def test_one_rank_is_lost_once(method, variant, fault, data, tmp_path, io, monkeypatch):
    for name in ("whole", "broken"):
        words = [*VARIANTS[variant][2:], "--unlabelled-batch", "4", "machine.rank_timeout=60"]
        command = training(data, tmp_path / name, "--method", f"process.spy:{method}", *words)
        assert popen(io / name, [sys.executable, *WORLD, *command]).wait(280) == 0, (io / name / "stderr").read_text()
        monkeypatch.setenv("SPY_FAULT", fault)
    told = (io / "broken" / "stderr").read_text()
    assert "exitcode: -9" in told, "one was killed"
    assert ("continuing after step 6" in told) == (variant != "dars")
    assert told.count("report: ") == 1, "only the first process speaks"
    assert "continuing" not in (io / "whole" / "stderr").read_text()
    assert_same(outcome(tmp_path / "broken"), outcome(tmp_path / "whole"))
