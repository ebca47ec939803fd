"""Which processes a run has: what is asked, what torchrun or SLURM have started, and where these contradict."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch

from fewmask.engine.launch import Placement, _meet_again, placement
from fewmask.errors import ConfigError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "8"}
ONE_TASK = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "train"}
SLURM = {"SLURM_NTASKS": "64", "SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "8", "SLURM_JOB_NAME": "train"}


@pytest.mark.parametrize(
    ("devices", "cuda", "env", "expected"),
    [
        ("auto", 0, {}, Placement("cpu", 1, 1)),
        ("auto", 4, {}, Placement("cuda", 4, 4)),
        ("2", 4, {}, Placement("cuda", 2, 2)),
        ("cpu", 4, {}, Placement("cpu", 1, 1)),
        ("cpu:3", 0, {}, Placement("cpu", 3, 3)),
        ("cpu", 0, TORCHRUN, Placement("cpu", 2, 8, "torchrun")),
        ("cpu:2", 0, TORCHRUN, Placement("cpu", 2, 8, "torchrun")),
        ("auto", 8, TORCHRUN, Placement("cuda", 2, 8, "torchrun")),
        ("auto", 8, SLURM, Placement("cuda", 8, 64, "SLURM")),
        (
            "auto",
            8,
            {k: v for k, v in SLURM.items() if k != "SLURM_NTASKS_PER_NODE"},
            Placement("cuda", 8, 64, "SLURM"),
        ),
        ("8", 8, SLURM, Placement("cuda", 8, 64, "SLURM")),
        ("auto", 8, ONE_TASK, Placement("cuda", 8, 8)),  # a batch script without srun
        ("auto", 8, SLURM | {"SLURM_JOB_NAME": "interactive"}, Placement("cuda", 8, 8)),
        ("auto", 2, SLURM | TORCHRUN, Placement("cuda", 2, 8, "torchrun")),
    ],
)
def test_placement(devices, cuda, env, expected, monkeypatch):
    surroundings(monkeypatch, cuda, env)
    assert placement(devices) == expected


@pytest.mark.parametrize(
    ("devices", "cuda", "env", "message"),
    [
        ("3", 2, {}, "3 CUDA devices are not here: 2 are"),
        ("1", 0, {}, "1 CUDA devices are not here: 0 are"),
        ("gpu", 2, {}, "cannot understand devices 'gpu'"),
        ("cpu:0", 0, {}, "cannot understand"),
        ("-1", 2, {}, "cannot understand"),
        ("4", 4, TORCHRUN, "torchrun has started 2 processes on this machine, not 4"),
        ("cpu:4", 0, SLURM, "SLURM has started 8 processes on this machine, not 4"),
        ("auto", 1, SLURM, "8 CUDA devices are not here: 1 are"),  # each task was given one of them
    ],
)
def test_contradictions(devices, cuda, env, message, monkeypatch):
    surroundings(monkeypatch, cuda, env)
    with pytest.raises(ConfigError, match=message) as error:
        placement(devices)
    assert error.value.where == "--devices" and error.value.todo


def surroundings(monkeypatch, cuda, env):
    for key in (*TORCHRUN, *SLURM):
        monkeypatch.delenv(key, raising=False)
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)


AGAIN = TORCHRUN | {
    "WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True",
    "MASTER_ADDR": "localhost", "MASTER_PORT": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("other", "joined"),
    [
        ({}, ["start-1"]), ({"TORCHELASTIC_RESTART_COUNT": "3"}, ["start-3"]),
        ({"TORCHELASTIC_RESTART_COUNT": "0"}, []),
        ({"WORLD_SIZE": "4"}, []),  # two machines: their numbers may differ
        ({"TORCHELASTIC_USE_AGENT_STORE": "False"}, []),  # the store is a new one
    ],
)  # fmt: skip
def test_processes_that_are_started_again_do_not_meet_the_old_ones(other, joined, monkeypatch):
    surroundings(monkeypatch, 0, AGAIN | other)
    found = []
    monkeypatch.setattr(torch.distributed, "TCPStore", lambda *given: given)
    monkeypatch.setattr(torch.distributed, "PrefixStore", lambda prefix, store: (prefix, store))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **given: found.append(given))
    _meet_again(placement("cpu"), "gloo", timedelta(seconds=9))
    assert [given["store"][0] for given in found] == joined
    assert all((given["rank"], given["world_size"], given["timeout"].seconds) == (1, 2, 9) for given in found)
