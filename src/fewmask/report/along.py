"""The baselines that runs hold, taken along where nobody has given one: gains are what people compare for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewmask.report.record import Record, get

SUPERVISED = "supervised"


def supervised(record: Record) -> bool:
    """Return whether a run used no unlabelled images."""
    return record.metrics.get("method") == SUPERVISED


def kind(record: Record) -> tuple[dict[str, Any], Any]:
    """Return what a run and its baseline have in common: the model section, as far as it is set, and the steps.

    A run may be older than a key of that section.
    """
    network = {key: value for key, value in (get(record.recipe, "model") or {}).items() if value is not None}
    return network, record.metrics.get("steps")


def held(records: Sequence[Record]) -> list[Record]:
    """Return the baselines of those runs for which no supervised one of their kind is among them."""
    given = [kind(record) for record in records if supervised(record)]
    lacking = [record for record in records if not supervised(record) and kind(record) not in given]
    return [record.baseline for record in lacking if record.baseline is not None]


def lost(records: Sequence[Record]) -> list[str]:
    """Return a sentence for each run whose baseline is recorded, is not there, and has no other in its place."""
    given = [kind(record) for record in records if supervised(record)]
    return [
        f"no gain of {record.label}: its baseline, {record.metrics['baseline_run']}, cannot be read; give a supervised "
        "run of the same network and steps"
        for record in records
        if record.metrics.get("baseline_run") and record.baseline is None and kind(record) not in given
    ]
