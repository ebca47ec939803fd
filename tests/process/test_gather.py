"""Step.gather: on one process and between two."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewmask.contract import Case
from fewmask.contract.toys import make_learner, toy_step
from hand import step


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_one_process(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.ones(shape).to(dtype)
    for now in (step(), toy_step(Case("supervised").make(), 0), make_learner(Case("supervised")).step_at(0)):
        found = now.gather(x)
        assert found.dtype == dtype and torch.equal(found, x.unsqueeze(0))


def test_two_processes(tmp_path: Path) -> None:
    """Both have the same, rank 0's first; of every dtype that methods gather, and of a scalar."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).parent / "gathering.py"
    done = subprocess.run([*command, script, tmp_path / "out"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    found, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert found == other
    assert found["features"] == ["torch.float32", [2, 1, 3, 2], [
        [[[0, 1], [2, 3], [4, 5]]], [[[100, 101], [102, 103], [104, 105]]],
    ]]  # fmt: skip
    assert found["real"] == ["torch.bool", [2, 2, 2], [[[True, False], [False, True]], [[True, True], [False, False]]]]
    assert found["counts"] == ["torch.int64", [2, 2], [[3, 2**40], [4, 2**40 + 1]]]
    assert found["one"] == ["torch.int64", [2], [7, 8]]
    turned = [[0, 3], [1, 4], [2, 5]]
    assert found["turned"] == ["torch.float32", [2, 3, 2], [turned, [[100 + v for v in row] for row in turned]]]
