"""Unlabelled images that cannot be read and are passed over, where ``data.on_bad_unlabelled: skip`` allows it.

The place of such an image is taken by the next one of the keyed permutation, never by one that was drawn anew. Each
decision is a line of ``RUN/quarantine.jsonl``; a continued run repeats the decisions that it finds there, even if the
file has been mended meanwhile, so that its stream is that of the unbroken run.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path

from fewmask.config import load_json
from fewmask.errors import DataError, WriteError

_MOST = 0.001  # of the pool; one image may be passed over in any case


@dataclass(frozen=True)
class Skip:
    """One decision: image ``image`` of stream ``stream`` did not stand in slot ``slot`` of step ``step`` (from 1)."""

    step: int
    slot: int
    stream: str
    image: str
    reason: str

    @property
    def place(self) -> tuple[int, int, str, str]:
        """What it is about, without the reason."""
        return self.step, self.slot, self.stream, self.image


@dataclass
class Quarantine:
    """What one process passes over.

    Attributes:
        known: decisions of an earlier part of the run, by place.
        found: new decisions since they were last taken.
    """

    known: frozenset[tuple[int, int, str, str]] = frozenset()
    found: list[Skip] = field(default_factory=list)

    def take(self) -> list[Skip]:
        """Return the new decisions, and forget them."""
        taken, self.found = self.found, []
        return taken


class QuarantineFile:
    """``quarantine.jsonl`` of a run; every process adds lines of its own.

    Args:
        path: the file; need not exist.
        pool: number of unlabelled images.
    """

    def __init__(self, path: Path, pool: int) -> None:
        self.path, self.pool = path, pool
        self._known: set[tuple[int, int, str, str]] = set()

    def read(self) -> frozenset[tuple[int, int, str, str]]:
        """Return the places of all decisions; a torn line is none.

        Raises:
            DataError: another line is none; the run has ended for what it passed over.
        """
        skips = self._all()
        self._check(skips)
        self._known = {skip.place for skip in skips}
        return frozenset(self._known)

    def write(self, skips: Iterable[Skip]) -> None:
        """Add decisions that are not there yet (a run may go back some steps), each in one write.

        Raises:
            DataError: more of the pool cannot be read, by all processes, than may be passed over.
            WriteError: the disk refused.
        """
        new = {skip.place: skip for skip in skips if skip.place not in self._known}
        self._known |= new.keys()
        for skip in new.values():
            line = json.dumps(asdict(skip)).encode() + b"\n"
            try:
                with open(self.path, "a+b", buffering=0) as file:  # unbuffered: one write() is one system call
                    if self._is_torn(file):
                        line = b"\n" + line
                    if file.write(line) != len(line):  # a full disk takes a part of the line before it refuses
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(file.fileno())  # a checkpoint may follow, whose stream it is part of
            except OSError as error:
                todo = "make room and run the same command again"
                raise WriteError(f"could not write: {error.strerror}", where=self.path, todo=todo) from error
        if new:
            self._check(self._all())

    def _all(self) -> list[Skip]:
        """Return the decisions of every process, in the order of the file."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        try:
            # a line without its end was torn by a kill or a full disk
            skips = [Skip(**load_json(line)) for line in lines if line.endswith(b"}")]
            if not all(isinstance(n, int) for s in skips for n in (s.step, s.slot)):
                raise TypeError("a step or slot is no number")
            if not all(isinstance(text, str) for s in skips for text in (s.stream, s.image, s.reason)):
                raise TypeError("a name is no text")
        except (ValueError, TypeError) as error:
            raise DataError(
                "a line is no decision of this program", where=self.path, todo="start another run with --new"
            ) from error
        return skips

    def _check(self, skips: list[Skip]) -> None:
        if skips:
            check_share(len({skip.image for skip in skips}), self.pool, skips[-1].image, skips[-1].reason, self.path)

    @staticmethod
    def _is_torn(file: FileIO) -> bool:
        """Return whether the file's last line lacks its end."""
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def check_share(bad: int, pool: int, last: str, reason: str, where: Path) -> None:
    """End a run that passes over too many images.

    Args:
        bad: how many.
        pool: of how many.
        last: name of the last one.
        reason: why it could not be read.
        where: the file that lists them.

    Raises:
        DataError: more of the pool cannot be read than may be passed over.
    """
    if bad > max(1, _MOST * pool):
        raise DataError(
            f"{bad} of {pool} unlabelled images cannot be read, more than {_MOST:.1%}: "
            f"the last one is {last} ({reason})", where=where,
            todo="mend them, or take them out of the folder or list; then start another run with --new",
        )  # fmt: skip
