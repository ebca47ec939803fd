"""One writer a run folder: real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from fewmask.engine.lock import RunLock
from fewmask.errors import BusyError, WriteError

_ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

_HOLD = """
import sys
from fewmask.engine.lock import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""

_HOLD_WITH_CHILD = """
import os, sys, time
from fewmask.engine.lock import RunLock
with RunLock(sys.argv[1]):
    if os.fork() == 0:  # as a data worker is
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    sys.stdin.read()
"""

_RACE = """
import sys
from fewmask.engine.lock import RunLock
from fewmask.errors import BusyError
print("ready", flush=True)
sys.stdin.readline()
try:
    with RunLock(sys.argv[1]):
        print("won", flush=True)
        sys.stdin.readline()
except BusyError as error:
    print("busy", flush=True)
    sys.exit(error.exit_code)
"""


@contextmanager
def _process(code, run):
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(run)], env=_ENV, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_second_process_is_refused_at_once_and_told_who_holds_it(tmp_path):
    run = tmp_path / "runs" / "one"
    with _process(_HOLD, run) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError) as caught, RunLock(run):
            pass
        assert caught.value.exit_code == 6
        assert f"process {holder.pid} on {socket.gethostname()}" in caught.value.what
        assert caught.value.where == str(run)
        holder.communicate("")  # it leaves in order
    assert not (run / ".lock.json").exists()
    with RunLock(run):
        assert json.loads((run / ".lock.json").read_text())["pid"] == os.getpid()


def test_lock_of_a_killed_process_is_taken_over(tmp_path):
    with _process(_HOLD, tmp_path) as holder:
        holder.stdout.readline()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert (tmp_path / ".lock.json").exists(), "the stale note is there"
        with RunLock(tmp_path):
            assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_surviving_children_of_a_killed_process_do_not_hold_the_lock(tmp_path):
    with _process(_HOLD_WITH_CHILD, tmp_path) as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(BusyError), RunLock(tmp_path):
                pass
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            os.kill(child, 0)  # it is still there
            with RunLock(tmp_path):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_exactly_one_of_two_simultaneous_starts_wins(tmp_path):
    with _process(_RACE, tmp_path) as a, _process(_RACE, tmp_path) as b:
        for process in (a, b):
            assert process.stdout.readline() == "ready\n"
        for process in (a, b):
            process.stdin.write("go\n")
            process.stdin.flush()
        assert sorted(p.stdout.readline() for p in (a, b)) == ["busy\n", "won\n"]


def test_same_process_is_refused_too_and_the_lock_ends_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="training failed"), RunLock(tmp_path):
        with pytest.raises(BusyError), RunLock(tmp_path):
            pass
        raise RuntimeError("training failed")
    with RunLock(tmp_path):
        pass


def test_unreadable_note_gives_a_shorter_message(tmp_path):
    with RunLock(tmp_path):
        (tmp_path / ".lock.json").write_text("{")
        with pytest.raises(BusyError, match="another process"), RunLock(tmp_path):
            pass


def test_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError) as caught, RunLock(tmp_path / "file" / "run"):
        pass
    assert caught.value.exit_code == 74
