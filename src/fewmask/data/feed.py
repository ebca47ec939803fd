"""Batches of successive steps, made in this process or by loader processes, and what is said when one of these is lost.

How many loader processes there are changes no batch, so fewer of them than were asked for is a matter of speed only.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from multiprocessing import active_children
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from fewmask.batch import Items
from fewmask.data.quarantine import Skip
from fewmask.data.stream import StepDataset
from fewmask.errors import FewmaskError, ResourceError

_PREFETCH = 2  # batches that a loader process has ready
_IN_FLIGHT = _PREFETCH + 1  # and one that is being used
_SHARED_MEMORY = Path("/dev/shm")
_SPARE = 0.8  # of what is free
_SPARE_FILES = 256  # for everything but batches
_DYING = 5.0  # seconds that a process may take to end once it has been killed


class Feed:
    """Makes the batches of successive steps.

    Args:
        dataset: step to batch.
        workers: loader processes; 0 = batches are made in this process.
        pin: put batches into page-locked memory, for a GPU.
        timeout: seconds after which a loader process that sends nothing is given up; 0 = never.
        skipped: receives what was passed over, before the batch is used.
    """

    def __init__(
        self, dataset: StepDataset, workers: int, pin: bool, timeout: float = 0,
        skipped: Callable[[list[Skip]], None] = lambda skips: None,
    ) -> None:  # fmt: skip
        self.dataset, self.workers, self.pin, self.timeout, self.skipped = dataset, workers, pin, timeout, skipped
        # what each loader process is reading: its process id, step, number of the stream, position in the pool
        self._table = torch.zeros(workers, 4, dtype=torch.int64)
        if workers:
            self._table.share_memory_()
        self._start = self._next = 0

    def steps(self, start: int, stop: int) -> Generator[dict[str, Items]]:
        """Yield the batches of steps ``start`` to ``stop`` - 1.

        Raises:
            FewmaskError: as the dataset raises it, in whatever process.
            RuntimeError: a loader process is lost; see ``explain``. It may be raised anywhere in the main thread.
        """
        self._start = self._next = start
        extra: dict[str, Any] = {}
        if self.workers:
            extra = {"prefetch_factor": _PREFETCH, "timeout": self.timeout}
            extra["worker_init_fn"] = partial(_watch, self._table)
        loader = DataLoader(
            _Carried(self.dataset), batch_size=None, sampler=_Steps(start, stop), num_workers=self.workers,
            pin_memory=False, **extra,
        )  # fmt: skip
        for batch, skips in loader:
            self.skipped(skips)
            if isinstance(batch, FewmaskError):
                raise batch
            self._next += 1
            yield {name: items.map(Tensor.pin_memory) for name, items in batch.items()} if self.pin else batch

    def explain(self, error: Exception) -> ResourceError | None:
        """Return what a lost loader process was reading, if that is what torch complains of; the others are ended."""
        with _quiet_deaths():
            # its tensors are fetched from it, so a connection may break before torch sees that it has ended
            broken = isinstance(error, ConnectionError | EOFError)
            return self._explain(str(error), broken)

    def _explain(self, text: str, broken: bool) -> ResourceError | None:
        dead = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", text)
        late = "DataLoader timed out" in text
        if not self.workers or not (dead or late or broken):
            return None
        known = self._table.tolist()
        if late:  # batches come in turn
            rows = [known[(self._next - self._start) % self.workers]]
            what = f"a loader process sent nothing for {self.timeout:g} s"
        elif dead is None:
            # its ends of connections, the sentinel's too, are closed a moment before it can be seen to have ended
            children = {child.sentinel: child for child in active_children() if child.pid in {row[0] for row in known}}
            ended = wait(list(children), _DYING) if len(children) == len(known) else []
            for child in [child for sentinel, child in children.items() if sentinel in ended]:
                child.join(_DYING)
            alive = {child.pid for child in active_children()}
            rows = [row for row in known if row[0] not in alive]
            what = "a loader process is lost (its connection broke)"
        else:
            pids = {int(p) for p in dead[1].split(",")}
            rows = [row for row in known if row[0] in pids]
            what = f"a loader process is lost ({dead[2].split('.')[0].strip()})"
        for child in active_children():  # one that hangs would be waited for at the end
            if child.pid in {row[0] for row in known}:
                child.kill()
                child.join(5)
        where = "; ".join(self._told(*row[1:]) for row in rows) or "a loader process"
        todo = "see whether that file can be read; else lower --workers or machine.cache_mb: memory may be short"
        return ResourceError(what, where=where, todo=todo)

    def _told(self, step: int, stream: int, i: int) -> str:
        item = self.dataset.item(list(self.dataset.streams)[stream], i)
        return f"it was reading {item.image} for step {step + 1}"


@contextmanager
def _quiet_deaths() -> Iterator[None]:
    """Keep torch's handler of SIGCHLD from raising its error again, wherever the program is when a child ends."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def bearable_workers(wanted: int, size: int, number: int, say: Callable[[str], None], ranks: int = 1) -> int:
    """Return how many loader processes this machine bears; fewer than wanted are told.

    Args:
        wanted: loader processes of each rank.
        size: bytes of a batch; they wait in shared memory.
        number: tensors of a batch; each is an open file while it waits.
        say: receives one sentence where there are fewer.
        ranks: processes of the run on this machine, each with as many loader processes.
    """
    if not wanted:
        return 0
    workers = wanted
    if _SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(_SHARED_MEMORY).free
        workers = min(workers, int(_SPARE * free / ranks) // (_IN_FLIGHT * size))
        if workers < wanted:
            say(
                f"WARNING: {_SHARED_MEMORY} has {free / 1e6:.0f} MB free, {wanted} loader processes need "
                f"{wanted * _IN_FLIGHT * size * ranks / 1e6:.0f}: {workers} are used; make it larger "
                "(docker run --shm-size=8g)"
            )
    files = _open_files(_SPARE_FILES + wanted * _IN_FLIGHT * number)
    if (most := (files - _SPARE_FILES) // (_IN_FLIGHT * number)) < workers:
        workers = max(0, most)
        say(
            f"WARNING: this process may open {files} files, which is enough for {workers} of {wanted} loader "
            "processes; raise it (ulimit -n 65536)"
        )
    return workers


def _open_files(wanted: int) -> int:
    """Return how many files this process may open, having raised the limit as far as it is needed and may be."""
    try:
        import resource
    except ImportError:  # Windows
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    return wanted if soft == resource.RLIM_INFINITY else soft


def _watch(table: Tensor, worker: int) -> None:
    """Write into the table what this loader process reads; let the main process answer a request to stop."""
    info = get_worker_info()
    assert info is not None and isinstance(info.dataset, _Carried)
    table[worker, 0] = os.getpid()
    _outlive_terminate()

    def reading(*what: int) -> None:
        table[worker, 1:] = torch.tensor(what)

    info.dataset.inner.reading = reading


def _outlive_terminate() -> None:
    """Pass over one SIGTERM while the main process lives.

    timeout, systemd and SLURM send it to every process of a job: the main one needs its batches to finish the step
    that it saves. The second one, as from Python at its end, or one without a main process, ends this process.
    """
    parent, before = os.getppid(), count()

    def handle(number: int, frame: object) -> None:
        if next(before) or os.getppid() != parent:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)  # torch has set one of its own, which ends the process


class _Carried(Dataset[tuple[dict[str, Items] | FewmaskError, list[Skip]]]):
    """Returns what was passed over beside the batch, and our own errors, which would arrive as tracebacks if raised."""

    def __init__(self, inner: StepDataset) -> None:
        self.inner = inner

    def __getitem__(self, t: int) -> tuple[dict[str, Items] | FewmaskError, list[Skip]]:
        made: dict[str, Items] | FewmaskError
        try:
            made = self.inner[t]
        except FewmaskError as error:
            made = error
        return made, self.inner.quarantine.take() if self.inner.quarantine is not None else []


class _Steps(Sampler[int]):
    def __init__(self, start: int, stop: int) -> None:
        self._range = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._range)

    def __len__(self) -> int:
        return len(self._range)
