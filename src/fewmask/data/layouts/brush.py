"""Label Studio's run lengths of brush masks: a stream of bits that packs the RGBA values of an image, row by row.

32 bits: how many values; 5: bits of a value, less 1; 4 times 4: bits of a length, less 1, of each of four kinds. Then
packets: 1 bit: whether one value is repeated; 2 bits: the kind of its length; the length, less 1; the value, or so many
values. The mask is where the fourth channel is not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_CHANNELS = 4
_LENGTHS = (3, 4, 8, 16)
_VALUE = 8


@dataclass(frozen=True)
class Brush:
    """A brush mask that is not decoded yet.

    Attributes:
        stream: see the module.
        height, width: of the image.
    """

    stream: bytes
    height: int
    width: int

    def pixels(self) -> np.ndarray:
        """Return the mask, bool [H, W]; see ``decode_brush``."""
        return decode_brush(self.stream, self.height, self.width)


def decode_brush(stream: bytes, height: int, width: int) -> np.ndarray:
    """Return a brush mask, bool [H, W].

    Args:
        stream: the numbers of ``rle``, 0..255 each.
        height: of the image, as the annotation says.
        width: likewise.

    Raises:
        ValueError: it is no such stream, or of another size.
    """
    bits = _Bits(stream)
    size = _CHANNELS * height * width
    if (number := bits.take(32)) != size:
        raise ValueError(f"{number} values in an image of {width}x{height}")
    word = bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in range(4)]
    out = np.empty(size, dtype=bool)
    place = 0
    while place < size:
        repeated = bits.take(1)
        end = place + 1 + bits.take(lengths[bits.take(2)])
        if end > size:
            raise ValueError("run lengths that lead out of the image")
        out[place:end] = bits.take(word) != 0 if repeated else bits.words(end - place, word)
        place = end
    return out.reshape(height, width, _CHANNELS)[..., 3]


def encode_brush(mask_HW: np.ndarray) -> list[int]:
    """Return the stream of a bool mask [H, W], as Label Studio stores it: numbers 0..255."""
    flat = np.repeat(np.asarray(mask_HW, dtype=bool).ravel(), _CHANNELS)
    values, sizes = [flat.size, _VALUE - 1, *(n - 1 for n in _LENGTHS)], [32, 5, 4, 4, 4, 4]
    edges = np.flatnonzero(np.diff(flat)) + 1
    most = 2 ** _LENGTHS[-1]
    for start, end in zip([0, *edges.tolist()], [*edges.tolist(), flat.size], strict=True):
        for first in range(start, end, most):
            length = min(most, end - first) - 1
            kind = next(k for k, n in enumerate(_LENGTHS) if length < 2**n)
            values += [1, kind, length, 255 if flat[start] else 0]
            sizes += [1, 2, _LENGTHS[kind], _VALUE]
    bits = "".join(f"{value:0{size}b}" for value, size in zip(values, sizes, strict=True))
    return np.packbits(np.frombuffer(bits.encode(), np.uint8) - ord("0")).tolist()


class _Bits:
    """Reads numbers of so many bits from bytes, the highest bit first."""

    def __init__(self, stream: bytes) -> None:
        self._stream, self._at = stream, 0

    def take(self, count: int) -> int:
        first, shift = self._at >> 3, self._at & 7
        self._at += count
        if self._at > 8 * len(self._stream):
            raise ValueError("run lengths that are cut off")
        part = self._stream[first : first + 9].ljust(9, b"\0")
        return int.from_bytes(part, "big") >> (72 - shift - count) & ((1 << count) - 1)

    def words(self, number: int, size: int) -> np.ndarray:
        """Return which of so many numbers are not 0, bool [number]."""
        first, end = self._at, self._at + number * size
        if end > 8 * len(self._stream):
            raise ValueError("run lengths that are cut off")
        part = np.frombuffer(self._stream[first >> 3 : -(-end // 8)], np.uint8)
        bits = np.unpackbits(part)[first & 7 :][: number * size]
        self._at = end
        return bits.reshape(number, size).max(1) != 0


def brush_stream(numbers: Sequence[object]) -> bytes:
    """Return the bytes of ``rle`` as JSON holds them.

    Raises:
        ValueError: a number is none, or not of 0..255.
    """
    try:
        return bytes(numbers)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"numbers that are none ({error})") from error
