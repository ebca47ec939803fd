"""Unlabelled images that cannot be read and are passed over, where ``data.on_bad_unlabelled: skip`` allows it.

The place of such an image is taken by the next one of the keyed permutation, never by one that was drawn anew. Each
decision is a line of ``RUN/quarantine.jsonl``; a continued run repeats the decisions that it finds there, even if the
file has been mended meanwhile, so that its stream is that of the unbroken run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
        self._images: set[str] = set()

    def read(self) -> frozenset[tuple[int, int, str, str]]:
        """Return the places of all decisions; a torn last line is none.

        Raises:
            DataError: another line is none.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # nothing, or a torn line, stands behind the last newline
        except FileNotFoundError:
            return frozenset()
        try:
            skips = [Skip(**json.loads(line)) for line in lines]
        except (ValueError, TypeError) as error:
            raise DataError(
                "a line is no decision of this program", where=self.path, todo="start another run with --new"
            ) from error
        self._images = {skip.image for skip in skips}
        self._known = {skip.place for skip in skips}
        return frozenset(self._known)

    def write(self, skips: Iterable[Skip]) -> None:
        """Add decisions that are not there yet (a run may go back some steps), each in one write.

        Raises:
            DataError: more of the pool cannot be read than may be passed over.
            WriteError: the disk refused.
        """
        for skip in skips:
            if skip.place in self._known:
                continue
            self._known.add(skip.place)
            line = json.dumps(asdict(skip)).encode() + b"\n"
            try:
                with open(self.path, "ab", buffering=0) as file:  # unbuffered: one write() is one system call
                    file.write(line)
            except OSError as error:
                todo = "make room and run the same command again"
                raise WriteError(f"could not write: {error.strerror}", where=self.path, todo=todo) from error
            self._images.add(skip.image)
            check_share(len(self._images), self.pool, skip.image, skip.reason, self.path)


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
            f"the last one is {last} ({reason})", where=where, todo="mend them, or take them out of the folder or list",
        )  # fmt: skip
