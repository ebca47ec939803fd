"""A file is read again where its disk has an error that may pass: of whoever reads images and masks, in one place."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from fewmask.errors import DataError

P = ParamSpec("P")
T = TypeVar("T")

AGAIN = (0.1, 1.0, 5.0)
"""Seconds between attempts."""
PASSING = {
    getattr(errno, name) for name in ("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "ENETDOWN", "ENETUNREACH",
    "ENETRESET", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO") if hasattr(errno, name)
}  # fmt: skip
_MOST = 20  # files in a row whose error has not passed: the disk is gone, and a scan of many would wait for hours

_lost = 0


class Lasting(Exception):  # noqa: N818
    """The cause of an error that was waited for in vain; its own cause is the disk's."""


def patient(read: Callable[P, T]) -> Callable[P, T]:
    """Make a function that reads a file try again, a few times and ever later, where the disk's error may pass.

    The error that has not passed is raised from ``Lasting``, so that whoever calls does not wait for it again.
    """

    @wraps(read)
    def patiently(*args: P.args, **kwargs: P.kwargs) -> T:
        global _lost
        waits = iter(AGAIN if _lost < _MOST else ())
        while True:
            try:
                found = read(*args, **kwargs)
            except DataError as error:
                if not _may_pass(error):
                    raise
                seconds = next(waits, None)
                if seconds is not None:
                    time.sleep(seconds)
                    continue
                _lost += 1
                lasting = Lasting("not read, however often it was tried")
                lasting.__cause__ = error.__cause__
                raise error from lasting
            _lost = 0
            return found

    return patiently


def _may_pass(error: DataError) -> bool:
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in PASSING
