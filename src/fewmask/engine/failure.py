"""One rank's failure is that of all: each leaves with the error of the rank that failed first.

Without this, the others would only see that a connection broke. The rank that fails writes its error into the store at
which the processes have met, and leaves when all have read it. A thread of each rank looks there, since the rank itself
may wait in a collective, from which only the end of the other process wakes it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from fewmask import errors
from fewmask.engine.launch import leave
from fewmask.errors import FewmaskError

if TYPE_CHECKING:  # seconds to import
    from lightning_fabric import Fabric

_PAUSE = 0.25  # seconds between two looks
_PATIENCE = 10.0  # seconds that a rank which fails waits for the others to have read why
_CLASSES = {
    kind.exit_code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FewmaskError)
}


@contextmanager
def failing_together(fabric: Fabric) -> Iterator[None]:
    """Raise the first error of any rank on every rank, and close the process group at the end.

    Only a ``FewmaskError`` is told to the others. Where a process is killed, nobody knows why: the others see that a
    connection broke.

    Args:
        fabric: launched; every rank enters.

    Raises:
        FewmaskError: that of another rank, in place of whatever this one met after it.
    """
    if fabric.world_size == 1:
        try:
            yield
        finally:
            leave()
        return
    board = _Board(fabric)
    board.start()
    try:
        yield
    except Exception as error:
        first, own = board.look(), error if isinstance(error, FewmaskError) else None
        # of one kind: all have met it, or have agreed to stop, and each knows best what it has seen
        if first is not None and (own is None or own.exit_code != first.exit_code):
            raise first from error
        if first is None and own is not None:
            board.tell(own)
        raise
    finally:
        board.stop()
        leave()


class _Board(Thread):
    """Looks for the first error of another rank, and tells one."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(daemon=True, name="failure-board")
        from torch.distributed import distributed_c10d

        # torchrun's store outlives the processes that it starts again: each start has a name of its own
        start = fabric.broadcast(uuid.uuid4().hex)
        self._error, self._read = f"fewmask/{start}/error", f"fewmask/{start}/read"
        # a connection of its own: on a shared one it would wait for whatever the rank waits for
        self._store: Any = distributed_c10d._get_default_store().clone()
        self._rank, self._world = fabric.global_rank, fabric.world_size
        self._launcher = fabric.strategy.launcher
        self._over = Event()
        self._found: tuple[int, FewmaskError] | None = None

    def run(self) -> None:
        while self._found is None and not self._over.wait(_PAUSE):
            try:
                self._look()
            except RuntimeError:  # the rank that holds the store has left
                return
        if self._found is not None:
            # Fabric kills the process that has started the others within 5 s of the end of one of them
            getattr(self._launcher, "procs", []).clear()
            self._store.add(self._read, 1)

    def _look(self) -> None:
        if self._found is None and self._store.check([self._error]):
            rank, code, what, where, todo, notes = json.loads(self._store.get(self._error))
            error = _CLASSES[code](what, where=where, todo=todo)
            for note in notes:
                error.add_note(note)
            self._found = rank, error

    def look(self) -> FewmaskError | None:
        """Return the error of another rank that failed first; None = there is none."""
        try:
            self._look()
        except RuntimeError:  # the rank that holds the store has left, and it leaves when everybody knows why
            pass
        return None if self._found is None or self._found[0] == self._rank else self._found[1]

    def tell(self, error: FewmaskError) -> None:
        """Tell the others why this rank leaves, unless one was before it, and wait until they know."""
        notes = getattr(error, "__notes__", [])
        told = json.dumps([self._rank, error.exit_code, error.what, error.where, error.todo, notes])
        until = time.monotonic() + _PATIENCE
        try:
            self._store.compare_set(self._error, "", told)
            while self._store.add(self._read, 0) < self._world and time.monotonic() < until:
                time.sleep(_PAUSE / 5)
        except RuntimeError:  # the rank that holds the store has left, so the others' connections break
            return

    def stop(self) -> None:
        """End the thread, before the store may go."""
        self._over.set()
        self.join(_PATIENCE)
