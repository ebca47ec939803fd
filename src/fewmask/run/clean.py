"""What finished runs do not need any more: their checkpoints, and what killed processes left."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewmask.engine.files import clean_leftovers, write_errors
from fewmask.engine.lock import RunLock
from fewmask.errors import BusyError, CheckpointError
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Say

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Spare:
    """What one finished run could do without.

    Attributes:
        run: its folder.
        folders: folders of checkpoints below it, of its seeds, rounds and baseline too.
        bytes: what they take on the disk.
    """

    run: Path
    folders: tuple[Path, ...]
    bytes: int


def find_spare(places: Sequence[Path], say: Say) -> list[Spare]:
    """Return what the finished runs in some folders could do without; nothing is removed.

    Args:
        places: run folders, or folders of them.
        say: told which runs are not finished, and why they keep theirs.

    Raises:
        CheckpointError: a place is no folder.
    """
    found = []
    for run in (run for place in places for run in _runs(place)):
        if not run.finished:
            say(f"{run.path}: not finished, keeps its checkpoints")
            continue
        folders = tuple(sorted(p for p in run.path.rglob(CHECKPOINTS) if _is_spare(p)))
        if folders:
            found.append(Spare(run.path, folders, sum(map(_size, folders))))
    return found


def remove_spare(spare: Sequence[Spare], say: Say) -> int:
    """Remove the checkpoints of finished runs, and return how many bytes that freed.

    Scores, report, pictures, the delivered model and everything else stay. ``evaluate --which last``, ``best`` and
    ``baseline`` need the checkpoints, and so does ``--init`` for more than the delivered model.

    Args:
        spare: what ``find_spare`` returned.
        say: told of runs that another process is writing to: they keep theirs.

    Raises:
        WriteError: something cannot be removed.
    """
    freed = 0
    for one in spare:
        try:
            with RunLock(one.run):
                if not RunFolder(one.run).finished:  # it was begun anew meanwhile
                    continue
                for folder in one.folders:
                    with write_errors(folder):
                        shutil.rmtree(folder)
                clean_leftovers(one.run)
        except BusyError as busy:
            say(f"{one.run}: {busy.what}, keeps its checkpoints")
            continue
        freed += one.bytes
    return freed


def _runs(place: Path) -> list[RunFolder]:
    """Return the runs of a folder: itself, or those directly or one level below it; links are not followed."""
    if not place.is_dir():
        raise CheckpointError("no such folder", where=place, todo="give run folders, or the folder that holds them")
    if RunFolder(place).started:
        return [RunFolder(place)]
    below = sorted(p for p in place.iterdir() if p.is_dir() and not p.is_symlink())
    found = [RunFolder(p) for p in below if RunFolder(p).started]
    for folder in (p for p in below if not RunFolder(p).started):
        inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
        found += [RunFolder(p) for p in inside if RunFolder(p).started]
    return found


def _is_spare(folder: Path) -> bool:
    """Return whether a folder of that name is a run's: pseudo-labels lie below the names of their images."""
    return folder.is_dir() and not folder.is_symlink() and RunFolder(folder.parent).started


def _size(folder: Path) -> int:
    return sum(os.lstat(os.path.join(base, name)).st_size for base, _, names in os.walk(folder) for name in names)
