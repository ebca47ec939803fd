"""Several processes train what one trains: the losses are those of the whole batch, whoever holds which part of it."""

from __future__ import annotations

import json
import sys

import pytest
import safetensors.torch

from process.helpers import STEPS, good, popen, run, training, two_tasks

# a plain optimiser: Adam makes a step of the learning rate out of a gradient of rounding errors
SGD = ["optim.name=sgd", "optim.lr=0.05", "optim.head_lr_mult=1", "--batch", "4", "--unlabelled-batch", "8"]
PLAIN = {
    "PlainSupervised": [], "PlainFixMatch": ["method.tau=0.3"], "PlainMeanTeacher": [], "PlainCPS": [],
    "PlainUCC": ["--batch", "8"],  # pairs of images are mixed, on each of four processes
    "PlainU2PL": ["method.lam_c=0", "method.alpha=0"],
}  # fmt: skip
"""Methods and what is statistics of a rank's batch in them: U2PL's entropy percentile and its anchors."""


def last(out):
    """Return the networks and the logged losses of a run."""
    found = safetensors.torch.load_file(out / "checkpoints" / f"step-{STEPS:08d}" / "networks.safetensors")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {k: v.float() for k, v in found.items()}, [line["loss"] for line in lines if "loss" in line]


def ranks(io, world, command):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world), "-m", "fewmask"]
    assert popen(io, [sys.executable, *start, *command]).wait(280) == 0, (io / "stderr").read_text()


def difference(one, other):
    """Return the largest difference of a tensor, relative to its largest entry."""
    return max(((one[k] - other[k]).abs().max() / one[k].abs().max().clamp(min=1e-3)).item() for k in one)


@pytest.mark.parametrize(
    ("method", "world"),
    [
        pytest.param(method, world, marks=() if (method, world) == ("PlainFixMatch", 2) else pytest.mark.slow)
        for method in PLAIN for world in (2, 4)
    ],
)  # fmt: skip
def test_the_losses_of_one_process(method, world, data, tmp_path, io):
    """Networks without BatchNorm and dropout; the ranks hold different numbers of void and padded pixels."""
    command = ["--method", f"process.spy:{method}", *SGD, *PLAIN[method]]
    good(run(io, training(data, tmp_path / "one", *command)))
    ranks(io, world, training(data, tmp_path / "ranks", *command))
    (mine, losses), (theirs, others) = last(tmp_path / "one"), last(tmp_path / "ranks")
    assert losses == pytest.approx(others, rel=1e-3) and len(set(losses)) == STEPS
    assert difference(mine, theirs) < 2e-3


def test_slurm_on_two_machines(data, tmp_path, io, monkeypatch):
    """What srun sets for two tasks on two nodes, here both this one; as torchrun's two processes on one."""
    command = ["--method", "process.spy:PlainSupervised", *SGD]
    ranks(io, 2, training(data, tmp_path / "torchrun", *command))
    tasks = two_tasks(io, training(data, tmp_path / "slurm", *command), monkeypatch)
    assert [task.wait(120) for task in tasks] == [0, 0], (io / "0" / "stderr").read_text()
    (mine, losses), (theirs, others) = last(tmp_path / "slurm"), last(tmp_path / "torchrun")
    assert losses == others and difference(mine, theirs) == 0
    assert (io / "1" / "stderr").read_text().count("precision:") == 0, "only the first process speaks"
