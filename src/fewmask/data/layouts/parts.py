"""A folder of data sets with the same classes: the exports of several tasks, or a folder a site, read as one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from fewmask.data.colours import spelled
from fewmask.data.datayaml import FILE_NAME, DataYaml
from fewmask.data.declared import load_data_yaml
from fewmask.data.files import hidden, image_files
from fewmask.data.findings import Remark
from fewmask.data.index import NO_ID, ROLES
from fewmask.data.layouts.aside import add_unlabelled, tell_of_unused
from fewmask.data.layouts.found import Found, join
from fewmask.data.layouts.legend import legend
from fewmask.data.layouts.names import IMAGE_FOLDERS
from fewmask.data.layouts.tools import MASK_FOLDERS, UNLABELLED
from fewmask.data.roles import role_folder
from fewmask.errors import ConfigError, DataError

Reader = Callable[[Path, DataYaml], Found | None]

_NO_MASKS = "no masks"
_OF_A_PART = ("version", "layout", "images", "masks", "classes", "ignore", "colours")
"""What a data.yaml inside a part may say; the rest holds for all of them."""


def read_parts(root: Path, read: Reader) -> Found | None:
    """Read the folders in ``root`` that hold images, each as what it looks like; an image is called FOLDER/X.

    A folder that is called as a role gives it to its images. One called "unlabelled" is no part.

    Args:
        root: the folder.
        read: reads one of them; None = it is like no layout.

    Returns:
        None where none of them is like a layout.

    Raises:
        DataError: some are and others are not, or their classes are not the same, or not spelled the same.
        ConfigError: a data.yaml in one of them says what only that of ``root`` can.
    """
    folders = [path for path in sorted(root.iterdir()) if _may_be_part(path)]
    told = {path.name: _part(path, read) for path in folders}
    parts = {name: found for name, found in told.items() if found is not None}
    labelled = {name: part for name, part in parts.items() if part.layout != _NO_MASKS}
    if not labelled:
        return None
    _all_alike(root, labelled, told.keys() - parts.keys())
    first = next(iter(labelled.values()))
    layout = ", ".join(dict.fromkeys(part.layout for part in labelled.values()))
    whole = Found(layout, {role: [] for role in ROLES}, classes=first.classes, code=first.code)
    whole.notes.append(f"{len(parts)} folders read as one, an image's name begins with its folder: {_listed(parts)}")
    for name, part in parts.items():
        own = role_folder(f"{name}/x")
        for role, items in part.roles.items():
            whole.roles[own or role] += [replace(item, name=f"{name}/{item.name}") for item in items]
        whole.notes += [_within(name, note) for note in part.notes]
    return whole


def _may_be_part(path: Path) -> bool:
    if not path.is_dir() or hidden(path.name) or path.name.lower() in UNLABELLED:
        return False
    return bool(image_files(path.parent, path.name, []))


def _part(path: Path, read: Reader) -> Found | None:
    declared = load_data_yaml(path) or DataYaml()
    if not declared.model_fields_set and (bare := _without_masks(path)) is not None:
        return bare
    if odd := sorted(declared.model_fields_set.difference(_OF_A_PART)):
        todo = f"move it into {path.parent / FILE_NAME}"
        raise ConfigError(f"{odd[0]} holds for all folders beside this one", where=path / FILE_NAME, todo=todo)
    if (found := read(path, declared)) is None:
        return None
    if declared.images is None and declared.masks is None:
        add_unlabelled(path, found)
        tell_of_unused(path, found)
    found.classes, found.code = legend(path, declared, found)
    return found


def _without_masks(path: Path) -> Found | None:
    """Return a part of a folder of images and no mask, as of a site that nobody has labelled yet; None = it is none."""
    folders = {p.name.lower(): p for p in path.iterdir() if p.is_dir() and not hidden(p.name)}
    images = [folder for name, folder in folders.items() if name in IMAGE_FOLDERS]
    others = [folder for name, folder in folders.items() if name not in (*IMAGE_FOLDERS, *MASK_FOLDERS)]
    masks = [folder for name, folder in folders.items() if name in MASK_FOLDERS]
    if len(images) != 1 or others or any(file.is_file() for mask in masks for file in mask.rglob("*")):
        return None
    if any(p.is_file() and not hidden(p.name) for p in path.iterdir()):
        return None  # it may say where the masks are
    items = join(image_files(path, images[0].name, []), {}, [])
    note = f"{len(items)} images and no mask: unlabelled"
    return Found(_NO_MASKS, {"train": items, "val": [], "test": []}, [note])


def _all_alike(root: Path, parts: Mapping[str, Found], others: Collection[str]) -> None:
    """Refuse folders that cannot be one data set."""
    first, of_first = next(iter(parts.items()))
    if others:
        raise DataError(
            f"{first!r} is read as {of_first.layout!r}, and {_listed(sorted(others))} beside it as nothing", where=root,
            todo="move images without masks into a folder 'unlabelled' there: unlabelled/"
            f"{min(others)}/…; or name {root / first} alone",
        )  # fmt: skip
    for name, part in parts.items():
        if differ := _apart(_spelled(of_first), _spelled(part)):
            told = ", ".join(f"{stored} is {one} in {first!r} and {other} in {name!r}" for stored, one, other in differ)
            raise DataError(
                f"the folders have other classes: {told}", where=root,
                todo="export all of them with the same labels in one format, or name one of the folders",
            )  # fmt: skip


def _apart(one: Mapping[str, str], other: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Return up to three (value in masks, what it is, what it is elsewhere) of those that are not the same."""
    values = [value for value in dict.fromkeys([*one, *other]) if one.get(value) != other.get(value)]
    return [(value, one.get(value, "nothing"), other.get(value, "nothing")) for value in values[:3]]


def _spelled(part: Found) -> dict[str, str]:
    """Return the class of each value that its masks may hold, whatever the order of the classes."""
    names, code = part.classes, part.code
    learned = dict(code.mapping) if code.mapping is not None else {i: i for i in range(len(names))}
    named = {i: repr(names[k]) if k < len(names) else f"class {k}" for i, k in learned.items()}
    named |= dict.fromkeys(code.ignore, "void")
    if code.colours is None:
        return {f"value {i}": name for i, name in named.items()}
    return {
        f"colour {spelled(colour)}": "void" if i == NO_ID else named.get(i, f"class {i}") for colour, i in code.colours
    }


def _listed(names: Collection[str]) -> str:
    return ", ".join(list(names)[:8]) + (", …" if len(names) > 8 else "")


def _within(name: str, note: str) -> str:
    """Return a part's note as one of the whole, with its findings."""
    if not isinstance(note, Remark):
        return f"{name}: {note}"
    each = [
        replace(one, name=one.name and f"{name}/{one.name}", names=tuple(f"{name}/{n}" for n in one.names))
        for one in note.findings
    ]
    return Remark(f"{name}: {note}", each)
