"""Cross-fitting: labelled images in folds, each scored by networks that have seen none of its group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fewmask.data.index import DataIndex, Item, Pools
from fewmask.errors import ConfigError
from fewmask.ops.rng import Permutation

USUAL = 3
"""Folds where nobody says how many: each more costs a training, and a baseline's."""

_ENOUGH = 30
"""Images of a drawn val set from which it says enough by itself."""

_STREAM = 0x5B117_0003


def folds_for(items: Sequence[Item], fraction: float) -> int:
    """Return how many folds labelled images are worth, where nothing is set aside for val; 1 = hold some out.

    Args:
        items: the labelled images.
        fraction: share of them that would be held out instead.
    """
    return USUAL if len(units_of(items)) >= USUAL and round(fraction * len(items)) < _ENOUGH else 1


def assign(
    items: Sequence[Item], folds: int, seed: int, together: Sequence[Sequence[str]] = (),
    before: Mapping[str, int] | None = None,
) -> list[list[str]]:  # fmt: skip
    """Put labelled images into folds: groups stay whole, and so do sets of images that show the same.

    The largest groups are placed first, each into the fold with the fewest images; of equal ones the seed decides. The
    order of the items does not matter.

    Args:
        items: the labelled images.
        folds: how many, 2 or more.
        seed: which division.
        together: names of images that may not be parted either.
        before: fold (from 0) of images that an earlier run scored: they stay there, so that its networks can go on.

    Returns:
        The sorted names of each fold.

    Raises:
        ConfigError: there are fewer groups than folds.
    """
    units = units_of(items, together)
    if len(units) < folds:
        what = f"{len(items)} labelled images in {len(units)} groups cannot make {folds} folds"
        raise ConfigError(what, where="folds", todo=f"--folds {len(units)}" if len(units) > 1 else "label more images")
    order = Permutation(len(units), seed, _STREAM)
    drawn = [units[order[i]] for i in range(len(units))]
    out: list[list[str]] = [[] for _ in range(folds)]
    fresh = []
    for unit in drawn:
        old = {n for name in unit if (n := (before or {}).get(name)) is not None and n < folds}
        if len(old) == 1:
            out[old.pop()] += unit
        else:
            fresh.append(unit)
    for unit in sorted(fresh, key=len, reverse=True):  # stable: of equal sizes in drawn order
        min(out, key=len).extend(unit)
    if not all(out):
        what = f"fold {1 + out.index([])} of the run before has no labelled image any more"
        raise ConfigError(what, where="folds", todo="start without --init, or give --folds 1")
    return [sorted(names) for names in out]


def units_of(items: Sequence[Item], together: Sequence[Sequence[str]] = ()) -> list[list[str]]:
    """Return the names that may not be parted, in sets; sorted by their first names. For arguments see ``assign``."""
    lead = {item.name: item.name for item in items}

    def root(name: str) -> str:
        while lead[name] != name:
            name = lead[name]
        return name

    groups: dict[str, list[str]] = {}
    for item in items:
        if item.group:
            groups.setdefault(item.group, []).append(item.name)
    for names in (*groups.values(), *together):
        mine = sorted(root(name) for name in names if name in lead)
        for name in mine[1:]:
            lead[name] = mine[0]
    units: dict[str, list[str]] = {}
    for name in sorted(lead):
        units.setdefault(root(name), []).append(name)
    return sorted(units.values())


def resampled_with(items: Sequence[Item], together: Sequence[Sequence[str]] = ()) -> tuple[str, ...]:
    """Return what each item is resampled together with: its group, or the first image that shows the same; "" = alone.

    For arguments see ``assign``. A copy is no further evidence: it must not narrow an interval.
    """
    group = {item.name: item.group for item in items}
    told = {}
    for names in units_of(items, together):
        own = next((group[name] for name in names if group[name]), names[0] if len(names) > 1 else "")
        told |= dict.fromkeys(names, own)
    return tuple(told[item.name] for item in items)


def hold_out(
    index: DataIndex, pools: Pools, names: Sequence[str], together: Sequence[Sequence[str]] = ()
) -> tuple[DataIndex, Pools]:
    """Return the data set and the pools of one fold: its images are "val", and the rest knows nothing of them.

    Args:
        index: without "val".
        pools: of all folds.
        names: the labelled images of the fold; in the pools of a part of them they may be unlabelled.
        together: names of images that show the same; unlabelled ones among them, and those of the fold's groups, are
            left out.
    """
    scored = set(names)
    groups = {item.group for item in index.labelled if item.name in scored and item.group}
    gone = scored | {name for same in together if scored.intersection(same) for name in same}

    def kept(items: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(i for i in items if i.name not in gone and not (i.group and i.group in groups))

    val = tuple(item for item in index.labelled if item.name in scored)
    # an index file's images are read one by one, and have no groups
    unlabelled = pools.unlabelled if pools.digest else kept(pools.unlabelled)
    inside = replace(pools, labelled=kept(pools.labelled), unlabelled=unlabelled, partial=kept(pools.partial))
    items = {**index.items, "train": kept(index.items["train"]), "val": val}
    return replace(index, items=items), inside
