"""Images that belong together: frames of a video, photos of one visit to a field, slices of a patient."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from fewmask.data.datayaml import FILE_NAME
from fewmask.data.decode import taken
from fewmask.data.index import DataIndex
from fewmask.data.patterns import matched
from fewmask.data.roles import below_role
from fewmask.errors import ConfigError, DataError, did_you_mean

Source = Literal["declared", "names", "time"]
"""Where groups come from: data.yaml or --group-by, or what names or EXIF times suggest."""

SUGGESTED_BY: dict[Source, str] = {"names": "names", "time": "times of the photos"}
"""What suggests groups that nobody declares, in words."""

PAUSE = 10.0
"""Minutes between two photos from which they are of different groups."""

# 0016E5_07959, Seq05VD_f04530, patient3-slice12: whatever stands before the last number
_NUMBERED = re.compile(r"(.+?)[ _.-]+[^\W\d_]{0,8}[0-9]+")
_TIME = re.compile(r"time(?::([0-9]+(?:\.[0-9]+)?))?", re.ASCII)
_LONGEST = 5_256_000.0  # ten years
_FEW = 3  # images a proposed group must have; smaller ones are names, not sequences
_MOST = 0.8  # share of the images that proposed groups must hold
_TRIED = 16  # files whose headers say whether it is worth to read all


def read_groups(
    images: Mapping[str, Path], rule: str, root: Path, *, asked: bool = True, aside: Path | None = None
) -> tuple[dict[str, str], list[str]]:  # fmt: skip
    """Return the group of every image that has one, and sentences for the reader.

    Args:
        images: name to file of all images; role folders are no part of what is matched.
        rule: ``folder``; ``names``, what ``propose_groups`` reads off them; ``time``, photos between which less than
            ``PAUSE`` minutes passed by their EXIF, or ``time:MINUTES``; or a file (below ``root``, or any path) of
            ``name<TAB>group`` lines; or a regular expression that is searched in the name, whose first group (or whole
            match) is the image's group.
        root: the data folder.
        asked: the user gave the rule; one that stands in the folder's data.yaml may name files below ``root`` only.
        aside: a file in place of that data.yaml: the file of lines may lie beside it, too, and anywhere.

    Raises:
        ConfigError: no valid regular expression, or one that matches no name or takes too long; a file that data.yaml
            may not name.
        DataError: the file has a line that is none, or names unknown images.
    """
    names = list(images)
    # os.path, since pathlib raises where a regular expression is longer than a file name may be
    places = [root / rule, *([aside.parent / rule] if aside is not None and not asked else []), Path(rule)]
    file = next((p for p in places if os.path.isfile(p)), None)
    if file is not None and not asked and aside is None and (".." in Path(rule).parts or Path(rule).is_absolute()):
        raise ConfigError(
            f"groups {rule!r} leads out of the data folder", where=root / FILE_NAME,
            todo="move the file inside, or give it as --group-by",
        )  # fmt: skip
    if file is not None:
        groups = _group_file(file, names)
    elif rule == "folder":
        groups = {n: below_role(n).rpartition("/")[0] for n in names}
    elif rule == "names":
        groups = {name: group for group, members in (_in_names(names) or {}).items() for name in members}
    elif timed := _TIME.fullmatch(rule):
        groups = by_time(images, _minutes(timed[1], rule))
    else:
        groups = _group_regex(rule, names)
    groups = {name: group for name, group in groups.items() if group}
    if not groups:
        todo = f"names look like {min(names)!r}" if not _TIME.fullmatch(rule) else "their EXIF says no time; use names"
        raise ConfigError(f"groups {rule!r} puts no image into a group", todo=todo)
    alone = len(names) - len(groups)
    return groups, [f"{alone} images are in no group and stand alone"] if alone else []


def _minutes(text: str | None, rule: str) -> float:
    minutes = PAUSE if text is None else float(text)
    if not 0 < minutes <= _LONGEST:
        raise ConfigError(
            f"groups {rule!r} is no pause", todo=f"write time:MINUTES, above 0 and at most {_LONGEST:.0f}"
        )
    return minutes


def _group_regex(rule: str, names: Sequence[str]) -> dict[str, str]:
    try:
        regex = re.compile(rule)
    except (re.error, OverflowError, RecursionError) as e:
        raise ConfigError(f"groups {rule!r} is no regular expression, file, 'folder', 'names' or 'time': {e}") from e
    hits = matched("search", rule, 0, [below_role(name) for name in names], told=f"groups {rule!r}")
    return {n: hit[1 if regex.groups else 0] or "" for n, hit in zip(names, hits, strict=True) if hit}


def _group_file(file: Path, names: Sequence[str]) -> dict[str, str]:
    known, groups = set(names), {}
    for number, line in enumerate(file.read_text("utf-8-sig", "surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        name, tab, group = line.partition("\t")
        where = f"{file} line {number}"
        if not tab or not group.strip():
            raise DataError("no name<TAB>group line", where=where)
        if name not in known:
            raise DataError(f"unknown image {name!r}", where=where, todo=did_you_mean(name, known))
        groups[name] = group.strip()
    return groups


def groups_of(index: DataIndex) -> tuple[dict[str, str], Source | None]:
    """Return image name to group, and where that comes from: what is declared, else what names or times suggest."""
    images = {item.name: item.image for items in index.items.values() for item in items}
    declared = {item.name: item.group for items in index.items.values() for item in items if item.group}
    if declared:
        return declared, "declared"
    names = [] if index.layout == "voc" else list(images)
    proposed = _in_folders(names)
    if proposed is None and _most_say_when(images):  # before IMG_ and DSC_, which are cameras
        if (timed := _worth(by_time(images, PAUSE))) is not None:
            return timed, "time"
    proposed = proposed or _in_names(names)
    return ({}, None) if proposed is None else ({n: group for group, of in proposed.items() for n in of}, "names")


def propose_groups(index: DataIndex) -> dict[str, tuple[str, ...]] | None:
    """Return groups that the names suggest, group to names of its images; None where they suggest none.

    Sub-folders below the role folder are groups, else whatever stands before the last number of the names
    (``0016E5`` in ``train/0016E5_07959``). PASCAL VOC is left alone: its numbers are years.
    """
    return None if index.layout == "voc" else _in_names([i.name for items in index.items.values() for i in items])


def _in_names(names: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    numbered = {n: _NUMBERED.fullmatch(below_role(n)) for n in names}
    return _in_folders(names) or _several({n: m[1] for n, m in numbered.items() if m}, len(names))


def _in_folders(names: Sequence[str]) -> dict[str, tuple[str, ...]] | None:
    return _several({n: below_role(n).rpartition("/")[0] for n in names}, len(names))


def _several(group_of: Mapping[str, str], total: int) -> dict[str, tuple[str, ...]] | None:
    """Return the groups that are none too small, if there are several and most of so many images are in them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, group in group_of.items():
        if group:
            groups[group].append(name)
    kept = {g: tuple(sorted(members)) for g, members in sorted(groups.items()) if len(members) >= _FEW}
    return kept if len(kept) > 1 and sum(map(len, kept.values())) >= _MOST * total else None


def by_time(images: Mapping[str, Path], minutes: float) -> dict[str, str]:
    """Return the group of each photo whose EXIF says when it was taken: the time of the group's first.

    Photos belong together while no pause of so many minutes comes between two of them, whichever camera took them.

    Args:
        images: name to file; those that say no time, or cannot be read, are left out.
        minutes: length of a pause.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        when = {name: at for name, at in zip(images, pool.map(taken, images.values()), strict=True) if at is not None}
    out: dict[str, str] = {}
    group, last = "", datetime.min
    for name, at in sorted(when.items(), key=lambda pair: (pair[1], pair[0])):
        if not group or at - last >= timedelta(minutes=minutes):
            group = at.isoformat(" ")
        out[name], last = group, at
    return out


def _most_say_when(images: Mapping[str, Path]) -> bool:
    """Return whether half of a few photos say their time, so that it is worth to ask all; nothing is fetched for it."""
    files = [file for file in images.values() if isinstance(file, Path)]
    some = files[:: max(1, len(files) // _TRIED)]
    return len(files) == len(images) and 2 * sum(taken(file) is not None for file in some) > len(some)


def _worth(group_of: dict[str, str]) -> dict[str, str] | None:
    """Return groups that are proposed: several, and at least one that is no single photo."""
    members: dict[str, list[str]] = defaultdict(list)
    for name, group in group_of.items():
        members[group].append(name)
    return group_of if len(members) > 1 and max(map(len, members.values())) >= _FEW else None
