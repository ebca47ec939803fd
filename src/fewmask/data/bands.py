"""Images that are not 8-bit red, green and blue: what data.yaml declares of their bands.

Every declared band becomes one channel of 8 bits: its range is stretched to 0..255, what lies outside is cut off, and
where a file has no value (NaN, nodata) there is 0. Bands that are called red, green and blue come first, whatever their
order in the file, so that pretrained weights and colour augmentations meet what they know.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import yaml

COLOURS = ("red", "green", "blue")
MOST = 64
"""Bands that may be declared."""


@dataclass(frozen=True)
class Band:
    """One channel of what the network sees.

    Attributes:
        number: of the band in its file, from 1.
        name: what it shows.
        low: value that becomes 0.
        high: value that becomes 255.
    """

    number: int
    name: str
    low: float = 0.0
    high: float = 255.0

    @classmethod
    def read(cls, value: object) -> Band:
        """Return what data.yaml or model/config.json spells as ``{band: 1, name: red, range: [0, 255]}``.

        Raises:
            ValueError: it is none.
        """
        if not isinstance(value, dict) or not {"band"} <= value.keys() <= {"band", "name", "range"}:
            raise ValueError(f"{value!r} is no band, must be {{band: 1, name: red, range: [0, 255]}}")
        number, span = value["band"], value.get("range", [0, 255])
        name = value.get("name", f"band {number}")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"band {number!r} is no number of a band, which count from 1")
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"the name of band {number} is {name!r}, must be one line of text")
        if not _is_range(span):
            raise ValueError(f"the range of band {number} is {span!r}, must be [low, high] with low < high")
        return cls(number, name, float(span[0]), float(span[1]))

    def stretch(self, values: np.ndarray) -> np.ndarray:
        """Return values of any type as uint8; masked ones and NaN become 0."""
        factor = 255.0 / (self.high - self.low)
        scaled = np.ma.filled(np.ma.asarray((values.astype(np.float32) - self.low) * factor), 0.0)
        return np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round().astype(np.uint8)

    def told(self) -> dict[str, Any]:
        """Return it as data.yaml and model/config.json spell it."""
        return {"band": self.number, "name": self.name, "range": [self.low, self.high]}


Bands = tuple[Band, ...]


def ordered(bands: Sequence[Band]) -> Bands:
    """Return bands in the order of the network's channels: red, green and blue first if all three are there."""
    if not set(COLOURS) <= {band.name for band in bands}:
        return tuple(bands)
    place = {name: n for n, name in enumerate(COLOURS)}
    return tuple(sorted(bands, key=lambda band: place.get(band.name, len(place))))


def are_coloured(bands: Bands) -> bool:
    """Return whether the first three channels are red, green and blue; no bands are the colours of a photograph."""
    return not bands or tuple(band.name for band in bands[:3]) == COLOURS


def channels(bands: Bands) -> int:
    """Return how many channels the network sees."""
    return len(bands) or 3


def shown(image_HWC: np.ndarray, bands: Bands) -> np.ndarray:
    """Return a picture for people, uint8 [H, W, 3]: its colours, false ones of the first three bands, or grey."""
    if not bands or len(bands) >= 3:
        return image_HWC[..., :3]
    return np.repeat(image_HWC[..., :1], 3, axis=2)


class Proposal(str):
    """A remedy, what data.yaml could say of the bands of an image; a text to everything that does not ask for these."""

    bands: Bands
    lead: str

    def __new__(cls, bands: Bands, lead: str = "") -> Self:
        """Make one.

        Args:
            bands: what could be declared.
            lead: what stands before that.
        """
        rows = ", ".join(_row(band) for band in bands)
        made = super().__new__(cls, f"{lead}write in data.yaml, with your own names and ranges: channels: [{rows}]")
        made.bands, made.lead = bands, lead
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        """Make it again from what it was made of: errors travel between processes."""
        return self.bands, self.lead


def proposal(found: Sequence[tuple[str, np.dtype[Any], float, float]], lead: str = "") -> Proposal:
    """Return what data.yaml could say of the bands of one image.

    Args:
        found: name, type, least and largest value of each band.
        lead: as of a ``Proposal``.
    """
    rows = enumerate(found, start=1)
    return Proposal(tuple(Band(n, name, *_range(kind, least, most)) for n, (name, kind, least, most) in rows), lead)


def for_all(remedies: Sequence[str]) -> list[str]:
    """Return remedies of several images: proposals of bands alike become one that suits all of their images.

    Args:
        remedies: one an image. Those that are no ``Proposal`` come back as they are.
    """
    alike: dict[tuple[str, tuple[tuple[int, str], ...]], list[Bands]] = defaultdict(list)
    for one in remedies:
        if isinstance(one, Proposal):
            alike[_kind(one)].append(one.bands)
    wide = {kind: tuple(map(_spanning, zip(*found, strict=True))) for kind, found in alike.items()}
    return [Proposal(wide[_kind(one)], one.lead) if isinstance(one, Proposal) else one for one in remedies]


def _kind(one: Proposal) -> tuple[str, tuple[tuple[int, str], ...]]:
    return one.lead, tuple((band.number, band.name) for band in one.bands)


def _spanning(bands: Sequence[Band]) -> Band:
    """Return one band for that of several images: its range holds theirs."""
    return replace(bands[0], low=min(b.low for b in bands), high=max(b.high for b in bands))


def _row(band: Band) -> str:
    """Return a row that ``Band.read`` takes, whatever a file calls its bands and holds."""
    name, low, high = band.name, band.low, band.high
    name = name if name.isprintable() and name.strip() else f"band{band.number}"
    bare = name.isidentifier() and yaml.safe_load(name) == name  # not so: no, on, true
    told = name if bare else json.dumps(name, ensure_ascii=False)
    span = [_number(low), _number(high)]
    if not float(span[0]) < float(span[1]):  # alike in so many digits
        span = [str(math.floor(low)), str(math.floor(high + max(1, abs(high) * 1e-6)))]
    return f"{{band: {band.number}, name: {told}, range: [{', '.join(span)}]}}"


def _number(value: float) -> str:
    short = f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
    return f"{value:.4e}" if "e" in short else short  # YAML takes 1e-05 for a text


def _is_range(span: object) -> bool:
    if not isinstance(span, list) or len(span) != 2 or not all(type(v) in (int, float) for v in span):
        return False
    return math.isfinite(span[0]) and math.isfinite(span[1]) and span[0] < span[1]


def _range(kind: np.dtype[Any], least: float, most: float) -> tuple[float, float]:
    """Return a range that holds the values: as many bits as they need, 0 to 1, or what they are."""
    if kind.kind in "ui" and least >= 0:
        return 0.0, 2.0 ** max(1, int(most).bit_length()) - 1
    if least >= 0 and most <= 1:
        return 0.0, 1.0
    return least, max(most, least + 1e-3)
