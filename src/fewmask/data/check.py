"""What is this data? Counts, classes, sizes, encodings, and every doubt, in one report; nothing is trained.

*Problems* must be settled before training; *doubts* are worth a look; *notes* say how the folder was read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewmask.data.checked import CheckReport
from fewmask.data.datayaml import DataYaml
from fewmask.data.doubts import class_rows, doubts_about, members_of, uncounted_share
from fewmask.data.findings import Finding
from fewmask.data.folds import USUAL, folds_for
from fewmask.data.groups import groups_of
from fewmask.data.index import ROLES, DataIndex, Item, Role
from fewmask.data.layouts import MASKLESS, read_folder, with_classes, with_val, without_empty_masks
from fewmask.data.pool import IndexPool, read_index
from fewmask.data.scan import Scan, scan
from fewmask.errors import ConfigError, DataError
from fewmask.ops.rng import Permutation

_MANY_EMPTY = 0.2  # share of the masks above which black ones look like frames that nobody annotated


def check(
    root: Path,
    *,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    groups: str | None = None,
    sample: int | None = None,
    pool: Path | None = None,
    outside: bool = False,
    cache: Path | Literal[False] | None = None,
    threads: int | None = None,
    declared: DataYaml | None = None,
    tick: Callable[[int, int], object] = lambda done, of: None,
) -> CheckReport:
    """Read a data folder, open its images and masks, and report.

    Args:
        root: the folder.
        val_fraction: as in ``read_folder``.
        split_seed: as in ``read_folder``.
        groups: as in ``read_folder``.
        sample: open only so many images of the folder (and their masks) and so many of the pool, the same ones each
            time; None: all.
        pool: index file of unlabelled images, which stand in for those of the folder, as in a training.
        outside: the pool may name images anywhere.
        cache: as in ``scan``.
        threads: as in ``scan``.
        declared: as in ``read_folder``.
        tick: as in ``scan``.

    Raises:
        DataError: there is no data set to report on. What is wrong inside one is in ``problems``.
        ConfigError: a wrong data.yaml or argument.
    """
    index = read_folder(root, val_fraction=None, split_seed=split_seed, groups=groups, declared=declared)
    if sample is not None and sample < 1:
        raise ConfigError(f"--sample {sample} opens nothing", todo="use 1 or more")
    listed = _read_pool(index, pool, outside)
    index = index if listed is None else _without_unlabelled(index, listed)
    notes: list[str] = []
    items = _drawn([i for role in ROLES for i in index.items[role]], sample, "", notes)
    others = [] if listed is None else [_placed(i, n, listed) for n, i in _lines(listed, sample, notes)]
    whole = len(items) == sum(map(len, index.items.values()))
    opened = [*items, *others]
    count = len(index.classes) or None
    found = scan(opened, count, index.code, cache=cache, threads=threads, exif=index.exif, tick=tick)
    index = _as_trained(index, val_fraction, split_seed, found)
    problems = list(found.problems)
    if black := empty_mask_doubt(found, index):
        # where 255 may be a class, they may hold it
        problems += [] if any(one.kind == "two_readings" for one in problems) else [black]
    elif index.empty_masks == "unlabelled" and found.empty_masks:
        index = without_empty_masks(index, found)
    if not any(row["labelled"] for row in (_count(index.items[role]) for role in ROLES)):
        problems.append(Finding("no_mask", "no image has a mask", str(index.root), MASKLESS))
    try:
        index = with_classes(index, found)
    except DataError as e:
        problems += [] if problems else [Finding("classes", e.what, e.where, e.todo)]
    twins = duplicate_images(index, found, others)
    problems += leaks(twins)
    together = groups_of(index)
    doubts = doubts_about(index, found, twins, whole, together, others)
    notes += _notes_on(found)
    roles = {role: _count(index.items[role]) for role in ROLES}
    if listed is not None:
        roles["train"] = {k: n + len(listed) * (k != "labelled") for k, n in roles["train"].items()}
    return CheckReport(
        root=str(index.root),
        layout=index.layout,
        roles=roles,
        classes=class_rows(index, found),
        sizes=_sizes(found.sizes),
        encodings=found.encodings,
        groups=members_of(index, together[0]),
        groups_from=together[1],
        duplicates=tuple(tuple(f"{role}/{item.name}" for role, item in same) for same in twins),
        opened=len(opened),
        notes=(*index.notes, *notes),
        doubts=tuple(doubts),
        problems=tuple(problems),
        index=index,
        uncounted=uncounted_share(found),
        pool=None if listed is None else {"file": str(pool), "images": len(listed), "opened": len(others)},
    )


def _drawn(items: Sequence[Any], sample: int | None, of: str, notes: list[str]) -> list[Any]:
    """Return all, or a sample, the same each time; a note says so."""
    if sample is None or sample >= len(items):
        return list(items)
    order = Permutation(len(items), seed=0)
    notes.append(f"only {sample} of {len(items)} images{of} were opened")
    return [items[order[i]] for i in range(sample)]


def _read_pool(index: DataIndex, pool: Path | None, outside: bool) -> IndexPool | None:
    """Return an index file of unlabelled images, read as a training reads it."""
    if pool is None:
        return None
    known = [i.image for i in (*index.labelled, *index.items["val"], *index.items["test"])]
    return read_index(pool, index.root, known, anywhere=outside, code=index.images)


def _without_unlabelled(index: DataIndex, pool: IndexPool) -> DataIndex:
    """Return the data set without the unlabelled images of its folder, which a training with a pool does not use."""
    left = len(index.items["train"]) - len(index.labelled)
    note = f"{len(pool)} unlabelled images of {pool.path}"
    note += f"; the {left} unlabelled ones of the folder are not used beside them" if left else ""
    return replace(index, items=index.items | {"train": index.labelled}, notes=(*index.notes, note))


def _lines(pool: IndexPool, sample: int | None, notes: list[str]) -> list[tuple[int, Item]]:
    return [(n, pool[n]) for n in _drawn(range(len(pool)), sample, f" of {pool.path.name}", notes)]


def _placed(item: Item, line: int, pool: IndexPool) -> Item:
    """Return an item of the pool under a name that no image of the folder has, and that says where it stands."""
    return replace(item, name=f"{pool.path.name} line {line + 1}: {item.name}")


def _as_trained(index: DataIndex, val_fraction: float, split_seed: int, found: Scan) -> DataIndex:
    """Return the data set with what a training without flags would do for want of val images."""
    if index.items["val"]:
        return index
    if folds_for(index.labelled, val_fraction) == 1:
        together = [[item.name for _, item in same] for same in duplicate_images(index, found)]
        return with_val(index, val_fraction, split_seed, together)
    note = f"no val images: train scores each labelled image by networks that have not seen it, in {USUAL} folds "
    return replace(index, notes=(*index.notes, f"{note}(--folds 1 holds {val_fraction:.0%} out instead)"))


def remarks(index: DataIndex, found: Scan) -> tuple[list[str], list[str]]:
    """Return the notes and the doubts about a data set that was read and scanned without a problem.

    Args:
        index: the data set.
        found: a scan of all its images, or of those that are used.
    """
    doubts = doubts_about(index, found, duplicate_images(index, found), whole=True, groups=groups_of(index))
    return [str(note) for note in (*index.notes, *_notes_on(found))], list(map(str, doubts))


def _notes_on(found: Scan) -> list[str]:
    todo = "the next look at these files opens all of them again; name another folder in XDG_CACHE_HOME"
    notes = [f"what was found is not remembered: {found.lost}; {todo}"] if found.lost else []
    if not found.open.any():
        return notes
    share = found.open.sum() / found.counts[found.open > 0].sum()
    many = f"{(found.open > 0).sum()} of {found.masked.sum()} masks"
    return [*notes, f"{many} are finished in part: nobody has labelled {share:.0%} of their pixels yet"]


def empty_mask_doubt(found: Scan, index: DataIndex) -> Finding | None:
    """Return a problem if more than a fifth of the masks are blank and data.yaml does not say why.

    Labelling tools export frames that nobody annotated as black masks: only the owner knows which these are.
    """
    masks, empty = int(found.masked.sum()), len(found.empty_masks)
    if empty <= _MANY_EMPTY * masks or index.empty_masks is not None:
        return None
    what = f"{empty} of {masks} masks hold class {index.code.blank} only, first {found.empty_masks[0]!r}"
    todo = "write in data.yaml: empty_masks: labelled (nothing else is there), or empty_masks: unlabelled"
    todo += " (nobody annotated them)"
    return Finding("empty_masks", what, str(index.root), todo, value=empty, names=found.empty_masks)


def duplicate_images(
    index: DataIndex, found: Scan, pool: Sequence[Item] = ()
) -> list[list[tuple[Role, Item]]]:  # fmt: skip
    """Return images with the same pixels, under whatever name or lossless format, in sets of two or more.

    Only images that the scan has decoded are compared.

    Args:
        index: the data set.
        found: a scan.
        pool: unlabelled training images beside those of the data set.
    """
    content = dict(zip(found.names, found.contents, strict=True))
    same: dict[str, list[tuple[Role, Item]]] = defaultdict(list)
    for role in ROLES:
        for item in (*index.items[role], *(pool if role == "train" else ())):
            if key := content.get(item.name):
                same[key].append((role, item))
    return [items for items in same.values() if len(items) > 1]


def leaks(twins: Sequence[Sequence[tuple[Role, Item]]], allowed: Collection[str] = ()) -> list[Finding]:
    """Return a problem for every image that shows the same as one of an earlier role, but for allowed names.

    Args:
        twins: as ``duplicate_images`` returns them.
        allowed: names that do not count.
    """
    found = []
    for every in twins:
        same = [pair for pair in every if pair[1].name not in allowed]
        same.sort(key=lambda pair: ROLES.index(pair[0]))
        for role, item in same:
            (earlier, first), todo = same[0], "keep it in one role, or name it in data.allow_leaks"
            if role != earlier:
                what = f"the same picture stands in {earlier} ({first.name!r}) and {role} ({item.name!r})"
                where, value = str(item.image), str(first.image)
                found.append(Finding("same_picture", what, where, f"{todo} ({item.name})", item.name, value))
    return found


def _sizes(sizes: np.ndarray) -> dict[str, Any]:
    read = sorted(map(tuple, sizes[sizes[:, 0] > 0].tolist()), key=lambda hw: (hw[0] * hw[1], hw))
    if not read:
        return {}
    chosen = {"min": read[0], "median": read[len(read) // 2], "max": read[-1]}
    return {key: list(hw) for key, hw in chosen.items()} | {"distinct": len(set(read))}


def _count(items: Sequence[Item]) -> dict[str, int]:
    labelled = sum(i.mask is not None for i in items)
    return {"images": len(items), "labelled": labelled, "unlabelled": len(items) - labelled}
