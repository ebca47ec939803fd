"""Colours that stand for classes, as ``data.yaml`` spells them: ``"r,g,b"``."""

from __future__ import annotations

import re

Colour = tuple[int, int, int]

_SPELLED = re.compile(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", re.ASCII)


def parse_colour(key: object) -> Colour:
    """Return the colour that ``"r,g,b"`` spells.

    Raises:
        ValueError: it spells none.
    """
    match = _SPELLED.fullmatch(str(key))
    r, g, b = (int(c) for c in match.groups()) if match else (-1, -1, -1)
    if match is None or max(r, g, b) > 255:
        raise ValueError(f'{key!r} is no colour, must be "r,g,b" with numbers from 0 to 255')
    return r, g, b


def spelled(colour: Colour) -> str:
    """Return a colour as ``data.yaml`` spells it, quotes included."""
    return '"{},{},{}"'.format(*colour)
