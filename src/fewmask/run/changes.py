"""Files that somebody changes while a command trains on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fewmask.data.index import Item
from fewmask.run.notes import Say


@contextmanager
def told_of_changes(items: Iterable[Item], say: Say) -> Iterator[None]:
    """Warn at the end of the block of images and masks that were written to in it, by size and time of change.

    One that is damaged, or does not fit any more, ends a run where it is read. This is for those that can be read: the
    networks then have learned from both states, and the same command would not give them again.

    Args:
        items: those whose files count; files on other machines do not.
        say: receives one sentence where there are any.
    """
    files = {file for item in items for file in (item.image, item.mask) if isinstance(file, Path)}
    before = {file: _stamp(file) for file in files}
    try:
        yield
    finally:
        changed = sorted(str(file) for file, stamp in before.items() if _stamp(file) != stamp)
        if changed:
            say(
                f"WARNING: {len(changed)} files of the data were changed while the command ran, such as {changed[0]}: "
                "what was trained on is a mixture of both states; train again, with --new or another --out"
            )


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
