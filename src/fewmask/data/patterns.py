"""Patterns of users, matched within a time.

Some regular expressions, such as ``(a+)+$``, take longer than anybody waits, and ``re`` cannot be stopped from a
thread. No look at a pattern tells all of them: ``(.*a){12}`` or twelve stars of a glob nest nothing. So a process of
its own does the matching, and is ended when its time is over; it costs some hundredths of a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from fewmask.errors import ConfigError

_SECONDS = 10.0  # for the first names; a plain pattern takes a microsecond a name
_RATE = 50_000  # more names a second, to be sent, matched and sent back on a slow machine

_CHILD = """
import json, re, sys
how, pattern, flags, names = json.load(sys.stdin)
match = getattr(re.compile(pattern, flags), how)
found = (match(name) for name in names)
json.dump([hit and [hit[0], *hit.groups()] for hit in found], sys.stdout)
"""

Hit = list[str | None]
"""What a pattern has matched, and each of its groups."""


def matched(
    how: str, pattern: str, flags: int, names: Sequence[str], *, told: str, where: object = ""
) -> list[Hit | None]:  # fmt: skip
    """Return what a regular expression matches in each name; None where it does not.

    Args:
        how: "search" or "fullmatch".
        pattern: one that compiles.
        flags: of ``re``.
        names: what it is matched against.
        told: what the user wrote, for the error.
        where: in which file.

    Raises:
        ConfigError: it takes too long.
    """
    if not names:
        return []
    seconds = _SECONDS + len(names) / _RATE
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD], input=json.dumps([how, pattern, flags, list(names)]),
            capture_output=True, text=True, timeout=seconds, check=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"{told} takes more than {seconds:.0f} s to be matched with {len(names)} names", where=where,
            todo="write it with fewer repetitions: none inside another, as in (a+)+, and not many wildcards in a row",
        ) from error  # fmt: skip
    return json.loads(done.stdout)
