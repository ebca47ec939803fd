"""Who plays which part: roles of images, and the division where none is declared."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from fewmask.data.folds import units_of
from fewmask.data.index import Item, Role
from fewmask.data.lists import match, read_list
from fewmask.errors import DataError
from fewmask.ops.rng import Draws, Purpose

_FOLDERS: dict[str, Role] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


_YEAR = re.compile(r"[-_ ]?(19|20)[0-9]{2}$")
"""Of a challenge, as in train2017; other numbers may count videos."""


def role_folder(name: str) -> Role | None:
    """Return the role that the first folder of an image's name spells in whatever case, if it spells one."""
    first, slash, _ = name.partition("/")
    return _FOLDERS.get(_YEAR.sub("", first.lower())) if slash else None


def below_role(name: str) -> str:
    """Return an image's name without its role folder: what groups are read from."""
    return name.partition("/")[2] if role_folder(name) else name


def roles_by_folder(items: Sequence[Item], root: Path) -> tuple[dict[Role, list[Item]], list[str]]:
    """Give every item the role that its first folder spells; without such folders all are "train".

    Beside role folders, images without a mask are unlabelled training images.

    Returns:
        Items per role, and sentences for the reader.

    Raises:
        DataError: images with masks stand beside the role folders.
    """
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    beside = [] if all(role_folder(i.name) is None for i in items) else [i for i in items if not role_folder(i.name)]
    for item in items:
        roles[role_folder(item.name) or "train"].append(item)
    masked = [i.name for i in beside if i.mask is not None]
    if masked:
        raise DataError(
            f"{len(masked)} labelled images stand outside train, val and test, first {masked[0]!r}",
            where=root,
            todo="move them into one of these folders, or write roles in data.yaml",
        )
    note = f"{len(beside)} images outside train, val and test have no mask: unlabelled training images"
    return roles, [note] if beside else []


def roles_by_pattern(
    items: Sequence[Item], declared: Mapping[Role, Sequence[str]], root: Path, aside: Path | None = None
) -> tuple[dict[Role, list[Item]], list[str]]:
    """Give items their roles as ``roles`` in data.yaml declares them; without "train", all others are that.

    Args:
        items: all images.
        declared: per role, globs over names (``*`` also spans folders) or ``.txt`` lists below ``root``.
        root: the data folder.
        aside: the file that declares them, where it is not the folder's own: lists may lie beside it, and anywhere.

    Raises:
        DataError: a pattern or list names nothing, or an image gets two roles.
    """
    where = aside or root / "data.yaml"
    role_of: dict[str, Role] = {}
    for role, patterns in declared.items():
        for pattern in patterns:
            for item in _matching(items, pattern, root, aside):
                if role_of.setdefault(item.name, role) != role:
                    what = f"roles: {item.name!r} is both {role_of[item.name]} and {role}"
                    raise DataError(what, where=where, todo="give each image one role")
    rest = [i for i in items if i.name not in role_of]
    roles: dict[Role, list[Item]] = {
        role: [i for i in items if role_of.get(i.name) == role] for role in ("train", "val", "test")
    }
    if "train" not in declared:
        roles["train"] = rest
        return roles, []
    return roles, [f"{len(rest)} images have no role in data.yaml and are left out"] if rest else []


def roles_by_place(
    items: Sequence[Item], places: Mapping[Role, Sequence[str]], root: Path, aside: Path | None = None
) -> tuple[dict[Role, list[Item]], list[str]]:
    """Give items their roles as ``train``, ``val`` and ``test`` in Ultralytics' data.yaml name folders or lists.

    Paths are those of the machine that wrote them, so what leads there is dropped until the rest is here. Images that
    none of them names keep the role that their folder spells, unless that is one which was found; without a mask they
    are training images, with one they are left out where the training images are named.

    Args:
        items: all images.
        places: per role, folders or ``.txt`` lists.
        root: the data folder.
        aside: as in ``roles_by_pattern``.

    Raises:
        DataError: an image gets two roles.
    """
    where, notes = aside or root / "data.yaml", list[str]()
    role_of: dict[str, Role] = {}
    for role, entries in places.items():
        for entry in entries:
            if (found := _placed(items, entry, root, aside)) is None:
                notes.append(f"{role}: {entry!r}, as data.yaml says, is not here")
            for item in found or ():
                if role_of.setdefault(item.name, role) != role:
                    what = f"{item.name!r} is both {role_of[item.name]} and {role}"
                    raise DataError(what, where=where, todo="give each image one role")
    known, lost = set(role_of.values()), list[str]()
    roles: dict[Role, list[Item]] = {"train": [], "val": [], "test": []}
    for item in items:
        spelt = role_folder(item.name)
        role = role_of.get(item.name) or (spelt if spelt not in known else None)
        if role is None and item.mask is not None and "train" in known:
            lost.append(item.name)
        else:
            roles[role or "train"].append(item)
    if lost:
        what = f"{len(lost)} masked images have no role in data.yaml and are left out, first {lost[0]!r}"
        notes.append(what)
    return roles, notes


def _placed(items: Sequence[Item], entry: str, root: Path, aside: Path | None) -> list[Item] | None:
    """Return the images in a folder or list that another machine may have named; None where it is not here."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(max(1, len(parts) - 1)):  # a last part alone would fit too much
        for base in (root,) if aside is None else (root, aside.parent):
            place = base.joinpath(*parts[start:])
            if place.suffix == ".txt" and place.is_file():
                return list(match(read_list(place), items))
            if parts and place.is_dir():
                return [item for item in items if item.image.is_relative_to(place)]
    return None


def _matching(items: Sequence[Item], pattern: str, root: Path, aside: Path | None) -> Iterable[Item]:
    where = aside or root / "data.yaml"
    if pattern.endswith(".txt"):
        leads_out = ".." in Path(pattern).parts or Path(pattern).is_absolute()
        places = [root / pattern] if aside is None else [root / pattern, aside.parent / pattern]
        path = next((p for p in places if p.is_file() and (aside is not None or not leads_out)), None)
        if path is None:
            beside = " or beside that file" if aside is not None else ""
            raise DataError(f"roles: no list {pattern!r} in the data folder{beside}", where=where)
        return match(read_list(path), items)
    glob = _glob(pattern)
    found = [i for i in items if glob.match(i.name)]
    if not found:
        todo = f"names look like {items[0].name!r}"
        raise DataError(f"roles: no image matches {pattern!r}", where=where, todo=todo)
    return found


def _glob(pattern: str) -> re.Pattern[str]:
    """Return what matches a glob of which only the star means something; it never goes back, so none takes long."""
    return re.compile(fnmatch.translate(re.sub(r"[\[?]", r"[\g<0>]", pattern)))


def draw_val(
    train: Sequence[Item], fraction: float, seed: int, together: Sequence[Sequence[str]] = (),
    kept: Collection[str] = (),
) -> tuple[list[Item], list[Item], str]:  # fmt: skip
    """Divide training images into training and validation images, groups and equal pictures kept whole.

    Every group (or image without one) has a rank that depends on the seed and its own name only, so new images
    move few old ones. Groups are taken in order of rank where they fit into ``fraction`` of the labelled images;
    where none fits, the smallest is taken. Unlabelled images of a group that went to "val" are left out, and so are
    those that show the same as one that did.

    Args:
        train: items, some with masks.
        fraction: share of the labelled images to take, 0 <= fraction < 1.
        seed: which ones.
        together: names of images that show the same, in sets.
        kept: names of the validation images of an earlier run: where any has a mask still, they alone are taken.

    Returns:
        Training items, validation items, and a sentence that says what was done.
    """
    units = _units([item for item in train if item.mask is not None], together)
    labelled = sum(len(unit) for unit in units.values())
    if fraction == 0 or len(units) < 2:
        why = "none was asked for" if fraction == 0 else f"{labelled} labelled images are too few, or one group"
        return list(train), [], f"no val images: {why}"
    again = [unit for unit, items in units.items() if any(i.name in kept for i in items)]
    chosen = again or _drawn(units, min(max(1, round(fraction * labelled)), labelled - 1), seed)
    val = {i.name for unit in chosen for i in units[unit]}
    groups = {i.group for unit in chosen for i in units[unit]} - {""}
    same = {name for names in together if val.intersection(names) for name in names}
    left_out = [i.name for i in train if i.mask is None and (i.group in groups or i.name in same)]
    how = "those of the run before" if again else f"drawn with split seed {seed}"
    note = f"val: {len(val)} of {labelled} labelled images, {how}"
    note += f", {len(groups)} groups kept whole" if groups else ""
    note += f"; {len(left_out)} unlabelled images of these groups or pictures are left out" if left_out else ""
    gone = val.union(left_out)
    return [i for i in train if i.name not in gone], [i for i in train if i.name in val], note


def _drawn(units: Mapping[str, Sequence[Item]], target: int, seed: int) -> list[str]:
    """Return the units that fit into so many images in the order of their rank; the smallest one where none does."""
    ranked = sorted(units, key=lambda u: (_rank(u, seed), u))
    chosen, taken = list[str](), 0
    for unit in ranked:
        if taken + len(units[unit]) <= target:
            chosen.append(unit)
            taken += len(units[unit])
    return chosen or [min(ranked, key=lambda u: len(units[u]))]


def _units(items: Sequence[Item], together: Sequence[Sequence[str]]) -> dict[str, list[Item]]:
    """Return what is drawn as one: groups, lone images, and such of them as share a picture, under their first name."""
    of = {item.name: item for item in items}
    own = {item.name: f"group {item.group}" if item.group else f"image {item.name}" for item in items}
    return {min(own[n] for n in names): [of[n] for n in names] for names in units_of(items, together)}


def _rank(unit: str, seed: int) -> int:
    digest = sha256(unit.encode("utf-8", "surrogateescape")).digest()
    return int(Draws(seed, Purpose.DIVISION, step=int.from_bytes(digest[:8], "big")).words(1)[0])
