"""Signals ask for a stop and change nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from fewmask.engine.signals import StopRequest, stoppable
from fewmask.errors import Interrupted

ALL = [s for s in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, s)]
_ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.mark.parametrize("name", ALL)
def test_a_signal_sets_the_flag(name):
    before = {s: signal.getsignal(getattr(signal, s)) for s in ALL}
    with StopRequest() as stop:
        assert not stop.requested and stop.name == ""
        signal.raise_signal(getattr(signal, name))
        assert stop.requested and stop.name == name
        signal.raise_signal(signal.SIGTERM)
        assert stop.name == name, "the first one is kept"
    assert {s: signal.getsignal(getattr(signal, s)) for s in ALL} == before
    assert stop.requested, "the flag stays readable after the block"


def test_second_interrupt_is_now():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGTERM"
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")
    assert signal.getsignal(signal.SIGINT) is before


def test_handlers_return_after_an_error():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RuntimeError), StopRequest():
        raise RuntimeError
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_leave_the_handlers_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body():
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGTERM) is before, stop.requested))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


_LOOP = """
import sys, time
from fewmask.engine.signals import StopRequest, stoppable
from fewmask.errors import Interrupted
steps = 0
with StopRequest() as stop:
    print("running", flush=True)
    while not stop.requested:
        time.sleep(0.005)
        steps += 1
print("saved after", stop.name, flush=True)
sys.exit(75)
"""


@pytest.mark.parametrize("name", ALL)
def test_a_real_process_finishes_its_step(name):
    with subprocess.Popen([sys.executable, "-c", _LOOP], env=_ENV, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "running\n"
        process.send_signal(getattr(signal, name))
        assert process.stdout.readline() == f"saved after {name}\n"
        assert process.wait(30) == 75


_CHILD = """
import os, signal, sys, time
from fewmask.engine.signals import StopRequest, stoppable
from fewmask.errors import Interrupted
with StopRequest() as stop:
    child = os.fork()
    if child == 0:  # a data worker
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGUSR1)
        os.write(1, b"alive ")
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status) == signal.SIGTERM, stop.requested)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_workers_live_through_interrupts_and_end_on_terminate():
    done = subprocess.run([sys.executable, "-c", _CHILD], env=_ENV, text=True, capture_output=True, timeout=30)
    assert done.stdout == "alive True False\n", done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_what_has_no_steps_ends_at_once(name):
    before = signal.getsignal(getattr(signal, name))
    with pytest.raises(Interrupted, match=f"stopped by {name} while it scans; what was finished is kept; run the same"):
        with stoppable("while it scans"):
            signal.raise_signal(getattr(signal, name))
            raise AssertionError("not reached")
    assert signal.getsignal(getattr(signal, name)) is before


def test_a_loop_inside_finishes_its_step():
    with stoppable("elsewhere"):
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGTERM)
