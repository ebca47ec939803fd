"""Masks on their way to a labelling tool: ``fewmask labels export``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.batch import IGNORE, OPEN
from fewmask.config import dump_yaml
from fewmask.data.datayaml import FILE_NAME, DataYaml
from fewmask.data.declared import load_data_yaml
from fewmask.data.index import DataIndex, Item
from fewmask.data.roles import role_folder
from fewmask.data.writers import WRITERS, Annotated, Tool
from fewmask.engine.files import write_atomic
from fewmask.errors import DataError
from fewmask.run.data import masked_index
from fewmask.run.incoming import open_folder
from fewmask.run.matching import by_name, masked
from fewmask.run.notes import Say
from fewmask.run.written import annotated, copy_images, refuse_full, refuse_names, write_files


def export_labels(
    root: Path, out: Path, tool: Tool, images: bool, say: Say, declared: DataYaml | None = None
) -> dict[str, Any]:  # fmt: skip
    """Write the masks of a data folder as a labelling tool imports them.

    Args:
        root: the data folder.
        out: the output; may not exist, or be empty.
        tool: which.
        images: copy the images, too; for "png" all of them, with what data.yaml says, so that it is the same data set.
        say: receives a sentence.
        declared: what counts in place of the folder's data.yaml; None reads its own.

    Returns:
        {"out", "tool", "masks", "classes"}.

    Raises:
        DataError: the data cannot be read, or hold no mask, or the tool cannot have a class of that name.
        ConfigError: ``out`` holds files, or a package is missing.
        WriteError: the disk refused.
    """
    index = open_folder(root, declared=declared)
    items = _annotated(index, say)
    if not items:
        raise DataError("there are no masks to export", where=root)
    refuse_full(out)
    refuse_names([tool], index.classes)
    held = set[int]()

    def read() -> Iterator[Annotated]:
        for item in items:
            one = annotated(item, index)
            held.update(np.unique(one.mask).tolist())
            yield one

    write_files(out, WRITERS[tool](read(), index.classes, False))
    if images:
        copy_images(items if tool != "png" else by_name(index).values(), out)
    if tool == "png" and (told := _declared(index, declared or load_data_yaml(root) or DataYaml(), out, held, images)):
        write_atomic(out / FILE_NAME, dump_yaml(told))
    say(f"{len(items)} masks of {len(index.classes)} classes in {out}, for {tool}")
    return {"out": str(out), "tool": tool, "masks": len(items), "classes": list(index.classes)}


def _annotated(index: DataIndex, say: Say) -> list[Item]:
    """Return the items with a mask that somebody has drawn: data.yaml may say that blank ones are none."""
    items = masked(index)
    known = {item.name for item in masked(masked_index(index))}
    if blank := len(items) - len(known):
        say(f"{blank} blank masks are left out: nobody annotated them, as data.yaml says")
    return [item for item in items if item.name in known]


def _declared(index: DataIndex, said: DataYaml, out: Path, held: set[int], images: bool) -> dict[str, Any]:
    """Return what the files alone do not say of the data set, as data.yaml spells it; lists that it names are written.

    Args:
        index: the data set.
        said: what is declared of it.
        out: has the masks, of class indices.
        held: the values that stand in these.
        images: all images are there, too.
    """
    told: dict[str, Any] = {}
    if index.code.unlabelled is not None:
        told["unlabelled_id"] = OPEN
    if index.code.ignore or held == {0, IGNORE}:  # of these two alone 255 could be a class
        renamed = index.code.mapping is not None or index.code.colours is not None
        kept = () if renamed else index.code.ignore
        told["ignore"] = sorted({*(i for i in kept if i >= len(index.classes) and i not in told.values()), IGNORE})
    if images:
        told |= _roles(index, out) | _groups(index, said, out)
        if index.images.bands or index.images.colours_only:
            told["channels"] = [band.told() for band in index.images.bands] or "rgb"
        if index.empty_masks:  # black may be another class now, and those that nobody annotated are left out
            told["empty_masks"] = index.empty_masks if index.code.blank == 0 else "labelled"
    if index.exif and (images or told):
        told["exif"] = index.exif
    return told


def _roles(index: DataIndex, out: Path) -> dict[str, Any]:
    """Write lists of the val and test images, and return what names them, where their names do not spell it."""
    lists = {
        role: [item.name for item in index.items[role]] for role in ("val", "test")
        if any(role_folder(item.name) != role for item in index.items[role])
    }  # fmt: skip
    for role, found in lists.items():
        write_atomic(out / f"{role}.txt", "".join(f"{name}\n" for name in found))
    return {"roles": {role: f"{role}.txt" for role in lists}} if lists else {}


def _groups(index: DataIndex, said: DataYaml, out: Path) -> dict[str, Any]:
    """Return the rule of groups; one that names a file becomes a list of the images here."""
    if said.groups is None:
        return {}
    beside = [index.root, *([said.aside.parent] if said.aside else []), Path()]
    if not any(os.path.isfile(folder / said.groups) for folder in beside):
        return {"groups": said.groups}
    rows = [f"{item.name}\t{item.group}\n" for item in by_name(index).values() if item.group]
    write_atomic(out / "groups.tsv", "".join(rows))
    return {"groups": "groups.tsv"}
