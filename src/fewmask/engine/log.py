"""The metrics of a run: one JSON object a line in ``metrics.jsonl``, and TensorBoard where it is installed.

A line is one write to the file. A checkpoint holds the length of the file; on resume the file is cut to that
length, so that a torn line disappears and no step appears twice.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fewmask.config import load_json
from fewmask.engine.files import json_text, write_errors
from fewmask.errors import CheckpointError, ConfigError


class MetricsLog:
    """A JSONL file that one process adds lines to; a context manager.

    Args:
        path: the file; made where it is missing, continued where it exists.

    Raises:
        WriteError: the file cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        with write_errors(self.path):
            self._file = open(self.path, "ab", buffering=0)  # unbuffered: one write() is one system call
            self._offset = os.fstat(self._file.fileno()).st_size

    @property
    def offset(self) -> int:
        """Bytes of the file up to the end of the last line written here."""
        return self._offset

    def write(self, record: Mapping[str, Any]) -> None:
        """Add one line. NaN and infinities become null.

        Raises:
            WriteError: the disk refused; no part of the line remains.
            TypeError: the record holds something that JSON has no word for, such as a tensor.
        """
        line = json_text(record).encode() + b"\n"
        with write_errors(self.path):
            try:
                written = self._file.write(line)
                if written != len(line):  # a full disk takes a part of the line before it refuses
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self._file.truncate(self._offset)
                raise
        self._offset += len(line)

    def sync(self) -> int:
        """Make every line durable and return ``offset``, for a checkpoint that is about to be written.

        Raises:
            WriteError: the disk refused.
        """
        with write_errors(self.path):
            os.fsync(self._file.fileno())
        return self._offset

    def truncate(self, offset: int, warn: Callable[[str], None]) -> None:
        """Cut the file to the ``offset`` bytes that a checkpoint knows of; 0 for a run that starts.

        The log is no state of the training, so a file that is shorter than that, or was changed, does not
        stop the run: it is cut after its last whole line and ``warn`` is told.

        Raises:
            WriteError: the disk refused.
        """
        with write_errors(self.path):
            known = self.path.read_bytes()[:offset]
            whole = known.rfind(b"\n") + 1
            self._file.truncate(whole)
            os.fsync(self._file.fileno())
        self._offset = whole
        if whole != offset:
            warn(f"{self.path} was changed since the checkpoint: rows in bytes {whole} to {offset} are lost")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_jsonl(path: Path | str) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file, in order; a torn last line is left out.

    Raises:
        CheckpointError: the file is missing, or another line is no JSON object.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot read the log: {error.strerror}", where=path) from error
    records = []
    for number, line in enumerate(lines, start=1):
        if not line and number == len(lines):
            break
        try:
            record = load_json(line)
            if not isinstance(record, dict):
                raise ValueError
        except ValueError as error:
            if number == len(lines):  # no newline after it: the process died while it wrote
                break
            raise CheckpointError(f"line {number} of the log is no JSON object", where=path) from error
        records.append(record)
    return records


def tensorboard_available() -> bool:
    """Tell whether the package ``tensorboard`` is installed."""
    return find_spec("tensorboard") is not None


class TensorBoardLog:
    """The numbers of the log records as TensorBoard scalars; nested objects give ``outer/inner``.

    Args:
        folder: where the event files go.
        first_step: the first step that is logged here. An earlier process's events from it on are hidden.

    Raises:
        ConfigError: the package ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path | str, first_step: int = 0) -> None:
        if not tensorboard_available():
            raise ConfigError(
                "TensorBoard is not installed", where=folder, todo='run: pip install "fewmask[tensorboard]"'
            )
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, record: Mapping[str, Any]) -> None:
        """Add the finite numbers of a record under its ``step``; text, null and NaN are left out."""
        for name, value in _numbers(record):
            if name != "step":
                self._writer.add_scalar(name, value, global_step=record["step"])

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


def _numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and abs(value) < float("inf"):  # false for NaN too
            yield f"{prefix}{key}", float(value)
