"""Errors that a user can meet, each with the exit code that scripts rely on (docs/exit-codes).

The message has three parts: *what* went wrong; *where* (which file or key); *what to do*. The command line prints
them as one line, ``error: what; where; what to do``, and leaves with ``exit_code``. Broken invariants of our own are
plain ``assert``; these classes are for what the outside world did.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb


def printable(text: str) -> str:
    """Return a text whose line ends, escapes of terminals and the like are spelled out: names of files hold any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


class FewmaskError(Exception):
    """Base of every error shown to a user without a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, where: object = "", todo: str = "") -> None:
        self.what, self.where, self.todo = what, str(where), todo
        super().__init__("; ".join(part for part in (what, self.where, todo) if part))

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by keyword: errors travel from loader processes."""
        return _rebuild, (type(self), self.what, self.where, self.todo)


def _rebuild(cls: type[FewmaskError], what: str, where: str, todo: str) -> FewmaskError:
    return cls(what, where=where, todo=todo)


class ConfigError(FewmaskError, ValueError):
    """Wrong usage: an unknown flag, key, method, network or weights file (exit code 2)."""

    exit_code = 2


class DataError(FewmaskError):
    """The images, masks, lists or folders are not what they should be (exit code 3)."""

    exit_code = 3


class CheckpointError(FewmaskError):
    """A checkpoint or run folder cannot be used for what was asked (exit code 4)."""

    exit_code = 4


class NonFiniteError(FewmaskError):
    """Training produced NaN or infinity (exit code 5)."""

    exit_code = 5


class BusyError(FewmaskError):
    """Another process is writing to this run folder (exit code 6)."""

    exit_code = 6


class ResourceError(FewmaskError):
    """Out of memory, or a worker or rank was lost (exit code 7)."""

    exit_code = 7


class WriteError(FewmaskError):
    """Something could not be written to disk (exit code 74)."""

    exit_code = 74


class Interrupted(FewmaskError):
    """A signal ended the run after its state was saved (exit code 75)."""

    exit_code = 75


_SHORT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory")


def short_of_memory(error: BaseException) -> bool:
    """Return whether an error says that an allocation failed; on a CPU torch has no class of its own for it."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _SHORT_OF_MEMORY)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the third part of an unknown-name error: the nearest known name, or all of them.

    Args:
        name: what the user wrote.
        known: the names that exist.
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


def traced(error: Exception, module: str) -> str:
    """Return an exception that somebody's method raised as one line of text, with the line of its code where it arose.

    Args:
        error: as it was caught; the text of an ``AssertionError`` says already what is wrong.
        module: the method's: of ours itself, of others all of its package counts as the method's own.
    """
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    lines = (error.msg if isinstance(error, SyntaxError) else str(error)).splitlines()  # which ends with its place
    what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    place = _place(error, module)
    return f"{what} ({place})" if place else what


def _place(error: Exception, module: str) -> str:
    """Return the innermost line of the method's own code, or "" where the error arose outside it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    own = module if module.startswith("fewmask.") else module.partition(".")[0]
    found = ""
    for frame, line in walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        if name == own or name.startswith(f"{own}."):
            found = f"{_short(frame.f_code.co_filename)}:{line}, in {frame.f_code.co_name}"
    return found


def _short(file: str) -> str:
    path, here = Path(file), Path(os.getcwd())
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
