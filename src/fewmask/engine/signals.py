"""SIGTERM, SIGINT and SIGUSR1 ask for a stop; the training loop answers at the end of its step, all else at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from fewmask.errors import Interrupted

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")  # Windows has no SIGUSR1


@contextmanager
def stoppable(doing: str) -> Iterator[None]:
    """End what takes long and has no steps to finish at the first SIGTERM or SIGUSR1: a scan, the wait for other ranks.

    Ctrl-C remains KeyboardInterrupt. Loops inside with a ``StopRequest`` of their own finish their step.

    Args:
        doing: what is ended, for the error.

    Raises:
        Interrupted: a signal came; anywhere in the block, so that its files must be written whole or not at all.
    """
    here = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != here:  # a forked process, which is to end as any other
            _end_by(number)
            return
        raise Interrupted(
            f"stopped by {signal.Signals(number).name} {doing}", where="what was finished is kept",
            todo="run the same command again to continue",
        )  # fmt: skip

    previous = _handle_with(handle, ("SIGTERM", "SIGUSR1"))
    try:
        yield
    finally:
        _put_back(previous)


Handlers = dict[signal.Signals, Any]


def _handle_with(handler: Callable[[int, FrameType | None], None], names: Sequence[str]) -> Handlers:
    """Set a handler for the signals that are known here; return those before. Outside the main thread: none."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [signal.Signals[name] for name in names if hasattr(signal, name)]
    return {number: signal.signal(number, handler) for number in numbers}


def _put_back(previous: Handlers) -> None:
    for number, handler in previous.items():
        # None stands for a handler that was not set from Python; it cannot be put back from here
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _end_by(number: int) -> None:
    """End this process as if nothing handled the signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class StopRequest:
    """Context manager whose handlers only set a flag; the previous handlers return on exit.

    A second SIGINT raises KeyboardInterrupt: stop now. Outside the main thread Python allows no handlers and
    none are set. In a forked child (a data worker) the handlers ignore SIGINT and SIGUSR1, which a terminal
    or SLURM sends to the whole group while the parent still needs its batches, and let SIGTERM end the child.

    Attributes:
        requested: a stop was asked for.
        name: the name of the first signal, "" before.
    """

    def __init__(self) -> None:
        self.requested = False
        self.name = ""
        self._interrupts = 0
        self._previous: Handlers = {}
        self._pid = os.getpid()

    def __enter__(self) -> StopRequest:
        self._pid = os.getpid()
        self._previous = _handle_with(self._handle, _NAMES)
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._previous)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            if number == signal.SIGTERM:
                _end_by(number)
            return
        if number == signal.SIGINT:
            self._interrupts += 1
        if not self.requested:
            self.name = signal.Signals(number).name
        self.requested = True
        if self._interrupts > 1:
            raise KeyboardInterrupt
