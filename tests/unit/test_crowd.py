"""fewmask.engine.crowd: other programs on the cores of this one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fewmask.engine import crowd
from fewmask.engine.progress import Reporter

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """A made-up machine of two cores: seconds busy and idle of all programs, and those of this one."""

    def __init__(self, stat: Path) -> None:
        self.stat, self.now, self.busy, self.idle, self.own = stat, 0.0, 0.0, 0.0, 0.0
        self.passes(0)

    def passes(self, seconds: float, own: float = 0.0, others: float = 0.0) -> None:
        """Let time pass; each program uses so many cores."""
        self.now += seconds
        self.own += seconds * own
        self.busy += seconds * (own + others)
        self.idle += seconds * (2 - own - others)
        user, idle = round(self.busy * TICKS), round(self.idle * TICKS)
        self.stat.write_text(f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0\n")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(tmp_path / "stat")
    monkeypatch.setattr(crowd, "_STAT", found.stat)
    monkeypatch.setattr(crowd.time, "perf_counter", lambda: found.now)
    monkeypatch.setattr(crowd.time, "process_time", lambda: found.own)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return found


def test_another_program_on_a_core_is_said(machine):
    looks = crowd.Crowd(threads=2)
    machine.passes(10, own=1.0, others=1.0)
    assert looks.advice() is None, "too early"
    machine.passes(15, own=1.0, others=1.0)
    assert "other programs use 1.0 of 2 cores" in str(looks.advice())


@pytest.mark.parametrize(
    ("threads", "own", "others"),
    [(2, 1.9, 0.1), (2, 1.0, 0.5), (1, 1.0, 1.0)],
    ids=["a desktop at rest", "cores are left", "one thread"],
)
def test_who_waits_for_nobody_hears_nothing(machine, threads, own, others):
    looks = crowd.Crowd(threads=threads)
    machine.passes(60, own, others)
    assert looks.advice() is None


def test_threads_that_sleep_lose_little(machine, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    looks = crowd.Crowd(threads=2)
    machine.passes(60, own=1.0, others=1.0)
    assert looks.advice() is None


def test_where_there_is_no_such_file_nothing_is_said(machine):
    machine.stat.unlink()
    looks = crowd.Crowd(threads=2)
    machine.now += 100
    assert looks.advice() is None


def children() -> float:
    found = crowd._used()
    assert found is not None
    return found[3] - time.process_time()


def works_and_waits() -> None:
    began = time.process_time()
    while time.process_time() - began < 0.5:
        pass
    time.sleep(60)


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="no Linux")
def test_own_loader_processes_are_not_others():
    """A child that works for half a second is counted as this program's, a stranger is not."""
    words = "import time\nwhile time.process_time() < 0.5: pass"
    child = multiprocessing.get_context("spawn").Process(target=works_and_waits)
    child.start()
    try:
        deadline = time.monotonic() + 60
        last = -1.0
        while (last < 0.4 or crowd._of(child.pid, TICKS) > last) and time.monotonic() < deadline:
            last = crowd._of(child.pid, TICKS)  # until it rests
            time.sleep(0.5)
        own = [children()]
        told = subprocess.run(
            ["sh", "-c", f"{sys.executable} -c '{words}' >&2 & echo $!"], check=True, stdout=subprocess.PIPE, text=True
        )
        while Path(f"/proc/{told.stdout.strip()}").exists() and time.monotonic() < deadline:
            time.sleep(0.1)  # nobody's child of ours
        own.append(children())
        child.kill()
        child.join()
        own.append(children())
        assert own[0] > 0.4 and max(own) - min(own) < 0.25, "nor is one that has ended"
    finally:
        child.kill()
        child.join()


def test_it_is_said_once_in_a_run(machine, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with Reporter(1000, 0, said.append) as reporter:
        for step in range(1, 9):
            machine.passes(30, own=1.0, others=1.0)
            reporter.record({"step": step, "loss": 1.0, "data_wait": 0.0})
    assert len([line for line in said if "other programs" in line]) == 1
