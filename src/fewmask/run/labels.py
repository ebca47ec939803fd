"""Masks on their way to a labelling tool and back: ``fewmask labels export | import | diff``."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import replace as replace_field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE
from fewmask.config import dump_yaml
from fewmask.data.datayaml import DataYaml
from fewmask.data.files import place_below
from fewmask.data.images import item_size
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts import read_unlabelled
from fewmask.data.masks import nothing_id, read_mask, spelling
from fewmask.data.roles import role_folder
from fewmask.data.writers import WRITERS, Annotated, Tool
from fewmask.data.writers.annotated import png_bytes
from fewmask.engine.files import ensure_writable, write_atomic, write_errors
from fewmask.errors import ConfigError, DataError, WriteError
from fewmask.run.data import masked_index
from fewmask.run.incoming import Translation, by_name, masked, matched, open_folder, open_source
from fewmask.run.notes import Say

REPLACED = "replaced"
"""Folder of masks that an import has put others in the place of."""


@dataclass(frozen=True)
class Change:
    """What became of one mask.

    Attributes:
        name: of the image.
        state: "new", "gone" or "changed".
        pixels: how many of them have another class; those of the whole mask for "new" and "gone".
        of: pixels of the mask.
        moves: (from, to) to pixels, class names; "void" is what does not count.
    """

    name: str
    state: str
    pixels: int
    of: int
    moves: dict[tuple[str, str], int]


def export_labels(
    root: Path, out: Path, tool: Tool, images: bool, say: Say, declared: DataYaml | None = None
) -> dict[str, Any]:  # fmt: skip
    """Write the masks of a data folder as a labelling tool imports them.

    Args:
        root: the data folder.
        out: the output; may not exist, or be empty.
        tool: which.
        images: copy the images, too; for "png" all of them, with their roles, so that it is the same data set.
        say: receives a sentence.
        declared: what counts in place of the folder's data.yaml; None reads its own.

    Returns:
        {"out", "tool", "masks", "classes"}.

    Raises:
        DataError: the data cannot be read, or hold no mask.
        ConfigError: ``out`` holds files, or a package is missing.
        WriteError: the disk refused.
    """
    index = open_folder(root, declared=declared)
    items = masked(index)
    if not items:
        raise DataError("there are no masks to export", where=root)
    refuse_full(out)

    def read() -> Iterator[Annotated]:
        for item in items:
            assert item.mask is not None
            yield Annotated(item.name, f"{item.name}{item.image.suffix}", read_mask(item.mask, index.code))

    write_files(out, WRITERS[tool](read(), index.classes, False))
    if images:
        copy_images(items if tool != "png" else by_name(index).values(), out)
        if tool == "png":
            _write_roles(index, out)
    say(f"{len(items)} masks of {len(index.classes)} classes in {out}, for {tool}")
    return {"out": str(out), "tool": tool, "masks": len(items), "classes": list(index.classes)}


def _write_roles(index: DataIndex, out: Path) -> None:
    """Write lists of the val and test images, and a data.yaml that names them, where their names do not spell it."""
    lists = {
        role: [item.name for item in index.items[role]] for role in ("val", "test")
        if any(role_folder(item.name) != role for item in index.items[role])
    }  # fmt: skip
    for role, found in lists.items():
        write_atomic(out / f"{role}.txt", "".join(f"{name}\n" for name in found))
    declared = {"roles": {role: f"{role}.txt" for role in lists}} if lists else {}
    declared |= {"exif": index.exif} if index.exif else {}
    if declared:
        write_atomic(out / "data.yaml", dump_yaml(declared))


def import_labels(
    source: Path, root: Path, replace: bool, say: Say, declared: DataYaml | None = None
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

    Returns:
        {"new", "changed", "same", "unknown", "replaced"}: names of images, and the folder of old masks or null.

    Raises:
        DataError: the source cannot be read, has a class that the data do not know, a mask of another size, or none of
            an image of the folder.
        ConfigError: masks differ and ``replace`` is false; the folder is of another layout. Nothing is written then.
        WriteError: the disk refused.
    """
    empty = read_unlabelled(root, declared)
    whole = open_folder(root, declared=declared) if empty is None else empty
    index = masked_index(whole)
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
        ours, translation = by_name(index), Translation(found, index, source)
        new, changed, same = list[str](), list[str](), list[str]()
        for name, item in theirs.items():
            mask = translation.read(item)
            if (mask == IGNORE).any() and IGNORE in index.file_ids and not index.code.ignore:
                what = f"in the mask of {name!r} pixels do not count, and no id says so here: 255 is a class"
                raise DataError(what, where=root / "data.yaml", todo="write ignore: [254] there, or another free id")
            state = _compared(mask, ours[name], index, source)
            {"new": new, "changed": changed, "same": same}[state].append(name)
        if changed and not replace:
            raise ConfigError(
                f"{len(changed)} masks are there and differ, first {changed[0]!r}; nothing was written", where=root,
                todo="see fewmask labels diff, and give --replace: the old ones are kept",
            )  # fmt: skip
        had = by_name(whole)  # with the masks that data.yaml calls not annotated
        over = any(had[name].mask is not None for name in (*new, *changed))
        kept = root / REPLACED / datetime.now().strftime("%Y-%m-%d-%H%M%S") if over else None
        ids = spelling(index.file_ids, nothing_id(index.file_ids, index.code.ignore))
        if not named:
            write_atomic(root / "classes.txt", "".join(f"{name}\n" for name in index.classes))
        with write_errors(place):
            for name in (*new, *changed):  # read again: all of them may be more than the memory holds
                _put(place, name, ids[translation.read(theirs[name])], had[name].mask, root, kept)
    counts = f"{len(new)} new masks, {len(changed)} changed, {len(same)} the same"
    say(f"{counts}; {len(unknown)} of images that are not here")
    return {
        "new": new, "changed": changed, "same": same, "unknown": unknown, "replaced": str(kept) if kept else None,
    }  # fmt: skip


def _compared(mask: np.ndarray, here: Item, index: DataIndex, source: Path) -> str:
    """Return whether a mask is "new", "changed" or the "same" as that of our image.

    Raises:
        DataError: it is of another size than the image.
    """
    old = None if here.mask is None else read_mask(here.mask, index.code)
    size = item_size(here) if old is None else old.shape
    if mask.shape != size:
        what = f"the mask of {here.name!r} is {mask.shape[1]}x{mask.shape[0]}, the image {size[1]}x{size[0]}"
        raise DataError(what, where=source, todo="export it at the size of the image")
    return "new" if old is None else "same" if np.array_equal(mask, old) else "changed"


def diff_labels(before: Path, after: Path, declared: DataYaml | None = None) -> list[Change]:
    """Return what differs between the masks of two data folders, the largest change first.

    Args:
        before: a data folder.
        after: another one, or a folder or archive as ``import_labels`` takes it.
        declared: what counts in place of the data.yaml of ``before``; None reads its own.

    Raises:
        DataError: one of them cannot be read, or classes or sizes do not fit.
    """
    old = open_folder(before, declared=declared)
    with tempfile.TemporaryDirectory(prefix="fewmask-") as scratch:
        new = open_source(after, old, Path(scratch), declared)
        translation, (theirs, _) = Translation(new, old, after), matched(new, old)
        names = [*old.classes, *["?"] * (IGNORE - len(old.classes)), "void"]
        changes = []
        for item in masked(old):
            assert item.mask is not None
            a, other = read_mask(item.mask, old.code), theirs.get(item.name)
            if other is None:
                changes.append(Change(item.name, "gone", a.size, a.size, {}))
                continue
            b = translation.read(other)
            if a.shape != b.shape:
                raise DataError(f"masks of {item.name!r} differ in size", where=after, todo="compare masks of one size")
            codes, counts = np.unique(a[a != b].astype(np.int64) * 256 + b[a != b], return_counts=True)
            moves = {(names[c // 256], names[c % 256]): n for c, n in zip(codes.tolist(), counts.tolist(), strict=True)}
            if moves:
                changes.append(Change(item.name, "changed", sum(moves.values()), a.size, moves))
        had = {item.name for item in masked(old)}
        for name, item in theirs.items():
            if name not in had:
                size = translation.read(item).size
                changes.append(Change(name, "new", size, size, {}))
    return sorted(changes, key=lambda c: (-c.pixels / c.of, c.name))


def total_moves(changes: Iterable[Change]) -> Counter[tuple[str, str]]:
    """Return how many pixels went from which class to which, in all masks."""
    return sum((Counter(c.moves) for c in changes), Counter())


# --- files ----------------------------------------------------------------------------------------------------------


def refuse_full(out: Path) -> None:
    """Refuse an output that holds anything.

    Raises:
        ConfigError: it does, or is a file.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ConfigError("the output holds files; nothing is written over", where=out, todo="give another -o")


def write_files(out: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write files below a folder.

    Raises:
        WriteError: the disk refused.
    """
    ensure_writable(out)
    for name, content in files:
        path = place_below(out, name)
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)


def copy_images(items: Iterable[Item], out: Path) -> None:
    """Copy images to ``out/images``, under their names.

    Raises:
        WriteError: the disk refused.
    """
    for item in items:
        path = place_below(out / "images", f"{item.name}{item.image.suffix}")
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(item.image, path)


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
