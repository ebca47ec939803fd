"""Named places where a test can make this process die or a write fail.

``FEWMASK_FAULT=save.before_manifest:1`` sends SIGKILL to the process at the first call of
``faults.site("save.before_manifest")``; ``save.open:2:raise=ENOSPC`` raises that OSError at the second call
instead. Several faults are separated by commas. Without the variable a site costs one environment look-up.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from fewmask.errors import ConfigError, did_you_mean

VARIABLE = "FEWMASK_FAULT"

SITES = {
    "step.begin": "before the batch of a step is used",
    "step.inside": "between the losses of a step and its optimiser step",
    "step.end": "after a step, before anything is logged or saved",
    "validate.inside": "before each image of a validation pass",
    "select.inside": "before each image of a pseudo-labelling pass",
    "rank.inside": "before each image is ranked by its predictions of several networks",
    "round.labelled": "the labels of a round are complete, nothing is trained on them yet",
    "round.done": "a round has its file DONE, the next one has nothing yet",
    "save.open": "before each file of a checkpoint is opened",
    "save.mid_write": "when half of each file of a checkpoint is written",
    "save.before_fsync": "before each file of a checkpoint is fsynced",
    "save.before_manifest": "all files but the manifest are on disk",
    "save.before_rename": "the checkpoint is complete under its temporary name",
    "save.mid_replace": "an older checkpoint of the same step was moved aside, the new one has no name yet",
    "save.after_rename": "the checkpoint has its name, its folder is not fsynced",
    "save.mid_prune": "an old checkpoint has lost its name, its files are still there",
}
"""Every name that the variable may hold, and where in the program it is."""

_held = False
_calls: Counter[tuple[str, str]] = Counter()


def site(name: str) -> None:
    """Mark a named place; die or fail here if the environment asks for it.

    Args:
        name: a key of ``SITES``.

    Raises:
        OSError: the variable asks for one here.
        ConfigError: the variable cannot be understood.
    """
    spec = os.environ.get(VARIABLE)
    if spec and not _held:
        _strike(name, spec)


@contextmanager
def held() -> Iterator[None]:
    """Let no fault strike in the block, and count no call: a rehearsal is not a place of the program."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False


def _strike(name: str, spec: str) -> None:
    assert name in SITES, name
    faults = _parse(spec)
    _calls[spec, name] += 1
    if (name, _calls[spec, name]) not in faults:
        return
    code = faults[name, _calls[spec, name]]
    if code is not None:
        raise OSError(code, os.strerror(code), f"injected at {name}")
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows SIGTERM ends it as abruptly


@lru_cache
def _parse(spec: str) -> dict[tuple[str, int], int | None]:
    """Return {(site, call): errno, or None for a kill}."""
    faults: dict[tuple[str, int], int | None] = {}
    for part in spec.split(","):
        name, _, rest = part.strip().partition(":")
        count, _, action = rest.partition(":")
        if name not in SITES:
            raise ConfigError(f"unknown fault site {name!r}", where=VARIABLE, todo=did_you_mean(name, SITES))
        code = getattr(errno, action.removeprefix("raise="), None) if action.startswith("raise=") else None
        if not (count.isdecimal() and int(count) > 0) or (action and not isinstance(code, int)):
            raise ConfigError(
                f"cannot understand fault {part.strip()!r}",
                where=VARIABLE,
                todo="write site:n or site:n:raise=ENOSPC, with n counted from 1",
            )
        faults[name, int(count)] = code
    return faults
