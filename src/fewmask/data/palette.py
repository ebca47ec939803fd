"""The colours that masks are shown in, and that tools give to classes without colours."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def palette() -> np.ndarray:
    """Return the PASCAL VOC colour map, uint8 [256, 3], read-only.

    The bits of an id, spread over the channels from the top.
    """
    colours = np.zeros((256, 3), np.uint8)
    for index in range(256):
        bits = index
        for shift in range(7, -1, -1):
            for channel in range(3):
                colours[index, channel] |= ((bits >> channel) & 1) << shift
            bits >>= 3
    colours.flags.writeable = False
    return colours
