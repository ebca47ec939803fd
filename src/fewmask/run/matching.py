"""Masks that come from elsewhere and a data folder: which image a mask is of, and which class is which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewmask.batch import IGNORE, OPEN
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts.names import Ends, by_end, closest, parts_of
from fewmask.data.masks import read_mask
from fewmask.errors import DataError

OPEN_CLASS = "pixels that nobody has labelled"
"""What the label of such pixels is called while masks come in: by its own name readers take it for void."""


def masked(index: DataIndex) -> list[Item]:
    """Return the items with a mask, of every role, by name."""
    items = (item for found in index.items.values() for item in found if item.mask is not None)
    return sorted(items, key=lambda item: item.name)


def by_name(index: DataIndex) -> dict[str, Item]:
    """Return the items of every role by name."""
    return {item.name: item for found in index.items.values() for item in found}


class Translation:
    """Their masks in our classes; classes meet by name, where it is clear whatever their case.

    Args:
        found: theirs.
        index: ours.
        source: what errors name.
    """

    def __init__(self, found: DataIndex, index: DataIndex, source: Path) -> None:
        self._found, self._index, self._source = found, index, source
        self._table = np.full(IGNORE + 1, IGNORE, dtype=np.uint8)
        self._unknown = np.zeros(IGNORE + 1, dtype=bool)
        opened = OPEN if index.code.unlabelled is not None else IGNORE
        for i, (name, ours) in enumerate(zip(found.classes, _meeting(found.classes, index.classes), strict=True)):
            self._table[i] = opened if name == OPEN_CLASS else IGNORE if ours is None else ours
            self._unknown[i] = ours is None and name != OPEN_CLASS and name.lower() != "background"
        if found.code.unlabelled is not None:
            self._table[OPEN] = opened

    @property
    def blank(self) -> str | None:
        """The class that their masks hold where nobody drew; None where there is none."""
        return None if self._found.code.blank is None else self._found.classes[self._found.code.blank]

    def read(self, item: Item) -> np.ndarray:
        """Return the mask of one of their items, our class indices uint8 [H, W].

        Raises:
            DataError: it holds a class that is none of ours.
        """
        return self.look(item)[0]

    def look(self, item: Item) -> tuple[np.ndarray, bool]:
        """Return what ``read`` does, and whether the mask holds, apart from void, no other class than ``blank``.

        Raises:
            DataError: see ``read``.
        """
        assert item.mask is not None, "matched() gives masked items"
        mask = read_mask(item.mask, self._found.code, unlabelled=OPEN)
        if self._unknown[mask].any():
            name = self._found.classes[int(mask[self._unknown[mask]][0])]
            raise DataError(
                f"class {name!r} is none of the data folder's ({', '.join(self._index.classes[:20])})",
                where=self._source, todo="rename it in the tool, or declare it in data.yaml",
            )  # fmt: skip
        held = {*np.unique(mask).tolist()} - {IGNORE}
        return self._table[mask], held == {self._found.code.blank}


def _meeting(theirs: Sequence[str], ours: Sequence[str]) -> list[int | None]:
    """Return our index of each of their classes: of the same name, else of one that differs in case alone."""
    places = {name: i for i, name in enumerate(ours)}
    folded = {name.lower(): i for i, name in enumerate(ours)}
    alike = Counter(name.lower() for name in theirs), Counter(name.lower() for name in ours)
    return [
        places.get(name, folded[name.lower()] if all(count[name.lower()] == 1 for count in alike) else None)
        for name in theirs
    ]


def matched(found: DataIndex, index: DataIndex) -> tuple[dict[str, Item], list[str]]:
    """Return their masked items by the name of our image, and the names of those that we do not have.

    Raises:
        DataError: two of them are of one image.
    """
    ours = by_name(index)
    ends = by_end(ours)
    out, unknown = dict[str, Item](), list[str]()
    for item in masked(found):
        short = item.name.removeprefix("images/")
        hits: Sequence[str] = [short] if short in ours else meant(short, ends)
        if len(hits) != 1:
            unknown.append(item.name)
        elif hits[0] in out:
            raise DataError(f"two masks are of image {hits[0]!r}", where=found.root, todo="take one of them away")
        else:
            out[hits[0]] = item
    return out, unknown


def told_of_two(unknown: Sequence[str], index: DataIndex) -> list[str]:
    """Return a sentence on masks that may be of more than one image, among those that ``matched`` could not place."""
    ends = by_end(by_name(index))
    may = {name: hits for name in unknown if len(hits := meant(name.removeprefix("images/"), ends)) > 1}
    if not may:
        return []
    name, hits = next(iter(may.items()))
    first = f"first {name!r}: {hits[0]!r} or {hits[1]!r}"
    todo = "keep the folders in the tool, or put the mask into one of that name"
    return [f"{len(may)} of these masks may be of more than one image, {first}; {todo}"]


def meant(name: str, ends: Ends) -> list[str]:
    """Return those of our images that another name may mean: see ``names.closest``."""
    parts = parts_of(name)
    return closest(parts, ends.get(parts[-1] if parts else "", {}))
