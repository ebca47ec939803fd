"""Numbers as people read them. None is "not measured", never 0."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewmask.report.record import is_number

UNMEASURED = "not measured"
MINUS = "−"


def number(value: Any, digits: int = 1) -> str:
    """Return a score with a fixed number of digits."""
    return f"{value:.{digits}f}".replace("-", MINUS) if is_number(value) else UNMEASURED


def signed(value: Any, digits: int = 1) -> str:
    """Return a difference with its sign; what rounds to zero has none."""
    if not is_number(value):
        return UNMEASURED
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def count(value: Any) -> str:
    """Return a whole number with separated thousands."""
    return f"{value:,.0f}".replace("-", MINUS) if is_number(value) else UNMEASURED


def percent(share: Any) -> str:
    """Return a share of 0..1 in percent, with more digits where it is small."""
    if not is_number(share):
        return UNMEASURED
    value = 100 * share
    return "0 %" if value == 0 else f"{value:.0f} %" if value >= 10 else f"{value:.1f} %" if value >= 0.1 else "< 0.1 %"


def span(interval: Any, digits: int = 1, sign: bool = False) -> str:
    """Return "low to high" of {"low", "high"}, or nothing where either is missing."""
    if not isinstance(interval, Mapping):
        return ""
    low, high = interval.get("low"), interval.get("high")
    show = signed if sign else number
    return f"{show(low, digits)} to {show(high, digits)}" if is_number(low) and is_number(high) else ""


def plural(n: int, one: str, many: str = "") -> str:
    """Return "1 image", "2 images"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listing(words: Iterable[str], limit: int = 12) -> str:
    """Return "a, b and c", with "and 5 more" where there are many."""
    words = list(words)
    if len(words) > limit:
        return f"{', '.join(words[:limit])} and {len(words) - limit} more"
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1] if words else "") if part)


def duration(seconds: Any) -> str:
    """Return a time in the unit that fits it."""
    if not is_number(seconds):
        return UNMEASURED
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def command(words: Sequence[Any]) -> str:
    """Return a command line that can be pasted into a shell."""
    return shlex.join(str(word) for word in words)


def shortened(value: Any, limit: int = 60) -> str:
    """Return text as ``clean`` does, its middle left out where it is long."""
    text = clean(value)
    return text if len(text) <= limit else f"{text[: limit // 2 - 1]}…{text[-limit // 2 :]}"


def clean(value: Any) -> str:
    """Return text without control characters: names come from files, and terminals obey what they hold."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(value))
