"""Pictures inside the page: photographs as JPEG, masks as paletted PNG, within a budget."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from fewmask.data.files import flat_name
from fewmask.report.pictures import palette
from fewmask.report.record import KINDS, Picture, Record
from fewmask.report.text import UNMEASURED, percent

GAP = 6
"""White pixels between the panels, as ``pictures.side_by_side`` leaves them."""

BUDGET = 5_000_000
"""Bytes of all pictures, before the third that base64 adds."""

_WIDTHS = (640, 480, 320, 200)
_EACH = 4
_AGAINST = 0.01  # share of the pixels of a mask from which it is worth a look
_PLACES = np.array([65536, 256, 1], np.uint32)


@dataclass(frozen=True)
class Panel:
    """A picture as a data URI, with its text for those who do not see it."""

    uri: str
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class Shown:
    """An image with truth and prediction: three panels, or one where the file has another form.

    ``mistakes`` marks the pixels where these two differ, and is else transparent; None where there is one panel.
    """

    kind: str
    number: int
    score: str
    name: str
    remark: str
    panels: list[Panel]
    mistakes: Panel | None = None


@dataclass(frozen=True)
class Gallery:
    """The pictures (one of each kind, and the others), the classes that occur in them, and what was left out."""

    rows: list[Shown]
    more: list[Shown]
    legend: list[tuple[str, int]]
    notes: list[str] = field(default_factory=list)


def gallery(record: Record, budget: int = BUDGET) -> Gallery | None:
    """Return the pictures of a run, as large as the budget allows; None where there are none.

    Args:
        record: the run.
        budget: bytes of all of them.
    """
    chosen = [p for p in record.pictures if p.number <= _EACH]
    if not chosen:
        return None
    names, notes = record.classes, []
    images = {flat_name(name): name for counts in record.counts.values() for name in counts.names}
    chosen = [replace(p, name=images.get(p.name, p.name)) for p in chosen]
    opened = [(p, parts) for p in chosen if (parts := _open(p, notes)) is not None]
    rows: list[Shown] = []
    for width in _WIDTHS:
        rows = [_shown(p, parts, names, width) for p, parts in opened]
        if sum(map(_weight, rows)) <= budget * 4 / 3:
            break
    while sum(map(_weight, rows)) > budget * 4 / 3:
        notes.append(f"{rows.pop().name} is left out: the page would become too large")
    seen = {k for p, parts in opened if len(parts) == 3 for mask in parts[1:] for k, _ in _classes(mask, len(names))}
    first = [n for kind in KINDS if (n := _typical([r for r in rows if r.kind == kind])) is not None]
    return Gallery(first, [r for r in rows if r not in first], [(names[k], k) for k in sorted(seen)], notes)


@dataclass(frozen=True)
class Look:
    """Training masks to look at again: what is said of all of them, and pictures with the reason for each."""

    said: str
    rows: list[tuple[str, Shown | None]]


def look_again(record: Record, budget: int = BUDGET // 5) -> Look | None:
    """Return the training masks that the delivered model disagrees with; None where that is not recorded.

    Args:
        record: the run.
        budget: bytes of all pictures.
    """
    doubtful = [d for d in record.doubtful if d.against >= _AGAINST]
    if not record.doubtful:
        return None
    if not doubtful:
        share = percent(max(d.against for d in record.doubtful))
        return Look(f"The model is sure of another class at {share} of a training mask at most.", [])
    rows, left = list[tuple[str, Shown | None]](), budget * 4 / 3
    for one in doubtful:
        parts = None if one.picture is None else _open(one.picture, [])
        row = None if one.picture is None or parts is None else _shown(one.picture, parts, record.classes, _WIDTHS[2])
        row, left = (None, left) if row is None or _weight(row) > left else (row, left - _weight(row))
        rows.append((f"{one.name}: {one.reason}", row))
    return Look("Either the mask is wrong there, or the model is.", rows)


def _typical(rows: Sequence[Shown]) -> Shown | None:
    """Return the very best, the middle, or the very worst of a kind."""
    at = {"best": 0, "median": len(rows) // 2, "worst": -1}
    return rows[at[rows[0].kind]] if rows else None


def _weight(row: Shown) -> int:
    return sum(len(panel.uri) for panel in (*row.panels, *([row.mistakes] if row.mistakes else [])))


def _open(picture: Picture, notes: list[str]) -> list[Image.Image] | None:
    """Return photograph, truth and prediction at most as large as the largest panel, or the file as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the run wrote it: large, not hostile
            with Image.open(picture.file, formats=("PNG",)) as file:
                image = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        notes.append(f"{picture.file.name} is damaged or too large")
        return None
    width, rest = divmod(image.width - 2 * GAP, 3)
    if rest or width < 1:
        return [_fit(image, 3 * _WIDTHS[0], smooth=True)]
    panels = [image.crop((i * (width + GAP), 0, i * (width + GAP) + width, image.height)) for i in range(3)]
    return [_fit(panel, _WIDTHS[0], smooth=i == 0) for i, panel in enumerate(panels)]


def _fit(image: Image.Image, width: int, *, smooth: bool) -> Image.Image:
    """Return the image within width and 1.5 x width; masks keep their exact colours."""
    scale = min(1.0, width / image.width, 1.5 * width / image.height)
    if scale == 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST)


def _shown(picture: Picture, parts: Sequence[Image.Image], names: Sequence[str], width: int) -> Shown:
    score = UNMEASURED if picture.score == "nan" else picture.score
    remark = f"mIoU {score}" if picture.kind in KINDS else f"{score} % disputed"
    about = picture.kind, picture.number, picture.score, picture.name, remark
    if len(parts) == 1:
        image = _fit(parts[0], 3 * width, smooth=True)
        text = f"{picture.name}: image, truth and prediction side by side"
        return Shown(*about, [Panel(_jpeg(image), text, *image.size)])
    small = [_fit(part, width, smooth=i == 0) for i, part in enumerate(parts)]
    panels = [Panel(_jpeg(small[0]), f"Photograph {picture.name}", *small[0].size)]
    for what, full, image in zip(("Truth", "Prediction"), parts[1:], small[1:], strict=True):
        panels.append(Panel(_png(image), f"{what}: {_in_words(full, names)}", *image.size))
    return Shown(*about, panels, _mistakes(parts, small))


def _mistakes(parts: Sequence[Image.Image], small: Sequence[Image.Image]) -> Panel:
    """Return the pixels where truth and prediction differ, red; those that do not count are alike in both."""
    share = float((_codes(parts[1]) != _codes(parts[2])).mean())
    image = Image.fromarray((_codes(small[1]) != _codes(small[2])).astype(np.uint8))
    image.putpalette([0, 0, 0, 255, 0, 64])
    target = io.BytesIO()
    image.save(target, format="PNG", optimize=True, transparency=0)
    uri = f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"
    return Panel(uri, f"Mistakes: {percent(share)} of the pixels", *image.size)


def _jpeg(image: Image.Image) -> str:
    target = io.BytesIO()
    image.save(target, format="JPEG", quality=84, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(target.getvalue()).decode()}"


def _png(image: Image.Image) -> str:
    """Return a mask with its own colours as a palette; a picture with more than 256 colours stays as it is."""
    codes = _codes(image)
    known = np.unique(codes)
    if len(known) <= 256:
        image = Image.fromarray(np.searchsorted(known, codes).astype(np.uint8))
        image.putpalette(np.stack((known >> 16, known >> 8 & 255, known & 255), 1).astype(np.uint8).tobytes())
    target = io.BytesIO()
    image.save(target, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"


def _codes(image: Image.Image) -> np.ndarray:
    """Return red, green and blue of each pixel as one number."""
    return np.asarray(image).astype(np.uint32) @ _PLACES


def _classes(mask: Image.Image, classes: int) -> list[tuple[int, float]]:
    """Return (class, share) of the colours of a mask that are classes, the largest first."""
    counts = np.unique(_codes(mask), return_counts=True)
    known = {int(code): k for k, code in enumerate(palette()[:classes].astype(np.uint32) @ _PLACES)}
    # the dark of pixels that do not count is no colour of the palette
    counted = [(known[c], n) for c, n in zip(*(part.tolist() for part in counts), strict=True) if c in known]
    total = sum(n for _, n in counted)
    return sorted(((k, n / total) for k, n in counted), key=lambda pair: (-pair[1], pair[0]))


def _in_words(mask: Image.Image, names: Sequence[str], limit: int = 6) -> str:
    found = _classes(mask, len(names))
    more = f" and {len(found) - limit} more classes" if len(found) > limit else ""
    return ", ".join(f"{names[k]} {percent(share)}" for k, share in found[:limit]) + more or "nothing that counts"
