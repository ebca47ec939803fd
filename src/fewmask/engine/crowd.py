"""Whether other programs use the cores on which this one's threads wait for each other.

The threads of one operation meet at its end, and wait there busily. Where another program holds a core, each meeting
lasts until the scheduler has run the last of them: a step on two cores took 4 times as long beside one other program,
and 34 times beside two; where threads sleep while they wait, 1.6 and 2.5 times (docs/platforms.md).
"""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

_STAT = Path("/proc/stat")
_LOOK = 20.0  # seconds between two looks
_OTHERS = 0.3  # cores: a desktop at rest uses less
_IDLE = 0.1  # of the machine: where more is left, nobody waits


class Crowd:
    """Looks now and then at how busy the machine is, and who it is.

    Args:
        threads: of this process; None = torch's. With one thread, with threads that
            sleep while they wait, beside a GPU or other ranks nothing is looked at.
    """

    def __init__(self, threads: int | None = None) -> None:
        import torch  # who trains has it; a bar of other commands does not wait for it

        self._threads = torch.get_num_threads() if threads is None else threads
        apart = torch.cuda.is_available() or torch.distributed.is_initialized()
        apart |= os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"
        self._before = _used() if self._threads > 1 and not apart else None

    def advice(self) -> str | None:
        """Return what to say if other programs have used the cores since the last look; None elsewhere."""
        if self._before is None or time.perf_counter() - self._before[0] < _LOOK:
            return None
        now = _used()
        if now is None:
            return None
        seconds, busy, idle, own = (b - a for a, b in zip(self._before, now, strict=True))
        self._before = now
        others = (busy - own) / seconds
        if others < _OTHERS or idle > _IDLE * (busy + idle):
            return None
        cores = (busy + idle) / seconds
        return (
            f"other programs use {others:.1f} of {cores:.0f} cores, and threads that wait for each other lose more "
            "than that: end them, or stop this and repeat its command after `export OMP_WAIT_POLICY=passive`"
        )


def _used() -> tuple[float, float, float, float] | None:
    """Return the time, and the seconds that all cores were busy and idle and that this program used; None elsewhere."""
    try:
        words = _STAT.read_text().splitlines()[0].split()
        ticks = os.sysconf("SC_CLK_TCK")
        user, nice, system, idle, waiting, *more = (int(word) / ticks for word in words[1:])
        children = multiprocessing.active_children()  # collects those that have ended
        ended = os.times()
        own = time.process_time() + ended.children_user + ended.children_system
        own += sum(_of(child.pid, ticks) for child in children)
    except (OSError, ValueError, AttributeError, IndexError):  # no Linux
        return None
    return time.perf_counter(), user + nice + system + sum(more[:2]), idle + waiting, own  # not what a host has stolen


def _of(pid: int | None, ticks: int) -> float:
    """Return the seconds that a process has used; 0 for one that has ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(told[11]) + int(told[12])) / ticks
