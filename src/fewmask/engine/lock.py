"""One writer a run folder.

The lock is the operating system's (through ``filelock``): it ends with the process that holds it, however
that dies, so a stale lock cannot exist. ``.lock.json`` beside it only tells a second process whom to name.
"""

from __future__ import annotations

import os
import socket
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from fewmask.config import load_json
from fewmask.engine.files import write_errors, write_json
from fewmask.errors import BusyError


class RunLock:
    """Context manager that holds a run folder for this process; the folder is made where it is missing.

    Under DDP only rank 0 takes it.

    Raises:
        BusyError: (on entry, at once) another process holds it; the message names pid and host.
        WriteError: (on entry) the folder cannot be made or written to.
    """

    def __init__(self, run_dir: Path | str) -> None:
        self.run_dir = Path(run_dir)
        self._owner = self.run_dir / ".lock.json"
        self._lock = FileLock(self.run_dir / ".lock", timeout=0)

    def __enter__(self) -> RunLock:
        with write_errors(self.run_dir):
            self.run_dir.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout:
                raise self._busy() from None
        try:
            started = datetime.now().astimezone().isoformat(timespec="seconds")
            write_json(self._owner, {"pid": os.getpid(), "host": socket.gethostname(), "started": started})
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._owner.unlink(missing_ok=True)  # while the lock is still ours: later it could be the next owner's
        self._lock.release()

    def _busy(self) -> BusyError:
        try:
            owner = load_json(self._owner.read_bytes())
            who = f"process {owner['pid']} on {owner['host']} (since {owner['started']})"
        except (OSError, ValueError, KeyError, TypeError):  # it is just starting or just ending
            who = "another process"
        return BusyError(
            f"{who} is writing to this run",
            where=self.run_dir,
            todo="wait for it, stop it, or use another --out",
        )
