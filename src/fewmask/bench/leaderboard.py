"""``fewmask bench leaderboard``: every method trained on one folder, at equal steps, scored under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewmask.data.scenes import write_scenes
from fewmask.recipe import for_its_length, read_recipe
from fewmask.run.arms import SUPERVISED
from fewmask.run.execute import execute
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Say


def rows(
    data: Path | None, methods: Sequence[str], words: Sequence[str], seeds: int, out: Path, say: Say
) -> list[dict[str, Any]]:
    """Train, and return rows ordered by the score on val: the best first.

    A row is {"method", "seeds", "steps", "val", "val_sd", "test", "test_sd", "gain", "protocol", "seconds"}: mean mIoU
    over the seeds of the last checkpoint in percent, its standard deviation, and the ``gain`` of metrics.json.

    Args:
        data: the folder; None = generated scenes, kept in ``out``.
        methods: names, supervised first: it is the others' baseline.
        words: ``key=value`` of any recipe key, for all of them.
        seeds: how many, from 0.
        out: a run folder for each method lies in here; what is finished is not trained again.
        say: receives sentences.

    Raises:
        FewmaskError: as of ``fewmask train``.
    """
    root = data or write_scenes(out / "scenes")  # once
    found = []
    same: dict[str, Any] = {}  # as the first: another precision would need another baseline
    for n, name in enumerate(methods, start=1):
        say(f"{name}, {n} of {len(methods)}")
        keys = {"data.dir": str(root), "method": name, "seeds": seeds} | same
        run = execute(for_its_length(read_recipe(None, keys, words)), out / name, say=say)
        machine = RunFolder(run.path).recipe().machine
        same = {"machine.precision": machine.precision, "machine.channels_last": machine.channels_last}
        found.append(_row(RunFolder(run.path).read_metrics(), list(range(seeds))))
    return sorted(found, key=lambda row: row["val"] if row["val"] is not None else -1.0, reverse=True)


def _row(metrics: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    def mean(role: str) -> float | None:
        return None if metrics[role] is None else metrics[role]["miou"]

    spread, gain = metrics.get("spread", {}), metrics["gain"]
    return {
        "method": metrics["method"], "seeds": metrics.get("seeds", seeds), "steps": metrics["steps"],
        "protocol": metrics["protocol"], "val": mean("val"), "val_sd": spread.get("val"), "test": mean("test"),
        "test_sd": spread.get("test"), "gain": gain if metrics["method"] != SUPERVISED else None,
        "seconds": metrics["seconds"],
    }  # fmt: skip
