"""A run of several seeds: the mean of their scores, one gain over all of them, and the best model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from fewmask.engine.files import write_atomic, write_json
from fewmask.run.arms import Arm
from fewmask.run.finish import take_delivery
from fewmask.run.folder import RunFolder
from fewmask.run.gain import gain_over
from fewmask.run.prepare import Prepared
from fewmask.run.score import load_evaluation

ROLES = ("val", "test")


def summarise(prepared: Prepared, arms: Sequence[Arm]) -> dict[str, Any]:
    """Write the folder of a run of several seeds from the finished runs of each, metrics.json last.

    Args:
        prepared: the whole run.
        arms: all its trainings.

    Returns:
        The content of metrics.json: scores are means over the seeds, and ``spread`` their standard deviations.
    """
    folder = RunFolder(prepared.folder)
    seeds = range(prepared.recipe.train.seed, prepared.recipe.train.seed + prepared.recipe.seeds)
    runs = [folder.seed(seed) for seed in seeds]
    each = [run.read_metrics() for run in runs]
    baselines = [RunFolder(arm.baseline) for arm in arms if arm.baseline is not None]
    evaluations = [load_evaluation(run.evaluation, "val") for run in runs]
    gain = gain_over(evaluations, baselines, prepared.index.classes) if baselines else None
    n = max(range(len(each)), key=lambda i: each[i]["delivered"]["val"] or 0.0)  # the first of equals
    metrics = {
        **{k: each[0][k] for k in ("method", "seed", "steps", "protocol", "labelled", "unlabelled")},
        "val": mean_score([m["val"] for m in each]), "test": mean_score([m["test"] for m in each]),
        "best": {"step": each[n]["best"]["step"], **{r: mean_score([m["best"][r] for m in each]) for r in ROLES}},
        "predictors": {name: mean_score([m["predictors"][name] for m in each]) for name in each[0]["predictors"]},
        "baseline": {r: mean_score([m["baseline"][r] for m in each]) for r in ROLES} if baselines else None,
        "gain": gain, "delivered": each[n]["delivered"] | {"seed": seeds[n]},
        "seconds": round(sum(m["seconds"] for m in each), 1),
        "images_per_second": round(fmean(m["images_per_second"] for m in each), 1),
        "peak_memory_mb": max((m["peak_memory_mb"] for m in each if m["peak_memory_mb"] is not None), default=None),
        "seeds": list(seeds), "spread": {r: _spread([m[r] for m in each]) for r in ROLES}, "baseline_run": None,
    }  # fmt: skip
    take_delivery(runs[n], folder)
    text = runs[n].next_steps.read_text(encoding="utf-8").replace(str(runs[n].path), str(folder.path))
    write_atomic(folder.next_steps, text)
    write_json(folder.metrics, metrics)
    return metrics


def mean_score(each: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the mean of several S; a number that one of them lacks is not measured."""
    known = [s for s in each if s is not None]
    if not known or len(known) < len(each):
        return None
    return {
        "miou": _mean([s["miou"] for s in known]),
        "iou": {name: _mean([s["iou"][name] for s in known]) for name in known[0]["iou"]},
        "pixel_accuracy": _mean([s["pixel_accuracy"] for s in known]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if len(known) == len(values) else None


def _spread(each: Sequence[dict[str, Any] | None]) -> float | None:
    """Return the standard deviation of mIoU over the seeds (of a sample)."""
    values = [s["miou"] for s in each if s is not None and s["miou"] is not None]
    return round(stdev(values), 4) if len(values) == len(each) > 1 else None
