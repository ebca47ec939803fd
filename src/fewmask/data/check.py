"""What is this data? Counts, classes, sizes, encodings, and every doubt, in one report; nothing is trained.

*Problems* must be settled before training; *doubts* are worth a look; *notes* say how the folder was read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewmask.data.datayaml import DataYaml, load_data_yaml
from fewmask.data.describe import describe
from fewmask.data.doubts import ClassRow, class_rows, doubts_about, groups_of
from fewmask.data.folds import USUAL, folds_for
from fewmask.data.index import ROLES, DataIndex, Item, Role
from fewmask.data.layouts import read_folder, with_classes, with_val, without_empty_masks
from fewmask.data.scan import Problem, Scan, scan
from fewmask.errors import ConfigError, DataError
from fewmask.ops.rng import Permutation

_MANY_EMPTY = 0.2  # share of the masks above which black ones look like frames that nobody annotated
_SHOWN = 20  # lines of one kind in the text for humans; the JSON has all


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` found.

    Attributes:
        root: the data folder.
        layout: the layout it was read as.
        roles: role to {"images", "labelled", "unlabelled"}.
        classes: one row a class.
        sizes: {"min", "median", "max"} as [height, width], by area, and the number of "distinct" ones; of the
            images that were opened.
        encodings: kind of mask file to number of masks.
        groups: group to {role: images}; empty where there are none.
        groups_from: "declared", or "names" where they are only proposed; None without groups.
        duplicates: sets of images with the same pixels, each a list of "role/name".
        opened: images that were opened; fewer than there are with ``sample``.
        notes: how the folder was read.
        doubts: what is worth a look.
        problems: what must be settled before training; a caller leaves with exit code 3 if there are any.
        declaration: text of a data.yaml that says how the folder was read, or why none can.
    """

    root: str
    layout: str
    roles: dict[str, dict[str, int]]
    classes: tuple[ClassRow, ...]
    sizes: dict[str, Any]
    encodings: dict[str, int]
    groups: dict[str, dict[str, int]]
    groups_from: Literal["declared", "names"] | None
    duplicates: tuple[tuple[str, ...], ...]
    opened: int
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    problems: tuple[Problem, ...]
    declaration: str | ConfigError

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers, without the declaration."""
        found = asdict(replace(self, declaration=""))
        del found["declaration"]
        return found

    def lines(self) -> list[str]:
        """Return the report as text for humans, without control characters."""
        return [_printable(line) for line in self._lines()]

    def _lines(self) -> Iterator[str]:
        yield f"{self.root}: layout {self.layout}, {sum(r['images'] for r in self.roles.values())} images"
        for role, n in self.roles.items():
            yield f"  {role:<6} {n['images']:>6} images: {n['labelled']} labelled, {n['unlabelled']} unlabelled"
        if self.sizes:
            low, middle, high = ("{1}x{0}".format(*self.sizes[k]) for k in ("min", "median", "max"))
            yield f"image sizes (width x height): {low} to {high}, median {middle}; {self.sizes['distinct']} different"
        yield "masks: " + (", ".join(f"{n} {kind}" for kind, n in self.encodings.items()) or "none could be read")
        if self.classes:
            wide = max(5, *(len(c.name) for c in self.classes))
            yield f"  {'id':>3} {'class':<{wide}} {'pixels':>8}   masks that hold it"
        for c in self.classes:
            held = ", ".join(f"{n} {role}" for role, n in c.images.items() if n)
            yield f"  {c.id:>3} {c.name:<{wide}} {c.share:>8.2%}   {held or 'none'}"
        if self.groups:
            how = "declared" if self.groups_from == "declared" else "proposed from the names"
            named = [f"{group} ({sum(n.values())})" for group, n in self.groups.items()]
            yield f"groups, {how}: {', '.join(named[:_SHOWN])}{', ...' if len(named) > _SHOWN else ''}"
        problems = [f"{p.what}; {p.where}" + (f"; {p.todo}" if p.todo else "") for p in self.problems]
        for kind, found in (("note", self.notes), ("doubt", self.doubts), ("problem", problems)):
            yield from (f"{kind}: {text}" for text in found[:_SHOWN])
            if len(found) > _SHOWN:
                yield f"{kind}: ... and {len(found) - _SHOWN} more (--json lists all)"


def check(
    root: Path,
    *,
    val_fraction: float = 0.2,
    split_seed: int = 0,
    groups: str | None = None,
    sample: int | None = None,
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
        sample: open only so many images (and their masks), the same ones each time; None: all.
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
    declared = declared or load_data_yaml(index.root)
    items = [i for role in ROLES for i in index.items[role]]
    notes: list[str] = []
    if sample is not None and sample < len(items):
        order = Permutation(len(items), seed=0)
        notes.append(f"only {sample} of {len(items)} images were opened")
        items = [items[order[i]] for i in range(sample)]
    exif = declared.exif if declared else None
    found = scan(items, len(index.classes) or None, index.code, cache=cache, threads=threads, exif=exif, tick=tick)
    index = _as_trained(index, val_fraction, split_seed, duplicate_images(index, found))
    problems = list(found.problems)
    if black := empty_mask_doubt(found, index):
        problems.append(black)
    elif declared and declared.empty_masks == "unlabelled" and found.empty_masks:
        index = without_empty_masks(index, found)
    try:
        index = with_classes(index, found)
    except DataError as e:
        problems += [] if problems else [Problem(e.what, e.where, e.todo)]
    twins = duplicate_images(index, found)
    problems += leaks(twins)
    members, source = groups_of(index)
    doubts = doubts_about(index, found, twins, whole=not notes)
    notes += _partial_note(found)
    return CheckReport(
        root=str(index.root),
        layout=index.layout,
        roles={role: _count(index.items[role]) for role in ROLES},
        classes=class_rows(index, found),
        sizes=_sizes(found.sizes),
        encodings=found.encodings,
        groups=members,
        groups_from=source,
        duplicates=tuple(tuple(f"{role}/{item.name}" for role, item in same) for same in twins),
        opened=len(items),
        notes=(*index.notes, *notes),
        doubts=tuple(doubts),
        problems=tuple(problems),
        declaration=_declaration(index, declared or DataYaml(), groups),
    )


def _as_trained(
    index: DataIndex, val_fraction: float, split_seed: int, twins: Sequence[Sequence[tuple[Role, Item]]]
) -> DataIndex:  # fmt: skip
    """Return the data set with what a training without flags would do for want of val images."""
    if index.items["val"]:
        return index
    if folds_for(index.labelled, val_fraction) == 1:
        return with_val(index, val_fraction, split_seed, [[item.name for _, item in same] for same in twins])
    note = f"no val images: train scores each labelled image by networks that have not seen it, in {USUAL} folds "
    return replace(index, notes=(*index.notes, f"{note}(--folds 1 holds {val_fraction:.0%} out instead)"))


def _declaration(index: DataIndex, declared: DataYaml, groups: str | None) -> str | ConfigError:
    try:
        return describe(index, declared, groups)
    except ConfigError as error:  # matters to those alone who want it
        return error


def remarks(index: DataIndex, found: Scan) -> tuple[list[str], list[str]]:
    """Return the notes and the doubts about a data set that was read and scanned without a problem.

    Args:
        index: the data set.
        found: a scan of all its images, or of those that are used.
    """
    return [*index.notes, *_partial_note(found)], doubts_about(index, found, duplicate_images(index, found), whole=True)


def _partial_note(found: Scan) -> list[str]:
    if not found.open.any():
        return []
    share = found.open.sum() / found.counts[found.open > 0].sum()
    many = f"{(found.open > 0).sum()} of {found.masked.sum()} masks"
    return [f"{many} are finished in part: nobody has labelled {share:.0%} of their pixels yet"]


def empty_mask_doubt(found: Scan, index: DataIndex) -> Problem | None:
    """Return a problem if more than a fifth of the masks hold class 0 only and data.yaml does not say why.

    Labelling tools export frames that nobody annotated as black masks: only the owner knows which these are.
    """
    masks, empty = int(found.masked.sum()), len(found.empty_masks)
    declared = load_data_yaml(index.root)
    if empty <= _MANY_EMPTY * masks or (declared and declared.empty_masks):
        return None
    what = f"{empty} of {masks} masks hold class 0 only, first {found.empty_masks[0]!r}"
    todo = "write in data.yaml: empty_masks: labelled (nothing else is there), or empty_masks: unlabelled"
    return Problem(what, str(index.root), f"{todo} (nobody annotated them)")


def duplicate_images(index: DataIndex, found: Scan) -> list[list[tuple[Role, Item]]]:
    """Return images with the same pixels, under whatever name or lossless format, in sets of two or more.

    Only images that the scan has decoded are compared.
    """
    content = dict(zip(found.names, found.contents, strict=True))
    same: dict[str, list[tuple[Role, Item]]] = defaultdict(list)
    for role in ROLES:
        for item in index.items[role]:
            if key := content.get(item.name):
                same[key].append((role, item))
    return [items for items in same.values() if len(items) > 1]


def leaks(twins: Sequence[Sequence[tuple[Role, Item]]], allowed: Collection[str] = ()) -> list[Problem]:
    """Return a problem for every set of ``duplicate_images`` that stands in two roles, but for allowed names."""
    found = []
    for every in twins:
        same = [pair for pair in every if pair[1].name not in allowed]
        roles = sorted({role for role, _ in same}, key=ROLES.index)
        if len(roles) > 1:
            (_, first), (_, second) = (next(pair for pair in same if pair[0] == role) for role in roles[:2])
            todo = "keep it in one role, or name it in data.allow_leaks"
            what = f"the same picture stands in {roles[0]} ({first.name!r}) and {roles[1]} ({second.name!r})"
            found.append(Problem(what, str(second.image), f"{todo} ({second.name})", second.name))
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


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
