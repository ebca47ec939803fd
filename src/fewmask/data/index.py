"""What a data set is, to the rest of the program: classes, and items with roles.

Readers of layouts (``layouts.py``) produce a ``DataIndex``; nothing after them knows how files are arranged on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fewmask.data.bands import Bands

Role = Literal["train", "val", "test"]
ROLES: tuple[Role, ...] = ("train", "val", "test")

NO_ID = -1
"""In a colour map: this colour does not count (255 would be an id like any other)."""


@dataclass(frozen=True)
class ImageCode:
    """How an image file becomes pixels.

    Attributes:
        upright: they are turned as the EXIF orientation says; else they count as stored.
        bands: the network's channels; empty = red, green and blue of 8 bits.
        colours_only: what a file has beside red, green and blue is left out, as somebody has declared; else such files
            are refused.
    """

    upright: bool = False
    bands: Bands = ()
    colours_only: bool = False


PHOTOGRAPH = ImageCode()


@dataclass(frozen=True)
class Item:
    """One image.

    Attributes:
        name: its identity inside the data set: path below the image folder without extension, ``/`` as separator.
        image: the file.
        mask: its mask file; None where there is none or where it may not be looked at.
        group: images of one group (video, field, patient) correlate; "" = a group of its own.
        pseudo: its pseudo-labels, a PNG of learned class indices that an earlier round of this run wrote.
        open: its mask file, of which only the pixels that nobody has labelled yet are looked at.
        code: how its file becomes pixels.
    """

    name: str
    image: Path
    mask: Path | None = None
    group: str = ""
    pseudo: Path | None = None
    open: Path | None = None
    code: ImageCode = PHOTOGRAPH

    def without_mask(self) -> Item:
        """The same image with no path to its mask: what an unlabelled pool is made of."""
        return replace(self, mask=None)

    def without_labels(self) -> Item:
        """The same image alone."""
        return replace(self, mask=None, pseudo=None, open=None)

    def as_partial(self) -> Item:
        """The same image for an unlabelled pool, in which its unlabelled pixels count."""
        return replace(self, mask=None, open=self.mask)


@dataclass(frozen=True)
class MaskCode:
    """How a mask file spells class ids.

    Attributes:
        ignore: ids that mean "do not count", besides 255.
        mapping: file id to learned class index; None where they are the same.
        colours: (red, green, blue) to file id, or to NO_ID for colours that do not count; None: index masks.
        unlabelled: id of pixels that nobody has labelled yet, in masks that are finished in part; None: there are none.
    """

    ignore: tuple[int, ...] = ()
    mapping: tuple[tuple[int, int], ...] | None = None
    colours: tuple[tuple[tuple[int, int, int], int], ...] | None = None
    unlabelled: int | None = None

    def plain(self) -> MaskCode:
        """The same without a mapping that maps every id to itself."""
        same = self.mapping is not None and self.mapping == tuple((i, i) for i in range(len(self.mapping)))
        return replace(self, mapping=None) if same else self

    @property
    def blank(self) -> int | None:
        """The class that a mask nobody has drawn on holds: of id 0, or of black; None where these are none."""
        stored = 0 if self.colours is None else dict(self.colours).get((0, 0, 0), NO_ID)
        if stored in (NO_ID, *self.ignore):
            return None
        return stored if self.mapping is None else dict(self.mapping).get(stored)

    def __repr__(self) -> str:
        """The text that data hashes are made of: a field younger than they are stands in it only where it is used."""
        text = f"MaskCode(ignore={self.ignore!r}, mapping={self.mapping!r}, colours={self.colours!r}"
        return f"{text})" if self.unlabelled is None else f"{text}, unlabelled={self.unlabelled!r})"


@dataclass(frozen=True)
class DataIndex:
    """A data set: what the layout readers return.

    Attributes:
        root: the folder that the user named.
        layout: name of the layout it was read as.
        classes: names of the learned classes; the position is the class index. At most 255.
        items: per role, sorted by name. Items of "train" may have no mask; "val" and "test" items all have one.
        code: how mask files spell ids.
        notes: sentences on what was decided while reading (a division that was drawn, files that were left out).
        images: how image files become pixels; the same for all of them.
        drawn: nobody has said which images are "val": they were drawn from the training images.
        exif: what is declared of orientation tags; None = nothing: a mask that fits the turned image alone is a doubt.
        empty_masks: what is declared of masks that may be untouched; None = nothing: many of them are a problem.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    items: dict[Role, tuple[Item, ...]]
    code: MaskCode = MaskCode()
    notes: tuple[str, ...] = ()
    images: ImageCode = PHOTOGRAPH
    drawn: bool = False
    exif: Literal["ignore", "apply"] | None = None
    empty_masks: Literal["labelled", "unlabelled"] | None = None

    @property
    def labelled(self) -> tuple[Item, ...]:
        """Training items that have a mask."""
        return tuple(i for i in self.items["train"] if i.mask is not None)

    @property
    def file_ids(self) -> list[int]:
        """The id that mask files use for each class: what is written for the user is written with these."""
        ids = list(range(len(self.classes)))
        for file_id, learned in reversed(self.code.mapping or ()):  # of merged ids the first one stands for the class
            if learned < len(ids):
                ids[learned] = file_id
        return ids


@dataclass(frozen=True)
class Pools:
    """Which training images a run may learn from, and how.

    Attributes:
        labelled: items with masks that the run may open.
        unlabelled: items without any path to a mask; those of an index file are read one by one.
        digest: of the index file that lists the unlabelled ones, "" = there is none.
        partial: labelled items ``as_partial``, for a method that learns from pixels nobody has labelled yet.
    """

    labelled: tuple[Item, ...]
    unlabelled: Sequence[Item]
    digest: str = ""
    partial: tuple[Item, ...] = ()

    def hash(self) -> str:
        """Return 16 hex digits that name this split: labelled and unlabelled names, in any order."""
        text = "\n".join(["labelled", *sorted(i.name for i in self.labelled), "unlabelled"])
        text += f"\n{self.digest or chr(10).join(sorted(i.name for i in self.unlabelled))}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def manifest_hash(index: DataIndex, roles: Sequence[Role] = ROLES, may_break: Collection[str] = ()) -> str:
    """Return 16 hex digits over names, roles, classes, and sizes of image files: changes when the data change.

    Args:
        index: the data set.
        roles: those that count.
        may_break: names of the images whose files may be damaged or mended: their sizes do not count.
    """
    rows = [repr(index.classes), repr(index.code), *(["upright"] if index.images.upright else [])]
    rows += [repr(index.images.bands)] if index.images.bands else []
    for role in roles:
        for i in index.items[role]:
            size = "" if i.name in may_break else i.image.stat().st_size
            rows.append(f"{role}\0{i.name}\0{i.group}\0{i.mask is not None}\0{size}")
    return hashlib.sha256("\n".join(rows).encode("utf-8", "surrogateescape")).hexdigest()[:16]
