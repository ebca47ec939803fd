"""The split doctor: what split lists hold, how they overlap, and which of their scores cannot be compared.

``diagnose`` needs the lists alone; ``class_coverage`` and ``duplicates.near_duplicates`` need the data.

The "fine" labels of VOC are the 1,464 masks of the PASCAL VOC 2012 devkit's
``ImageSets/Segmentation/train.txt``; the other masks of the usual 10,582 come from SBD and are coarser.
``voc2012_train.txt`` beside this file holds their ids.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np

from fewmask.data.diagnosis import Diagnosis, Finding, ListReport, Overlap, percent
from fewmask.data.lists import SplitList, family_of, read_list, stem_path
from fewmask.errors import ConfigError

# number of training images -> what this pool is called
_POOLS = {
    "VOC": {10582: "VOC 2012 train + SBD", 1464: "VOC 2012 train, fine masks only"},
    "Cityscapes": {2975: "Cityscapes train"},
}
_ROLE_WORDS = {
    "unlabelled": {"unlabelled", "unlabeled"},
    "labelled": {"labelled", "labeled", "sublabelled", "sublabeled"},
    "val": {"val", "valid", "validation"},
    "test": {"test"},
}
_SAME_SPLIT = 0.9  # lists of one size that share less are different splits, not revisions of one


@dataclass(frozen=True)
class _Read:
    """A list with the keys by which its images are compared, and what its name pairs it with."""

    split: SplitList
    keys: frozenset[str]
    report: ListReport
    twin: tuple[str, ...]


@cache
def voc_fine_ids() -> frozenset[str]:
    """Return the 1,464 ids of the PASCAL VOC 2012 segmentation training set."""
    return frozenset(files("fewmask.data").joinpath("voc2012_train.txt").read_text("ascii").split())


def diagnose(paths: Sequence[Path], *, val: Path | None = None) -> Diagnosis:
    """Read split lists and say what is wrong or worth knowing about them.

    A labelled and an unlabelled list belong together where their names differ in that word only; if one of
    each is given, these two. Lists whose name has the word "val" or "test" are held out.

    Args:
        paths: the lists, of any dialect and data set; a file that is given twice counts once.
        val: one more list, to be taken as validation set whatever its name.

    Raises:
        ConfigError: no list, or a list that does not exist.
        DataError: a list that cannot be read.
    """
    given = list(dict.fromkeys(Path(p).absolute() for p in [*paths, *([val] if val else [])]))
    if not given:
        raise ConfigError("no list to check", todo="name one or more list files")
    splits = [read_list(path) for path in given]
    base = given[0].parent if len(given) == 1 else Path(os.path.commonpath([p.parent for p in given]))
    forced = Path(val).absolute() if val else None
    reads = [
        _summarise(split, keys, split.path.relative_to(base).as_posix(), "val" if split.path == forced else None)
        for split, keys in zip(splits, _keys(splits), strict=True)
    ]
    overlaps = tuple(
        Overlap(a.report.name, b.report.name, len(shared), min(shared))
        for a, b in combinations(reads, 2)
        if (shared := a.keys & b.keys)
    )
    findings = [*_repeated(reads), *_compare(reads), *_pools(reads), *_leaks(reads)]
    return Diagnosis(tuple(r.report for r in reads), overlaps, tuple(findings))


def _keys(splits: Sequence[SplitList]) -> list[frozenset[str]]:
    """Return what identifies the images of each list: ids, or paths where only folders tell them apart."""
    stems: dict[str, set[str]] = defaultdict(set)
    for split in splits:
        for entry in split.entries:
            if not family_of(entry.id):
                stems[entry.id].add(stem_path(entry.image))
    apart = {name for name, paths in stems.items() if not _one_path(paths)}
    return [frozenset(stem_path(e.image) if e.id in apart else e.id for e in split.entries) for split in splits]


def _one_path(paths: set[str]) -> bool:
    """Return whether all paths are ends of the longest one."""
    longest = max(paths, key=len)
    return all(f"/{longest}".endswith(f"/{path}") for path in paths)


def _summarise(split: SplitList, keys: frozenset[str], name: str, role: str | None) -> _Read:
    ids = {entry.id for entry in split.entries}
    families = {family_of(i) for i in ids}
    family = next(iter(families)) if len(families) == 1 else None
    # the hash must not depend on the lists beside this one
    own = _keys([split])[0]
    report = ListReport(
        name=name,
        role=role if role is not None else _role(split.path),
        dialect=split.dialect,
        family=family or "other",
        lines=len(split.entries),
        images=len(keys),
        hash=hashlib.sha256("\n".join(sorted(own)).encode("utf-8", "surrogateescape")).hexdigest()[:16],
        fine=len(ids & voc_fine_ids()) if family == "VOC" else None,
    )
    words = [w for w in _words(split.path) if not any(w in known for known in _ROLE_WORDS.values())]
    # DARS: "…_labeled_match_len" is the labelled list repeated to the length of "…_unlabeled"
    rest = "_".join(words).removesuffix("_match_len")
    return _Read(split, keys, report, (str(split.path.parent), rest))


def _words(path: Path) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+", path.stem.lower())


def _role(path: Path) -> str:
    words = set(_words(path))
    return next((role for role, known in _ROLE_WORDS.items() if words & known), "")


def _repeated(reads: Sequence[_Read]) -> list[Finding]:
    out = []
    for r in (read.report for read in reads):
        if r.lines != r.images:
            text = f"{r.name} repeats images: {r.images} different ones in {r.lines} lines; each counts once"
            out.append(Finding("note", "repeated", text, (r.name,)))
    return out


def _compare(reads: Sequence[_Read]) -> list[Finding]:
    """Notes on lists that are the same, and on lists of one size that are not the same split."""
    same: dict[frozenset[str], list[_Read]] = defaultdict(list)
    for read in reads:
        same[read.keys].append(read)
    out = []
    for group in same.values():
        names = tuple(read.report.name for read in group)
        if len(group) > 1:
            text = f"{', '.join(names)} hold the same {len(group[0].keys)} images"
            out.append(Finding("note", "same_images", text, names))
        if group[0].keys == voc_fine_ids():
            text = f"{', '.join(names)}: exactly the 1,464 training images of PASCAL VOC 2012, all fine labels"
            out.append(Finding("note", "voc_train", text, names))
    first = [group[0] for group in same.values() if group[0].report.role in ("labelled", "")]
    for a, b in combinations(first, 2):
        ra, rb = a.report, b.report
        shared = len(a.keys & b.keys)
        if ra.family != rb.family or ra.images != rb.images or shared >= _SAME_SPLIT * ra.images:
            continue
        if ra.family == "other" and not shared:  # two lists of unrelated data, as far as anyone can tell
            continue
        fine = ""
        if ra.fine is not None and rb.fine is not None:
            fine = f" and hold {percent(ra.fine, ra.images)} against {percent(rb.fine, rb.images)} fine labels"
        text = (
            f"{ra.name} and {rb.name} share only {shared} of {ra.images} images{fine}: "
            "different splits, their mIoUs are not comparable"
        )
        out.append(Finding("note", "different_splits", text, (ra.name, rb.name)))
    return out


def _twins(reads: Sequence[_Read]) -> list[tuple[_Read, _Read]]:
    """Return (labelled, unlabelled) lists that belong together."""
    labelled = [read for read in reads if read.report.role == "labelled"]
    unlabelled = [read for read in reads if read.report.role == "unlabelled"]
    if len(labelled) == len(unlabelled) == 1:
        return [(labelled[0], unlabelled[0])]
    return [(a, b) for a in labelled for b in unlabelled if a.twin == b.twin]


def _pools(reads: Sequence[_Read]) -> list[Finding]:
    """Notes on what labelled and unlabelled images make up together."""
    out = []
    for a, b in _twins(reads):
        family, both = a.report.family, len(a.keys | b.keys)
        known = _POOLS.get(family)
        if known is None or b.report.family != family:
            continue
        names = (a.report.name, b.report.name)
        text = f"{' and '.join(names)} make up {both} images"
        if both not in known:
            sizes = " or ".join(str(size) for size in known)
            out.append(Finding("note", "unusual_pool", f"{text}, not {sizes} as the usual {family} pools", names))
        elif both < max(known):
            text = f"{text} (as many as {known[both]}), not the usual {max(known)}: another protocol"
            out.append(Finding("note", "small_pool", text, names))
        else:
            out.append(Finding("note", "pool", f"{text}, as many as {known[both]}", names))
    return out


def _leaks(reads: Sequence[_Read]) -> list[Finding]:
    """Problems: labelled images that are also unlabelled, and held-out images that are trained with."""
    out = []
    for a, b in _twins(reads):
        if shared := a.keys & b.keys:
            names = (a.report.name, b.report.name)
            text = f"{names[1]} holds {len(shared)} labelled image(s) of {names[0]}, first {min(shared)}"
            out.append(Finding("problem", "labelled_in_unlabelled", text, names))
    paired = {id(read) for pair in _twins(reads) for read in pair}
    for a, b in combinations(reads, 2):
        roles = {a.report.role, b.report.role}
        shared = a.keys & b.keys
        if roles == {"labelled", "unlabelled"} and shared and not {id(a), id(b)} & paired:
            names = (a.report.name, b.report.name)
            text = f"{' and '.join(names)} share {len(shared)} image(s): a leak if they are used together"
            out.append(Finding("note", "unpaired", text, names))
    held_out = [read for read in reads if read.report.role in ("val", "test")]
    training = [read for read in reads if read.report.role not in ("val", "test")]
    for a in held_out:
        for b in training:
            if shared := a.keys & b.keys:
                names = (b.report.name, a.report.name)
                text = f"{names[0]} holds {len(shared)} held-out image(s) of {names[1]}, first {min(shared)}"
                out.append(Finding("problem", f"leak_into_{a.report.role}", text, names))
    return out


def class_coverage(names: Sequence[str], counts: np.ndarray) -> tuple[str, ...]:
    """Return the names of the classes that no item holds, in class order.

    Args:
        names: the K learned classes.
        counts: pixels per item and class, any integer dtype [N, K].

    Raises:
        ValueError: the shapes do not fit.
    """
    if counts.ndim != 2 or counts.shape[1] != len(names):
        raise ValueError(f"counts has shape {counts.shape}, expected [N, {len(names)}]")
    return tuple(name for k, name in enumerate(names) if not counts[:, k].any())
