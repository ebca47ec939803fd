"""What an exception in somebody's method says: with the line of that method's own file where it arose."""

from __future__ import annotations

import os
from pathlib import Path
from traceback import walk_tb

from fewmask.methods import METHODS


def told(error: Exception, method: str) -> str:
    """Return an exception as one line of text.

    Args:
        error: as it was caught.
        method: registry name or ``package.module:Class``.
    """
    if isinstance(error, AssertionError) and str(error):  # of a point: it says what is wrong
        return str(error)
    lines = (error.msg if isinstance(error, SyntaxError) else str(error)).splitlines()  # which ends with its place
    what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    place = _place(error, method)
    return f"{what} ({place})" if place else what


def _place(error: Exception, method: str) -> str:
    """Return the innermost line of the method's package, or "" where the error arose outside it."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    module = METHODS.get(method, method).partition(":")[0]
    own = module if method in METHODS else module.partition(".")[0]
    found = ""
    for frame, line in walk_tb(error.__traceback__):
        name = frame.f_globals.get("__name__", "")
        if name == own or name.startswith(f"{own}."):
            found = f"{_short(frame.f_code.co_filename)}:{line}, in {frame.f_code.co_name}"
    return found


def _short(file: str) -> str:
    path, here = Path(file), Path(os.getcwd())
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
