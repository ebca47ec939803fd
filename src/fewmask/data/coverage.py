"""Split lists beside their data: classes that a labelled list lacks, and pictures that stand in two lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewmask.data.doctor import class_coverage
from fewmask.data.duplicates import near_duplicates
from fewmask.data.index import DataIndex, Item
from fewmask.data.layouts import with_classes
from fewmask.data.lists import match, read_list
from fewmask.data.scan import scan


def look(paths: Sequence[Path], index: DataIndex) -> list[str]:
    """Return one sentence for every class that no labelled image of a list holds, and every pair of near-duplicates.

    Args:
        paths: split lists; the masks of those with "unlabel" in their name are not opened.
        index: the data that they list.

    Raises:
        DataError: a list names images that are not there, or a file cannot be read.
    """
    everything = [item for items in index.items.values() for item in items]
    found: dict[str, Sequence[Item]] = {p.name: match(read_list(p), everything) for p in paths}
    lines = []
    for name, items in found.items():
        masked = [i for i in items if i.mask is not None]
        if not masked or "unlabel" in name.lower():
            continue
        counts = scan(masked, len(index.classes) or None, index.code, images=False, exif=index.exif)
        counts.raise_first()
        classes = with_classes(index, counts).classes
        absent = class_coverage(classes, counts.counts[:, : len(classes)])
        lines += [f"{name}: no mask holds {', '.join(absent)}"] if absent else []
    twins = near_duplicates({name: [i.without_mask() for i in items] for name, items in found.items()})
    lines += [
        f"near-duplicates: {a} in {x}, {b} in {y}" for (x, y), (a, b) in ((p.roles, p.names) for p in twins.pairs)
    ]
    return lines + list(twins.notes)
