"""Loader processes that are lost, and machines that bear fewer of them than were asked for."""

from __future__ import annotations

import multiprocessing
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from fewmask.data import feed
from fewmask.data.feed import bearable_workers
from process.helpers import (
    VARIANTS,
    assert_refused,
    assert_same,
    ending,
    environment,
    good,
    outcome,
    popen,
    run,
    training,
)

LOSING = ["--method", "process.spy:Losing", "--workers", "1", "machine.loader_timeout=2"]
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("how", "what"), [("killed", "is lost ("), ("hangs", "sent nothing for 2 s")])
def test_one_is_lost(how, what, data, tmp_path, io, monkeypatch):
    """Four strong views a step: the fifth is of step 2. The same command with none of them ends the run."""
    monkeypatch.setenv("SPY_LOST", how)
    out = tmp_path / "run"
    ended = run(io, training(data, out, *LOSING))
    image = str(data / "images" / "train" / "bare")
    assert_refused(ended, 7, f"a loader process {what}", f"it was reading {image}", "for step", first=False)
    again = good(run(io, training(data, out, *LOSING, "--workers", "0")))
    assert "Traceback" not in again.stderr
    whole = tmp_path / "whole"
    good(run(io, training(data, whole, *LOSING, "--workers", "0")))
    assert_same(outcome(out), outcome(whole))


SPAWN = """
import sys
from multiprocessing import set_start_method
from fewmask.cli import run
set_start_method("spawn")
sys.exit(run(sys.argv[1:]))
"""


def test_started_as_on_macos_and_windows(data, tmp_path, io):
    """By spawn: what loader processes are given can be pickled, and the run is the same bit for bit."""
    words = ["--method", "fixmatch", "--no-baseline"]
    good(run(io, training(data, tmp_path / "here", *words, "--workers", "0")))
    command = [sys.executable, "-c", SPAWN, *map(str, training(data, tmp_path / "spawned", *words, "--workers", "1"))]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert_same(outcome(tmp_path / "here"), outcome(tmp_path / "spawned"))


def test_one_that_is_ending_is_lost():
    """Its connection breaks a moment before it can be seen to have ended: the one that ends is named, not all."""
    dataset = SimpleNamespace(streams={"l": None}, item=lambda stream, i: SimpleNamespace(image=f"{stream}{i}.png"))
    makers = feed.Feed(dataset, 2, False)  # type: ignore[arg-type]
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=time.sleep, args=(seconds,), daemon=True) for seconds in (60, 0.5)]
    for child in children:
        child.start()
    makers._table.copy_(torch.tensor([[children[0].pid, 0, 0, 3], [children[1].pid, 1, 0, 7]]))
    error = makers.explain(ConnectionResetError())
    assert "it was reading l7.png for step 2" in str(error) and "l3.png" not in str(error)
    assert [child.exitcode for child in children] == [-9, 0], "the other one is ended too"


def test_shared_memory(monkeypatch):
    """Each of 4 loader processes has three batches of 100 MB in flight; 80 % of what is free may be taken."""
    said = []
    monkeypatch.setattr(feed.Path, "is_dir", lambda self: True)
    for free, workers in ((1501, 4), (1499, 3), (100, 0)):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(0, 0, free * 10**6))
        assert bearable_workers(4, 10**8, 10, said.append) == workers
    assert len(said) == 2 and "has 1499 MB free, 4 loader processes need 1200: 3 are used" in said[0]
    assert "--shm-size" in said[0] and ": 0 are used" in said[1]


@pytest.mark.parametrize(("hard", "workers"), [(5000, 4), (496, 4), (400, 2), (100, 0)])
def test_open_files(hard, workers, monkeypatch):
    """Each of 4 loader processes has three batches of 20 tensors in flight: 240 files beside 256 others."""
    resource = pytest.importorskip("resource")
    limits, said = [(64, hard)], []
    monkeypatch.setattr(feed, "_SHARED_MEMORY", feed.Path("nowhere"))
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.append(new))
    assert bearable_workers(4, 1, 20, said.append) == workers
    assert limits[-1] == (min(hard, 496), hard), "raised as far as it is needed and may be"
    assert [f"may open {hard} files, which is enough for {workers} of 4" in s for s in said] == [True] * (workers < 4)


LIMITED = {
    "files": (
        ["sh", "-c", 'ulimit -n 300 && exec "$@"', "sh"],
        "this process may open 300 files, which is enough for 2 of 8",
    ),
    "memory": (
        ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=2m tmpfs /dev/shm && exec "$@"', "sh"],
        "/dev/shm has 2 MB free, 8 loader processes need 6: 2 are used",
    ),
}
"""Commands that start another one under a limit of the system, and what is then said."""


@pytest.mark.parametrize("kind", LIMITED)
def test_the_system_sets_the_limit(kind, data, tmp_path, io):
    """A real limit, which the run comes through with the loader processes that it bears."""
    limited, said = LIMITED[kind]
    if shutil.which(limited[0]) is None or subprocess.run([*limited, "true"], capture_output=True).returncode:
        pytest.skip(f"{limited[0]} cannot set the limit here")
    words = [*VARIANTS["supervised"], "--crop", "128", "--steps", "4"]
    command = [sys.executable, "-m", "fewmask", *training(data, tmp_path / "few", *words, "--workers", "8")]
    with ending(limits := popen(io, [*limited, *command])):
        code = limits.wait(280)
    told = (io / "stderr").read_text()
    assert code == 0 and f"WARNING: {said}" in told and "Traceback" not in told, told
    good(run(io, training(data, tmp_path / "none", *words)))
    assert_same(outcome(tmp_path / "few"), outcome(tmp_path / "none"))
