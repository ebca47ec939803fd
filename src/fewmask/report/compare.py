"""Runs side by side: only what is comparable stands in one table, and seeds of one configuration are averaged."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fewmask.config import leaves
from fewmask.ops.interval import Gain
from fewmask.report.along import held, kind, lost, supervised
from fewmask.report.paired import class_ends, gain_of, interval_of, told_gain
from fewmask.report.record import Record, get, is_number
from fewmask.report.text import listing

_SCORES = {"last": (), "best": ("best",)}
_ROLES = ("val", "test")
_AHEAD = {"helped": "ahead", "hurt": "behind"}  # of two methods none is the one without


@dataclass(frozen=True)
class Row:
    """One configuration, run with one or more seeds.

    Attributes:
        name: the method, and what distinguishes it from other rows of that method.
        records: one a seed, ordered by seed.
        along: nobody gave them: they are the baselines that the other rows' runs hold.
    """

    name: str
    records: Sequence[Record]
    along: bool = False

    @property
    def seeds(self) -> list[Any]:
        """Seeds, in the order of ``records``; an averaged run whose seeds are gone stands for all of its own."""
        return [seed for r in self.records for seed in r.numbers]

    @property
    def supervised(self) -> bool:
        """Whether it used no unlabelled images."""
        return supervised(self.records[0])


@dataclass(frozen=True)
class Group:
    """Runs that may be compared: the same data, labelled images and protocol.

    Attributes:
        rows: configurations.
        key: data hash, protocol, names of the labelled images, classes.
    """

    rows: Sequence[Row]
    key: tuple[Any, ...]

    @property
    def first(self) -> Record:
        """Any of its records: they share the data."""
        return self.rows[0].records[0]

    @property
    def leader(self) -> Row:
        """The row that others are set beside: the first that is not supervised, else the first."""
        return next((row for row in self.rows if not row.supervised), self.rows[0])


@dataclass(frozen=True)
class Comparison:
    """All groups, and what has to be said about them."""

    groups: Sequence[Group]
    notes: Sequence[str]


def compare(records: Iterable[Record]) -> Comparison:
    """Return runs in comparable groups, seeds of a configuration in one row, with the baselines that they hold.

    Args:
        records: runs with labels; one of several seeds stands for its seeds.
    """
    single: list[Record] = [part for record in records for part in (record.seeds or (record,))]
    notes: list[str] = []
    groups: dict[tuple[Any, ...], dict[str, list[list[Record]]]] = {}
    for record in single:
        key = _group_key(record)
        if key[0] is None:
            notes.append(f"{record.label}: its data are not recorded, so it stands alone")
            key = (record.label, *key)
        _place(groups.setdefault(key, {}).setdefault(identity(record), []), record, notes)
    if len(groups) > 1:
        notes.append(
            f"{len(groups)} groups: data, labelled images or protocol differ, so scores of different groups do not "
            "compare"
        )
    made, taken = list[Group](), list[str]()
    for key, configurations in groups.items():
        given = [record for parts in configurations.values() for part in parts for record in part]
        arms = [arm for arm in held(given) if _group_key(arm) == _group_key(given[0])]
        for arm in arms:  # several runs may have been compared with the same one
            _place(configurations.setdefault(identity(arm), []), arm, [])
        parts = [sorted(part, key=_by_seed) for parts in configurations.values() for part in parts]
        along = [any(part[0] is arm for arm in arms) for part in parts]
        names = [f"{n} (taken along)" if a else n for n, a in zip(_names(parts), along, strict=True)]
        made.append(Group([Row(*row) for row in zip(names, parts, along, strict=True)], key))
        taken += [record.label for record in arms]
        notes += lost([record for part in parts for record in part])
    if taken:
        which = listing(dict.fromkeys(taken), 3)
        notes.append(f"taken along, since no supervised run of that kind was given: {which}")
    return Comparison(made, list(dict.fromkeys(notes)))


def _place(parts: list[list[Record]], record: Record, notes: list[str]) -> None:
    """Add a record to a row of its configuration; a seed that is there already is no new draw.

    With the same scores it is the same run once more; with others it has a row of its own.
    """
    if any(r.numbers == record.numbers and _same_scores(r, record) for part in parts for r in part):
        notes.append(f"{record.label} repeats a seed of the same configuration with the same scores: counted once")
        return
    for part in parts:
        taken = {seed for r in part for seed in r.numbers}
        averaged = len(record.numbers) > 1 or any(len(r.numbers) > 1 for r in part)
        if not averaged and taken.isdisjoint(record.numbers):
            part.append(record)
            return
    if parts:
        notes.append(f"{record.label} repeats a seed of the same configuration with other scores: a row of its own")
    parts.append([record])


def _same_scores(one: Record, other: Record) -> bool:
    return all(get(one.metrics, role, "iou") == get(other.metrics, role, "iou") for role in _ROLES)


def _group_key(record: Record) -> tuple[Any, ...]:
    names = record.manifest.get("labelled_names")
    labelled = tuple(sorted(map(str, names))) if isinstance(names, list) else record.metrics.get("labelled")
    return record.manifest.get("data_hash"), str(record.metrics.get("protocol")), labelled, tuple(record.classes)


def identity(record: Record) -> str:
    """Return what makes two runs the same configuration but for the seed, as text.

    Where the data lie and how the labelled images were named does not matter inside a group: hashes say what was used.
    """
    return json.dumps(dict(_settings(record)), sort_keys=True, default=str)


def _settings(record: Record) -> list[tuple[str, Any]]:
    free = {
        "train.seed", "data.dir", "data.data_yaml", "data.labelled", "data.unlabelled",
        "data.split_seed", "data.group_by", "train.save_every", "train.log_every", "seeds", "baseline",
        "machine.channels_last", "machine.deterministic",
        *(f"machine.{key}" for key in ("devices", "workers", "loader_timeout", "rank_timeout", "cache_mb")),
    }  # fmt: skip
    tree = record.recipe or {"method": {"name": record.metrics.get("method")}, "steps": record.metrics.get("steps")}
    told = [(key, value) for key, value in leaves(tree) if key not in free]
    return [*told, ("split", record.manifest.get("split_hash"))]


def _by_seed(record: Record) -> tuple[int, str]:
    seed = record.metrics.get("seed")
    return (seed, "") if isinstance(seed, int) else (0, str(seed))


def _names(parts: Sequence[Sequence[Record]], limit: int = 3) -> list[str]:
    """Return the method of each row; rows of one method add the settings in which they differ."""
    names = []
    for part in parts:
        own = dict(_settings(part[0]))
        rivals = [dict(_settings(p[0])) for p in parts if p is not part and p[0].method == part[0].method]
        keys = sorted({k for other in rivals for k in own.keys() | other.keys() if own.get(k) != other.get(k)})
        told = [f"{key}={own.get(key)}" for key in keys[:limit]] + ([f"{len(keys) - limit} more"] * (len(keys) > limit))
        if rivals and not keys:
            told = [part[0].label]
        names.append(", ".join([part[0].method, *told]))
    return [f"{n} ({parts[i][0].label})" if names.count(n) > 1 else n for i, n in enumerate(names)]


def stat(values: Iterable[Any]) -> dict[str, Any]:
    """Return {"mean", "sd", "n", "values"}; what was not measured does not count, one value has no deviation."""
    known = [float(v) for v in values if is_number(v)]
    return {
        "mean": statistics.fmean(known) if known else None, "sd": statistics.stdev(known) if len(known) > 1 else None,
        "n": len(known), "values": known,
    }  # fmt: skip


def score(row: Row, role: str, which: str) -> dict[str, Any]:
    """Return the mIoU of a row over its seeds, as ``stat`` does."""
    found = stat(get(r.metrics, *_SCORES[which], role, "miou") for r in row.records)
    only = row.records[0].metrics
    if len(row.records) == 1 and len(row.records[0].numbers) > 1:  # averaged when it was run; its seeds are not here
        n = len(row.records[0].numbers) if found["n"] else 0
        spread = get(only, "spread", role) if which == "last" else None
        found |= {"n": n, "sd": spread if is_number(spread) else None}
    return found


def class_scores(row: Row, role: str) -> dict[str, dict[str, Any]]:
    """Return class → {"mean", "sd", "n"} of the last checkpoint."""
    out = {}
    for name in row.records[0].classes:
        found = stat(get(r.metrics, role, "iou", name) for r in row.records)
        out[name] = {key: found[key] for key in ("mean", "sd", "n")}
    return out


def gain(row: Row, group: Group) -> dict[str, Any] | None:
    """Return the gain of the last checkpoint to the matched supervised row over the seeds that both have.

    Matched: the same network, weights and steps; of several the one that differs in the fewest settings.

    Returns:
        As ``_between``, or None where there is no such row or the row is one itself.
    """
    rivals = [] if row.supervised else [r for r in group.rows if r.supervised and _matches(row, r)]
    own = {r.baseline.label for r in row.records if r.baseline is not None}
    if not rivals:
        return None
    return _between(row, min(rivals, key=lambda r: (_distance(row, r), own.isdisjoint(x.label for x in r.records))))


def difference(row: Row, group: Group) -> dict[str, Any] | None:
    """Return how far the last checkpoint is ahead of that of the group's leader over the seeds that both have.

    Returns:
        As ``_between``, where the verdict is ahead, behind or not shown; None for the leader, for a supervised row
        beside others, of which ``gain`` tells, and without a common seed.
    """
    leader = group.leader
    if row is leader or row.supervised != leader.supervised or not _pairs(row, leader):
        return None
    found = _between(row, leader)
    told = {r: i and {**i, "verdict": _AHEAD.get(i["verdict"], i["verdict"])} for r, i in found["interval"].items()}
    return {**found, "interval": told}


def _between(row: Row, rival: Row) -> dict[str, Any]:
    """Return what is ahead and by how much, paired by seed and image.

    Returns:
        {"to", "seeds", "val": stat, "test": stat, "interval": role → ``told_gain``, "iou": role → class → {"gain",
        "low", "high"}, None for a class that is not measured}.
    """
    pairs = _pairs(row, rival)
    found = {role: gain_of(pairs, role) for role in _ROLES}
    return {
        "to": rival.name, "seeds": [seed for a, _ in pairs for seed in a.numbers],
        **{role: _moved(pairs, role, "miou") for role in _ROLES},
        "interval": {role: told_gain(found[role]) for role in _ROLES},
        "iou": {role: _class_gains(pairs, role, found[role]) for role in _ROLES},
    }  # fmt: skip


def _moved(pairs: Sequence[tuple[Record, Record]], *path: str) -> dict[str, Any]:
    """Return the differences of a score of each pair, as ``stat`` does."""
    each = [(get(a.metrics, *path), get(b.metrics, *path)) for a, b in pairs]
    return stat(ours - theirs for ours, theirs in each if is_number(ours) and is_number(theirs))


def _class_gains(pairs: Sequence[tuple[Record, Record]], role: str, found: Gain | None) -> dict[str, Any]:
    each = [(name, k, _moved(pairs, role, "iou", name)["mean"]) for k, name in enumerate(pairs[0][0].classes)]
    return {name: None if mean is None else {"gain": mean, **class_ends(found, k)} for name, k, mean in each}


def _pairs(row: Row, rival: Row) -> list[tuple[Record, Record]]:
    theirs = {tuple(r.numbers): r for r in rival.records}
    return [(r, theirs[tuple(r.numbers)]) for r in row.records if tuple(r.numbers) in theirs]


def _matches(row: Row, rival: Row) -> bool:
    return kind(row.records[0]) == kind(rival.records[0]) and bool(_pairs(row, rival))


def _distance(row: Row, rival: Row) -> int:
    ours, theirs = dict(_settings(row.records[0])), dict(_settings(rival.records[0]))
    return sum(
        ours.get(k) != theirs.get(k)
        for k in ours.keys() | theirs.keys()
        if not k.startswith("method.") and k != "split"
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison for machines; see ``docs/report.md``."""
    return {"groups": [_group_json(g) for g in comparison.groups], "notes": list(comparison.notes)}


def _group_json(group: Group) -> dict[str, Any]:
    first = group.first
    return {
        "data": first.data, "data_hash": first.manifest.get("data_hash"),
        "protocol": first.metrics.get("protocol"), "labelled": first.metrics.get("labelled"),
        "classes": first.classes, "rows": [_row_json(row, group) for row in group.rows],
    }  # fmt: skip


def _row_json(row: Row, group: Group) -> dict[str, Any]:
    first = row.records[0].metrics
    roles = [role for role in _ROLES if any(get(r.metrics, role) for r in row.records)]
    return {
        "name": row.name, "method": first.get("method"), "runs": [r.label for r in row.records], "seeds": row.seeds,
        "steps": first.get("steps"), "unlabelled": first.get("unlabelled"),
        **{
            role: {
                "last": score(row, role, "last"), "best": score(row, role, "best"), "iou": class_scores(row, role),
                "interval": interval_of(row.records, role),
            } if role in roles else None
            for role in _ROLES
        },
        "gain": gain(row, group), "difference": difference(row, group), "taken_along": row.along,
    }  # fmt: skip
