"""What differs between two sets of masks: ``fewmask labels diff``."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fewmask.batch import IGNORE, OPEN
from fewmask.data.datayaml import DataYaml
from fewmask.data.files import image_files
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts.found import single
from fewmask.data.masks import read_mask
from fewmask.errors import DataError
from fewmask.run.incoming import open_folder, open_source, remarks
from fewmask.run.matching import Translation, by_name, masked, matched, told_of_two
from fewmask.run.notes import Say
from fewmask.run.written import SUGGESTIONS

_OF_TOOLS = ("voc with labelmap.txt", "coco", "label studio", "datumaro")
"""Layouts that labelling tools export: of a data set they may hold a part."""


@dataclass(frozen=True)
class Change:
    """What became of one mask.

    Attributes:
        name: of the image.
        state: "new", "gone" or "changed".
        pixels: how many of them have another class; those of the whole mask for "new" and "gone".
        of: pixels of the mask.
        moves: (from, to) to pixels, class names; "void" is what does not count, "unlabelled" what nobody has labelled.
    """

    name: str
    state: str
    pixels: int
    of: int
    moves: dict[tuple[str, str], int]


def diff_labels(
    before: Path, after: Path, declared: DataYaml | None = None, say: Say = lambda text: None
) -> list[Change]:  # fmt: skip
    """Return what differs between two sets of masks, the largest change first.

    A mask that an export lacks is none that is gone: the tool may have had a part of the images. It is counted.

    Args:
        before: a data folder; or what a tool takes or gives, with its images in ``images`` beside it.
        after: another one, or a folder or archive as ``import_labels`` takes it.
        declared: what counts in place of the data.yaml of ``before``; None reads its own.
        say: receives sentences on what is no change.

    Raises:
        DataError: one of them cannot be read, or classes or sizes do not fit.
    """
    with tempfile.TemporaryDirectory(prefix="fewmask-") as scratch:
        old = _opened(before, Path(scratch) / "before", declared)
        new = open_source(after, old, Path(scratch) / "after", declared)
        translation, (theirs, unknown) = Translation(new, old, after), matched(new, old)
        whole = new.root == after and new.layout not in _OF_TOOLS and not (after / SUGGESTIONS).exists()
        changes, absent, there = list[Change](), list[str](), by_name(new).keys()
        for item in masked(old):
            other = theirs.get(item.name)
            if other is not None:
                changes += _changed(item, other, old, translation, after)
            elif whole or (new.root == after and item.name in there):
                changes.append(_whole("gone", item.name, read_mask(_mask(item), old.code)))
            else:
                absent.append(item.name)
        had, blank = {item.name for item in masked(old)}, list[str]()
        for name, item in theirs.items():
            if name not in had:
                mask, empty = translation.look(item)
                changes.append(_whole("new", name, mask))
                blank += [name] if empty else []
    for text in (*remarks(new), *_told(absent, unknown, blank, translation.blank), *told_of_two(unknown, old)):
        say(text)
    return sorted(changes, key=lambda c: (-c.pixels / c.of, c.name))


def _told(absent: list[str], unknown: list[str], blank: list[str], nothing: str | None) -> Iterator[str]:
    if absent:
        yield f"masks that are not in it: {len(absent)}, first {absent[0]!r}"
    if unknown:
        yield f"masks of images that are not here: {len(unknown)}, first {unknown[0]!r}"
    if blank:
        yield f"new masks that hold {nothing!r} only: {len(blank)}, first {blank[0]!r}"


def _opened(before: Path, scratch: Path, declared: DataYaml | None) -> DataIndex:
    """Return a data set; of an archive or a file, with the images beside it."""
    if not before.is_file():
        return open_folder(before, declared=declared)
    root = before.parent
    images = image_files(root, "images", []) if (root / "images").is_dir() else {}
    if not images:
        todo = "name a data folder, or put the images into images/ beside it"
        raise DataError("the images of it are not known", where=before, todo=todo)
    items = tuple(Item(name, single(paths, "images")) for name, paths in sorted(images.items()))
    known = DataIndex(root, "folders", (), {"train": items, "val": (), "test": ()})
    return open_source(before, known, scratch, declared)


def _mask(item: Item) -> Path:
    assert item.mask is not None, "masked() gives masked items"
    return item.mask


def _whole(state: str, name: str, mask: np.ndarray) -> Change:
    return Change(name, state, mask.size, mask.size, {})


def _changed(item: Item, other: Item, old: DataIndex, translation: Translation, after: Path) -> list[Change]:
    """Return the change of one mask, if there is one."""
    a, b = read_mask(_mask(item), old.code, unlabelled=OPEN), translation.read(other)
    if a.shape != b.shape:
        raise DataError(f"masks of {item.name!r} differ in size", where=after, todo="compare masks of one size")
    names = [*old.classes, *["?"] * (IGNORE - len(old.classes)), "void"]
    if old.code.unlabelled is not None:
        names[OPEN] = "unlabelled"
    codes, counts = np.unique(a[a != b].astype(np.int64) * 256 + b[a != b], return_counts=True)
    moves = {(names[c // 256], names[c % 256]): n for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
    return [Change(item.name, "changed", sum(moves.values()), a.size, moves)] if moves else []


def total_moves(changes: Iterable[Change]) -> Counter[tuple[str, str]]:
    """Return how many pixels went from which class to which, in all masks."""
    return sum((Counter(c.moves) for c in changes), Counter())
