"""What is this data? Counts, classes, sizes, encodings, and every doubt, in one report; nothing is trained.

*Problems* must be settled before training; *doubts* are worth a look; *notes* say how the folder was read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fewmask.data.datayaml import DataYaml, load_data_yaml
from fewmask.data.duplicates import near_duplicates
from fewmask.data.index import ROLES, DataIndex, Item, Role
from fewmask.data.layouts import propose_groups, read_folder, with_classes, without_empty_masks
from fewmask.data.scan import Problem, Scan, scan
from fewmask.errors import ConfigError, DataError
from fewmask.ops.rng import Permutation

_MANY_EMPTY = 0.2  # share of the masks above which black ones look like frames that nobody annotated
_RARE_SHARE = 0.001  # of the labelled pixels
_RARE_IMAGES = 3
_SHOWN = 20  # lines of one kind in the text for humans; the JSON has all


@dataclass(frozen=True)
class ClassRow:
    """One class: its index, name, share of the labelled pixels (0-1), and how many masks of each role hold it."""

    id: int
    name: str
    share: float
    images: dict[str, int]


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

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers."""
        return asdict(self)

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
    index = read_folder(root, val_fraction=val_fraction, split_seed=split_seed, groups=groups, declared=declared)
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
    members, source = _groups(index)
    doubts = _doubts(index, found, twins, whole=not notes)
    notes += _partial_note(found)
    return CheckReport(
        root=str(index.root),
        layout=index.layout,
        roles={role: _count(index.items[role]) for role in ROLES},
        classes=_class_rows(index, found),
        sizes=_sizes(found.sizes),
        encodings=found.encodings,
        groups=members,
        groups_from=source,
        duplicates=tuple(tuple(f"{role}/{item.name}" for role, item in same) for same in twins),
        opened=len(items),
        notes=(*index.notes, *notes),
        doubts=tuple(doubts),
        problems=tuple(problems),
    )


def remarks(index: DataIndex, found: Scan) -> tuple[list[str], list[str]]:
    """Return the notes and the doubts about a data set that was read and scanned without a problem.

    Args:
        index: the data set.
        found: a scan of all its images, or of those that are used.
    """
    return [*index.notes, *_partial_note(found)], _doubts(index, found, duplicate_images(index, found), whole=True)


def _doubts(
    index: DataIndex, found: Scan, twins: Sequence[Sequence[tuple[Role, Item]]], whole: bool
) -> list[str]:  # fmt: skip
    members, source = _groups(index)
    doubts = [*_group_doubts(members, source, index), *_twin_doubts(twins), *_likeness_doubts(index, found, twins)]
    if whole:  # a sample says nothing about what is absent
        doubts += _class_doubts(_class_rows(index, found), index)
    return doubts


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


def _twin_doubts(twins: Sequence[Sequence[tuple[Role, Item]]]) -> list[str]:
    within = [same for same in twins if len({role for role, _ in same}) == 1]
    if not within:
        return []
    mixed = sum(len({item.mask is None for _, item in same}) == 2 for same in within)
    extra = sum(len(same) - 1 for same in within)
    names = " and ".join(repr(item.name) for _, item in within[0][:2])
    both = f"; {mixed} stand among both labelled and unlabelled ones" if mixed else ""
    return [f"{extra} images repeat another one of their role, first {names}{both}"]


def _likeness_doubts(index: DataIndex, found: Scan, twins: Sequence[Sequence[tuple[Role, Item]]]) -> list[str]:
    """Say which roles share pictures that are nearly the same, apart from those with the same pixels."""
    known = {item.name for same in twins for _, item in same}
    likeness = {n: int(bits, 16) for n, bits in zip(found.names, found.likenesses, strict=True) if bits}
    near = near_duplicates(
        {role: [i for i in index.items[role] if i.name in likeness and i.name not in known] for role in ROLES}, likeness
    )
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for pair in near.pairs:
        pairs[pair.roles].append(pair.names)
    doubts = [
        f"{len({b for _, b in names})} images of {roles[1]} are nearly the same as one of {roles[0]}, first "
        f"{names[0][1]!r} and {names[0][0]!r}" for roles, names in pairs.items()
    ]  # fmt: skip
    return doubts + [note for note in near.notes if "not looked for" in note]


def _groups(index: DataIndex) -> tuple[dict[str, dict[str, int]], Literal["declared", "names"] | None]:
    """Return images a group and role, and where the groups come from."""
    pairs = [(role, item) for role in ROLES for item in index.items[role]]
    group_of = {item.name: item.group for _, item in pairs if item.group}
    source: Literal["declared", "names"] | None = "declared" if group_of else None
    if not group_of and (proposed := propose_groups(index)):
        group_of, source = {name: group for group, names in proposed.items() for name in names}, "names"
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for role, item in pairs:
        if item.name in group_of:
            counts[group_of[item.name]][role] += 1
    return {group: dict(counts[group]) for group in sorted(counts)}, source


def _group_doubts(members: Mapping[str, Mapping[str, int]], source: str | None, index: DataIndex) -> list[str]:
    """Say which groups stand in two roles, and what of "val" and "test" is then still unseen."""

    def share(group: str, role: str) -> str:
        return f"{members[group][role]} of {len(index.items[role])} images"  # pyright: ignore[reportArgumentType]

    doubts = []
    for group, roles in members.items():
        if len(roles) > 1:
            doubts.append(f"group {group} stands in " + " and ".join(f"{r} ({share(group, r)})" for r in roles))
    for role in ROLES[1:] if doubts else ():
        here = [g for g in members if role in members[g]]
        unseen = [g for g in here if len(members[g]) == 1]
        if here and not unseen:
            doubts.append(f"no group of {role} is unseen in the other roles")
        elif len(unseen) < len(here):
            only = ", ".join(f"{g} ({share(g, role)})" for g in unseen)
            doubts.append(f"of {role}, only {only} is unseen in the other roles")
    if doubts and source == "names":
        doubts.append(
            "these groups are read off the names; if they are videos or patients, --group-by keeps them whole"
        )
    return doubts


def _class_rows(index: DataIndex, found: Scan) -> tuple[ClassRow, ...]:
    known = min(len(index.classes), found.counts.shape[1] - 1)
    total = max(1, int(found.class_pixels.sum()))
    held = {role: (found.counts[found.rows(index.items[role])] > 0).sum(axis=0) for role in ROLES}
    return tuple(
        ClassRow(
            i, index.classes[i], float(found.class_pixels[i]) / total, {role: int(held[role][i]) for role in ROLES}
        )
        for i in range(known)
    )


def _class_doubts(classes: Sequence[ClassRow], index: DataIndex) -> list[str]:
    doubts = []
    for c in classes:
        if not c.images["train"]:
            doubts.append(f"class {c.name!r} is in no training mask: it cannot be learned")
        elif c.images["train"] < _RARE_IMAGES or c.share < _RARE_SHARE:
            doubts.append(f"class {c.name!r} is rare: {c.share:.2%} of the pixels, {c.images['train']} training masks")
        doubts += [
            f"class {c.name!r} is absent from {role}: its IoU cannot be measured there"
            for role in ROLES[1:]
            if index.items[role] and not c.images[role]
        ]
    return doubts


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
