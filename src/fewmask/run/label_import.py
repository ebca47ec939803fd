"""Masks that come back from a labelling tool: ``fewmask labels import``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replace_field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE, OPEN
from fewmask.data.datayaml import FILE_NAME, DataYaml
from fewmask.data.images import item_size
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts import read_unlabelled
from fewmask.data.masks import id_type, nothing_id, read_mask, spelling
from fewmask.data.writers.annotated import png_bytes
from fewmask.engine.files import ensure_writable, write_atomic, write_errors
from fewmask.errors import ConfigError, DataError, WriteError
from fewmask.run.data import masked_index
from fewmask.run.guesses import digest, read_guesses
from fewmask.run.incoming import open_folder, open_source, remarks
from fewmask.run.matching import Translation, by_name, matched, told_of_two
from fewmask.run.notes import Say

REPLACED = "replaced"
"""Folder of masks that an import has put others in the place of."""

_MANY_BLANK = 0.2  # share of the masks to take above which blank ones look like frames that nobody annotated

Blank = Literal["labelled", "unlabelled"]
"""What blank masks are, as ``empty_masks`` in data.yaml says it."""


@dataclass
class _Seen:
    """What comes in, by the names of our images.

    Attributes:
        new, changed, same: those without a mask here, with another one, with this one.
        blank: of the new and changed ones those that hold, apart from void, background only.
        guessed: of the new and changed ones those that are what a model has guessed.
    """

    new: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    blank: list[str] = field(default_factory=list)
    guessed: list[str] = field(default_factory=list)

    def without(self, names: Collection[str]) -> _Seen:
        """The same without some of the new and changed ones."""
        kept = {key: [n for n in getattr(self, key) if n not in names] for key in ("new", "changed", "guessed")}
        return replace_field(self, **kept)


def import_labels(
    source: Path, root: Path, replace: bool, say: Say, declared: DataYaml | None = None, empty: Blank | None = None
) -> dict[str, Any]:  # fmt: skip
    """Take masks that come back from a labelling tool into a data folder of images/ and masks/.

    Classes are matched by name; a folder without masks whose classes nothing names takes those of the source, into
    ``classes.txt``. A mask that is there and differs is replaced only if asked for, and then the old one is
    kept in ``replaced/TIME``.

    Args:
        source: a folder or a zip archive in any layout that is read; its images need not be there.
        root: the data folder.
        replace: put masks in the place of others.
        say: receives sentences.
        declared: what counts in place of the data folder's data.yaml; None reads its own.
        empty: take blank masks ("labelled"), or leave them out ("unlabelled"); None: as ``empty_masks`` in data.yaml
            says, and where it says nothing many of them are refused.

    Returns:
        {"new", "changed", "same", "unknown", "blank", "replaced"}: names of images, and the folder of old masks or
        null. "blank" are those among what came in new or changed that hold background only, taken or left out.

    Raises:
        DataError: the source cannot be read, has a class that the data do not know, a mask of another size, or none of
            an image of the folder; more than a fifth of the masks to take are blank. Nothing is written then.
        ConfigError: masks differ and ``replace`` is false; the folder is of another layout. Nothing is written then.
        WriteError: the disk refused.
    """
    bare = read_unlabelled(root, declared)
    whole = open_folder(root, declared=declared) if bare is None else bare
    index = masked_index(whole, unmasked=True)
    place = _mask_folder(index, root)
    _check_place(place, root)
    with tempfile.TemporaryDirectory(prefix="fewmask-") as scratch:
        found = open_source(source, index, Path(scratch), declared)
        theirs, unknown = matched(found, index)
        if not theirs:
            what = f"none of {len(unknown)} masks is of an image of {root}"
            what += f" (mask {unknown[0]!r})" if unknown else ""
            raise DataError(what, where=source, todo="image and mask meet by the name of the file")
        named = bool(index.classes)
        index = index if named else replace_field(index, classes=found.classes)
        translation, guesses = Translation(found, index, source), read_guesses([source, source.parent, found.root])
        seen = _look(theirs, translation, index, source, guesses)
        empty = empty or index.empty_masks or found.empty_masks
        if empty is None:
            _refuse_blank(seen, translation.blank, source)
        seen = seen.without(seen.blank) if empty == "unlabelled" else seen
        if seen.changed and not replace:
            raise ConfigError(
                f"{len(seen.changed)} masks are there and differ, first {seen.changed[0]!r}; nothing was written",
                where=root, todo="see fewmask labels diff, and give --replace: the old ones are kept",
            )  # fmt: skip
        had, take = by_name(whole), [*seen.new, *seen.changed]  # with the masks that data.yaml calls not annotated
        over = any(had[name].mask is not None for name in take)
        kept = root / REPLACED / datetime.now().strftime("%Y-%m-%d-%H%M%S") if over else None
        ids = _ids(index)
        if not named:
            write_atomic(root / "classes.txt", "".join(f"{name}\n" for name in index.classes))
        with write_errors(place):
            for name in take:  # read again: all of them may be more than the memory holds
                _put(place, name, ids[translation.read(theirs[name])], had[name].mask, root, kept)
    twice = told_of_two(unknown, index)
    for text in (*remarks(found), *_told(seen, unknown, translation.blank, empty, kept), *twice):
        say(text)
    return {
        "new": seen.new, "changed": seen.changed, "same": seen.same, "unknown": unknown, "blank": seen.blank,
        "replaced": str(kept) if kept else None,
    }  # fmt: skip


def _look(
    theirs: Mapping[str, Item], translation: Translation, index: DataIndex, source: Path, guesses: Mapping[str, str]
) -> _Seen:  # fmt: skip
    """Compare every mask that comes in with what is here.

    Raises:
        DataError: one has pixels that cannot be written here, or another size than its image.
    """
    seen, ours = _Seen(), by_name(index)
    for name, item in theirs.items():
        mask, blank = translation.look(item)
        if (mask == IGNORE).any() and IGNORE in index.file_ids and not index.code.ignore:
            what = f"in the mask of {name!r} pixels do not count, and no id says so here: 255 is a class"
            raise DataError(what, where=index.root / FILE_NAME, todo="write ignore: [254] there, or another free id")
        state = _compared(mask, ours[name], index, source)
        {"new": seen.new, "changed": seen.changed, "same": seen.same}[state].append(name)
        if state != "same":
            seen.blank += [name] if blank else []
            seen.guessed += [name] if name in guesses and guesses[name] == digest(mask, index.classes) else []
    return seen


def _refuse_blank(seen: _Seen, nothing: str | None, source: Path) -> None:
    """Ask what blank masks are, where there are many: tools write such of frames that nobody annotated.

    Raises:
        DataError: there are.
    """
    masks = len(seen.new) + len(seen.changed)
    if len(seen.blank) > _MANY_BLANK * masks:
        raise DataError(
            f"{len(seen.blank)} of {masks} masks to take hold {nothing!r} only, first {seen.blank[0]!r}; nothing was "
            "written", where=source,
            todo="give --empty unlabelled if nobody annotated them (they are left out), or --empty labelled if nothing "
            "else is there; empty_masks in data.yaml says it once and for all",
        )  # fmt: skip


def _told(
    seen: _Seen, unknown: Sequence[str], nothing: str | None, empty: Blank | None, kept: Path | None
) -> Iterator[str]:  # fmt: skip
    counts = f"{len(seen.new)} new masks, {len(seen.changed)} changed, {len(seen.same)} the same"
    where = f", first {unknown[0]!r}" if unknown else ""
    blank = f"{len(seen.blank)} hold {nothing!r} only" if nothing is not None else "none is blank"
    left = " and are left out: nobody annotated them" if seen.blank and empty == "unlabelled" else ""
    yield f"{counts}; {len(unknown)} of images that are not here{where}; {blank}{left}"
    if kept is not None:
        yield f"the masks that were there are in {kept}"
    if seen.guessed:
        yield f"{len(seen.guessed)} of them are unchanged guesses of the model, first {seen.guessed[0]!r}"


def _ids(index: DataIndex) -> np.ndarray:
    """Return what mask files hold for each class index, [256]."""
    ids, opened = spelling(index.file_ids, nothing_id(index.file_ids, index.code.ignore)), index.code.unlabelled
    if opened is not None:
        ids = ids.astype(np.promote_types(ids.dtype, id_type([opened])))
        ids[OPEN] = opened
    return ids


def _compared(mask: np.ndarray, here: Item, index: DataIndex, source: Path) -> str:
    """Return whether a mask is "new", "changed" or the "same" as that of our image.

    Raises:
        DataError: it is of another size than the image.
    """
    old = None if here.mask is None else read_mask(here.mask, index.code, unlabelled=OPEN)
    size = item_size(here) if old is None else old.shape
    if mask.shape != size:
        what = f"the mask of {here.name!r} is {mask.shape[1]}x{mask.shape[0]}, the image {size[1]}x{size[0]}"
        raise DataError(what, where=source, todo="export it at the size of the image")
    return "new" if old is None else "same" if np.array_equal(mask, old) else "changed"


def _put(place: Path, name: str, ids_HW: np.ndarray, old: Path | None, root: Path, kept: Path | None) -> None:
    """Write one mask; what stood there goes to ``kept`` first."""
    target = place / f"{name}.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    if old is not None:
        assert kept is not None
        keep = kept / old.relative_to(root)
        keep.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(old, keep)
    write_atomic(target, png_bytes(Image.fromarray(ids_HW)))
    if old is not None and old != target:  # one of another file type: two masks of one name are an error
        old.unlink()


def _check_place(place: Path, root: Path) -> None:
    """Refuse a folder that nothing can be put into, before anything is read.

    Raises:
        WriteError: it is one.
    """
    try:
        ensure_writable(place if place.is_dir() else root)
    except WriteError as error:
        todo = f"take them into a copy: fewmask labels export {root} --to png --images -o COPY (without masks: cp -r)"
        raise WriteError(error.what, where=place, todo=todo) from error


def _mask_folder(index: DataIndex, root: Path) -> Path:
    if index.layout != "folders" or not (root / "images").is_dir() or index.code.colours is not None:
        raise ConfigError(
            f"masks are taken into folders images/ and masks/ of index masks; this one is read as {index.layout!r}",
            where=root, todo=f"make such a folder first: fewmask labels export {root} --to png --images -o NEW",
        )  # fmt: skip
    return root / "masks"
