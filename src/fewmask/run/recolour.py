"""Index masks that an image editor has saved again: as colours, or with their palette in another order.

Masks for people (``suggest``, ``labels export``) carry the colours of ``data.palette``. What an editor makes of them
still shows these colours, while the numbers that it stores mean something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from fewmask.batch import IGNORE
from fewmask.data.colours import spelled
from fewmask.data.decode import MAX_PIXELS, opened
from fewmask.data.index import ROLES, DataIndex, Item, Role
from fewmask.data.palette import palette
from fewmask.errors import DataError

_LOSSLESS = ("PNG", "TIFF", "BMP")
_BLACK, _WHITE = 0, 0xFFFFFF
_FILLED = {_BLACK, _WHITE}
"""What editors fill a palette up with."""


@dataclass(frozen=True)
class _Look:
    """What a mask file shows.

    Attributes:
        colours: of its pixels, packed.
        paletted: it stores places in a palette.
        moved: some of these show the colour of another class's id.
        clear: its palette holds our colours and no others, so that nobody else has made it.
        grey: three equal channels: an index mask that some program has saved so.
    """

    colours: frozenset[int]
    paletted: bool
    moved: bool = False
    clear: bool = False
    grey: bool = False


def as_ids(index: DataIndex, folder: Path) -> DataIndex:
    """Return a data set in which index masks that an editor has saved again hold ids; a note says how many they are.

    Args:
        index: a data set; one whose masks are declared to be colours is returned as it is.
        folder: gets new masks in the place of such ones; need not exist.

    Raises:
        DataError: a mask has colours that are none of ours, or it is not clear whether its ids or its colours count.
    """
    if index.code.colours is not None:
        return index
    every = {colour: i for i, colour in enumerate(_packed(palette()).tolist())}
    ids = _ids(index)
    known = {colour: i for colour, i in every.items() if i in ids}
    masks = [item.mask for role in ROLES for item in index.items[role] if item.mask is not None]
    looks = {mask: look for mask in masks if (look := _look(mask, known, every)) is not None}
    chosen = _of_palette(looks, known, index) + _of_colours(looks, known, index)
    return _rewritten(index, chosen, known, folder) if chosen else index


def _ids(index: DataIndex) -> set[int | None]:
    """Return the ids that may stand in its masks."""
    if not index.classes:
        return {*range(IGNORE + 1)}
    of_classes = (i for i, _ in index.code.mapping) if index.code.mapping is not None else range(len(index.classes))
    return {*of_classes, *index.code.ignore, index.code.unlabelled, IGNORE}


def _of_palette(looks: Mapping[Path, _Look], known: Mapping[int, int], index: DataIndex) -> list[Path]:
    """Return the masks with a palette if its colours count: an editor has put ours into another order."""
    paletted = {mask: look for mask, look in looks.items() if look.paletted}
    foreign = [mask for mask, look in paletted.items() if not look.colours <= known.keys()]
    moved = [mask for mask, look in paletted.items() if look.moved]
    if any(paletted[mask].clear for mask in moved):
        for mask in foreign:
            raise _foreign(mask, min(paletted[mask].colours - known.keys()), index)
        return [*paletted]
    if moved and not foreign:  # the palette of another program may have a few colours of ours
        raise DataError(
            "its palette gives ids the colours of other classes, so that the mask has two readings", where=moved[0],
            todo=f"if the colours count, write in a data.yaml beside the masks: {_declaration(index)}; if the ids do, "
            "save the masks as grey PNGs, value = class id",
        )  # fmt: skip
    return []


def _of_colours(looks: Mapping[Path, _Look], known: Mapping[int, int], index: DataIndex) -> list[Path]:
    """Return the masks without a palette that show colours."""
    rgb = {mask: look for mask, look in looks.items() if not look.paletted}
    for mask, look in rgb.items():
        if not look.grey and not look.colours <= known.keys():
            raise _foreign(mask, min(look.colours - known.keys()), index)
    coloured = any(not look.grey for look in rgb.values())
    return [mask for mask, look in rgb.items() if not look.grey or (coloured and look.colours <= known.keys())]


def _foreign(mask: Path, colour: int, index: DataIndex) -> DataError:
    shown = spelled((colour >> 16, colour >> 8 & 255, colour & 255)).strip('"')
    todo = "save it as an index PNG without smoothing, one channel, value = class id; or write in a data.yaml beside "
    return DataError(
        f"mask shows the colour {shown}, which no class has", where=mask,
        todo=f"{todo}the masks: {_declaration(index)}",
    )  # fmt: skip


def _declaration(index: DataIndex) -> str:
    """Return what data.yaml says of masks in our colours."""
    if not index.classes:
        return 'colours: {"r,g,b": class, …}'
    pairs = [f"{spelled(_rgb(i))}: {json.dumps(name, ensure_ascii=False)}" for i, name in _named(index)][:6]
    return f"colours: {{{', '.join(pairs)}{', …' if len(index.classes) > 6 else ''}}}"


def _named(index: DataIndex) -> list[tuple[int, str]]:
    return [(i, name) for i, name in zip(index.file_ids, index.classes, strict=True) if i <= IGNORE]


def _rgb(i: int) -> tuple[int, int, int]:
    r, g, b = palette()[i].tolist()
    return r, g, b


def _look(mask: Path, known: Mapping[int, int], every: Mapping[int, int]) -> _Look | None:
    """Return what a mask shows; None where it has no colours, or cannot be read, which the scan tells."""
    try:
        with opened(mask, MAX_PIXELS) as (image, header):
            if header.format not in _LOSSLESS or image.mode not in ("P", "RGB", "RGBA"):
                return None
            if image.mode == "P":
                return _look_at_palette(image, known, every)
            if image.mode == "RGBA" and np.asarray(image.getchannel("A")).min() < 255:
                return None
            colours = frozenset(np.unique(_shown(image)).tolist())
            return _Look(colours, False, grey=all(c >> 16 == c >> 8 & 255 == c & 255 for c in colours))
    except DataError:
        return None


def _look_at_palette(image: ImageFile.ImageFile, known: Mapping[int, int], every: Mapping[int, int]) -> _Look | None:
    used = np.unique(np.asarray(image)).tolist()
    table = _packed(np.reshape(image.getpalette("RGB") or [], (-1, 3))).tolist()
    if used[-1] >= len(table):
        return None
    shown = {i: table[i] for i in used}
    moved = any(colour != _BLACK and known.get(colour, i) != i for i, colour in shown.items())
    clear = {*table} <= known.keys() | _FILLED or {*table} == every.keys()
    return _Look(frozenset(shown.values()), True, moved, clear)


def _shown(image: Image.Image) -> np.ndarray:
    """Return the colours of an image, packed, int32 [H, W]."""
    return _packed(np.asarray(image.convert("RGB")))


def _packed(colours: np.ndarray) -> np.ndarray:
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _rewritten(index: DataIndex, chosen: list[Path], known: Mapping[int, int], folder: Path) -> DataIndex:
    """Return the data set with new masks of what the chosen ones show."""
    folder.mkdir(parents=True, exist_ok=True)
    new: dict[Path, Path] = {}
    for number, mask in enumerate(chosen):
        with opened(mask, MAX_PIXELS) as (image, _):
            colours, inverse = np.unique(_shown(image), return_inverse=True)
            ids = np.array([known[colour] for colour in colours.tolist()], np.uint8)
        new[mask] = folder / f"{number}.png"
        Image.fromarray(ids[inverse.reshape(image.height, image.width)]).save(new[mask])

    def taken(item: Item) -> Item:
        return item if item.mask is None else replace(item, mask=new.get(item.mask, item.mask))

    items: dict[Role, tuple[Item, ...]] = {role: tuple(map(taken, index.items[role])) for role in ROLES}
    note = f"{len(new)} masks are read by the colours of their classes: their program has saved no ids of ours"
    return replace(index, items=items, notes=(*index.notes, note))
