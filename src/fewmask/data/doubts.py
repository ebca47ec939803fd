"""What is worth a look about a data set that can be read: groups in two roles, repeated pictures, rare classes.

Each doubt is a sentence that sums up, with a finding for each thing that it sums up.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from fewmask.data.colours import spelled
from fewmask.data.duplicates import alike, near_duplicates
from fewmask.data.findings import Finding, Kind, Remark
from fewmask.data.groups import SUGGESTED_BY, Source
from fewmask.data.index import ROLES, DataIndex, Item, MaskCode, Role
from fewmask.data.scan import Scan

_RARE_SHARE = 0.001  # of the labelled pixels
_RARE_IMAGES = 3
_UNCOUNTED = 0.2  # of the pixels in masks; borders and void areas take a tenth


@dataclass(frozen=True)
class ClassRow:
    """What the masks hold of one class, or of an id that nothing names.

    Attributes:
        id: its index.
        name: "?" where there is none.
        share: of the labelled pixels, 0-1.
        images: role to the number of masks that hold it.
        value: what mask files say: an id, several that are one class, or a colour.
    """

    id: int
    name: str
    share: float
    images: dict[str, int]
    value: str


def doubts_about(
    index: DataIndex, found: Scan, twins: Sequence[Sequence[tuple[Role, Item]]], whole: bool,
    groups: tuple[Mapping[str, str], Source | None], pool: Sequence[Item] = (),
) -> list[str]:  # fmt: skip
    """Return sentences; those with findings of their own are ``Remark``.

    Args:
        index: the data set.
        found: a scan of its images.
        twins: those that show the same, see ``check.duplicate_images``.
        whole: all of them were scanned: a sample says nothing about what is absent.
        groups: as ``groups_of`` returns them.
        pool: unlabelled images that were scanned with it.
    """
    members, source = members_of(index, groups[0]), groups[1]
    doubts = [*_group_doubts(members, source, index), *_cut_by_folds(members, source, index), *_name_doubts(index)]
    doubts += _named_after_doubts(index)
    doubts += [
        *_twin_doubts(twins),
        *_likeness_doubts(index, found, twins, pool),
        *_repeated_doubts(index, found, twins),
    ]
    doubts += _uncounted_doubts(found)
    if whole and any(item.mask is not None for item in index.items["train"]):
        doubts += _class_doubts(class_rows(index, found), index)
    return doubts


def _cut_by_folds(members: Mapping[str, Mapping[str, int]], source: Source | None, index: DataIndex) -> list[str]:
    """Say which groups are suggested, where nothing declares any and the labelled images are put into folds."""
    if index.items["val"] or source in (None, "declared"):
        return []
    first = ", ".join(sorted(members)[:3])
    return [
        f"the {SUGGESTED_BY[source]} suggest {len(members)} groups ({first}{', ...' * (len(members) > 3)}), and folds "
        f"cut through them; if they are videos, fields or patients, --group-by {source} keeps them whole"
    ]


def _twin_doubts(twins: Sequence[Sequence[tuple[Role, Item]]]) -> list[str]:
    within = [same for same in twins if len({role for role, _ in same}) == 1]
    if not within:
        return []
    mixed = sum(len({item.mask is None for _, item in same}) == 2 for same in within)
    extra = sum(len(same) - 1 for same in within)
    each = [_twin(same) for same in within]
    names = " and ".join(repr(item.name) for _, item in within[0][:2])
    both = f"; {mixed} stand among both labelled and unlabelled ones" if mixed else ""
    return [Remark(f"{extra} images repeat another one of their role, first {names}{both}", each)]


def _twin(same: Sequence[tuple[Role, Item]]) -> Finding:
    (role, first), *_ = same
    what = f"{len(same)} images of {role} show the same"
    todo = "keep one of them, or the one with the mask"
    names = tuple(item.name for _, item in same)
    return Finding("repeated_picture", what, str(first.image), todo, first.name, str(same[1][1].image), names=names)


_AFTER = re.compile(r"[_\-. ][^/]*[A-Za-z][^/]*")  # numbers alone count frames


def _named_after_doubts(index: DataIndex) -> list[str]:
    """Say which unlabelled images are called like a labelled one and more: they may be masks, or be made of it."""
    labelled = {item.name for items in index.items.values() for item in items if item.mask is not None}
    each = []
    for item in index.items["train"]:
        ends = [i for i, c in enumerate(item.name) if c in "_-. "] if item.mask is None else []
        if of := next((item.name[:i] for i in reversed(ends) if item.name[:i] in labelled), None):
            if _AFTER.fullmatch(item.name[len(of) :]):
                what = f"is called like the labelled image {of!r} and more, and counts as an unlabelled image"
                todo = "if it is a mask or was made of that image, take it out of the images"
                each.append(Finding("named_after", what, str(item.image), todo, item.name, of))
    if not each:
        return []
    first = f"first {each[0].name!r} of {each[0].value!r}"
    return [Remark(f"{len(each)} unlabelled images are called like a labelled one and more, {first}", each)]


def _name_doubts(index: DataIndex) -> list[str]:
    """Say which names only some file systems tell apart."""
    alike: dict[str, list[Item]] = defaultdict(list)
    for role in ROLES:
        for item in index.items[role]:
            alike[normalize("NFC", item.name).casefold()].append(item)
    each = []
    for items in alike.values():
        if len(items) > 1:
            what = "images have one name but for case or Unicode form"
            todo = "rename all but one: file systems of macOS and Windows keep only one of them"
            names = tuple(item.name for item in items)
            first, second = items[:2]
            each.append(
                Finding("names_alike", what, str(first.image), todo, first.name, str(second.image), names=names)
            )
    names = " and ".join(map(repr, each[0].names[:2])) if each else ""
    sentence = f"{len(each)} names stand there in more than one spelling, which only some file systems tell apart"
    return [Remark(f"{sentence}, first {names}", each)] if each else []


def _likeness_doubts(
    index: DataIndex, found: Scan, twins: Sequence[Sequence[tuple[Role, Item]]], pool: Sequence[Item]
) -> list[str]:  # fmt: skip
    """Say which roles share pictures that are nearly the same, apart from those with the same pixels."""
    known = {item.name for same in twins for _, item in same}
    likeness = {n: int(bits, 16) for n, bits in zip(found.names, found.likenesses, strict=True) if bits}
    items = index.items | {"train": (*index.items["train"], *pool)}
    near = near_duplicates(
        {role: [i for i in items[role] if i.name in likeness and i.name not in known] for role in ROLES}, likeness
    )
    file = {item.name: str(item.image) for role in ROLES for item in items[role]} if near.pairs else {}
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for pair in near.pairs:
        pairs[pair.roles].append(pair.names)
    doubts: list[str] = []
    for roles, names in pairs.items():
        sentence = f"{len({b for _, b in names})} images of {roles[1]} are nearly the same as one of {roles[0]}, first "
        what = f"the image of {roles[1]} is nearly the same as one of {roles[0]}"
        todo = "keep both in one role, if they show one scene"
        each = [Finding("near_picture", what, file[b], todo, b, file[a], names=(a, b)) for a, b in names]
        doubts.append(Remark(f"{sentence}{names[0][1]!r} and {names[0][0]!r}", each))
    return doubts + [note for note in near.notes if "not looked for" in note]


def _repeated_doubts(index: DataIndex, found: Scan, twins: Sequence[Sequence[tuple[Role, Item]]]) -> list[str]:
    """Say where pictures that are scored are nearly the same: each counts as one more, and the interval is too narrow.

    Those of a group, or with the same pixels, are resampled together anyway.
    """
    likeness = {n: int(bits, 16) for n, bits in zip(found.names, found.likenesses, strict=True) if bits}
    again = {item.name for same in twins for _, item in same[1:]}
    doubts: list[str] = []
    for role in ROLES[1:]:
        items = {i.name: i for i in index.items[role] if i.name in likeness and i.name not in again}
        sets = [s for s in alike(list(items.values()), likeness) if len({items[n].group or n for n in s}) > 1]
        if not sets:
            continue
        first, second, *_ = sorted(sets[0])
        sentence = f"{sum(map(len, sets))} images of {role} are nearly the same as another one, first {first!r} and "
        sentence += f"{second!r}: {len(sets)} pictures, and intervals take them for more"
        names = tuple(sorted(name for one in sets for name in one))
        todo = "put those of one picture into one group (--group-by)"
        doubts.append(Remark(sentence, [Finding("near_picture", sentence, "", todo, names=names)]))
    return doubts


def members_of(index: DataIndex, group_of: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Return group to the number of its images in each role."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for role in ROLES:
        for item in index.items[role]:
            if item.name in group_of:
                counts[group_of[item.name]][role] += 1
    return {group: dict(counts[group]) for group in sorted(counts)}


def _group_doubts(members: Mapping[str, Mapping[str, int]], source: Source | None, index: DataIndex) -> list[str]:
    """Say which groups stand in two roles, and what of "val" and "test" is then still unseen."""

    def share(group: str, role: str) -> str:
        return f"{members[group][role]} of {len(index.items[role])} images"  # pyright: ignore[reportArgumentType]

    doubts: list[str] = []
    for group, roles in members.items():
        if len(roles) > 1:
            sentence = f"group {group} stands in " + " and ".join(f"{r} ({share(group, r)})" for r in roles)
            todo = "keep it in one role, or read the scores as those of images that are alike"
            found = Finding("group_in_two_roles", sentence, "", todo, value=group)
            doubts.append(Remark(sentence, [found]))
    for role in ROLES[1:] if doubts else ():
        here = [g for g in members if role in members[g]]
        unseen = [g for g in here if len(members[g]) == 1]
        if here and not unseen:
            doubts.append(f"no group of {role} is unseen in the other roles")
        elif len(unseen) < len(here):
            only = ", ".join(f"{g} ({share(g, role)})" for g in unseen)
            doubts.append(f"of {role}, only {only} is unseen in the other roles")
    if doubts and source is not None and source != "declared":
        doubts.append(
            f"these groups are read off the {SUGGESTED_BY[source]}; if they are videos or patients, "
            f"--group-by {source} keeps them whole"
        )
    return doubts


def class_rows(index: DataIndex, found: Scan) -> tuple[ClassRow, ...]:
    """Return what the masks hold of each class."""
    known = min(len(index.classes), found.counts.shape[1] - 1)
    total = max(1, int(found.class_pixels.sum()))
    held = {role: (found.counts[found.rows(index.items[role])] > 0).sum(axis=0) for role in ROLES}
    names = dict(enumerate(index.classes[:known])) or {int(i): "?" for i in found.class_pixels.nonzero()[0]}
    return tuple(
        ClassRow(
            i, name, float(found.class_pixels[i]) / total, {role: int(held[role][i]) for role in ROLES},
            _spelling(index.code, i),
        )
        for i, name in names.items()
    )  # fmt: skip


def _spelling(code: MaskCode, learned: int) -> str:
    """Return how mask files spell a class."""
    ids = [learned] if code.mapping is None else [i for i, k in code.mapping if k == learned]
    if code.colours is None:
        return ", ".join(map(str, ids))
    return " or ".join(spelled(colour).strip('"') for colour, i in code.colours if i in ids)


def uncounted_share(found: Scan) -> float:
    """Return which share of the mask pixels does not count, 0-1; those that nobody has labelled yet are none."""
    total = int(found.counts.sum()) - int(found.open.sum())
    return (int(found.counts[:, -1].sum()) - int(found.open.sum())) / total if total else 0.0


def _uncounted_doubts(found: Scan) -> list[str]:
    share, most = uncounted_share(found), found.counts[:, -1] > _UNCOUNTED * found.counts.sum(axis=1)
    if share <= _UNCOUNTED:
        return []
    return [
        f"{share:.0%} of the pixels in masks do not count (255, and what is declared as ignored), most of them in "
        f"{most.sum()} masks: a class that nothing names would be among them"
    ]


def _class_doubts(classes: Sequence[ClassRow], index: DataIndex) -> list[str]:
    doubts: list[str] = []

    def add(kind: Kind, c: ClassRow, sentence: str, todo: str) -> None:
        found = Finding(kind, f"class {c.name!r} {sentence}", "", todo, value=c.name)
        doubts.append(Remark(found.what, [found]))

    for c in classes:
        if not c.images["train"]:
            add("absent_class", c, "is in no training mask: it cannot be learned", "draw masks of it, or take it away")
        elif c.images["train"] < _RARE_IMAGES or c.share < _RARE_SHARE:
            rare = f"is rare: {c.share:.2%} of the pixels, {c.images['train']} training masks"
            add("rare_class", c, rare, "draw more masks of it: fewmask suggest names images")
        for role in ROLES[1:]:
            if index.items[role] and not c.images[role]:
                absent = f"is absent from {role}: its IoU cannot be measured there"
                add("absent_class", c, absent, f"put masks of it into {role}")
    return doubts
