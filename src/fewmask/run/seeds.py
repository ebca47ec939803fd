"""A run of several seeds: the mean of their scores, one gain over all of them, and the best model."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from fewmask.data.index import Role
from fewmask.engine.files import write_atomic, write_json
from fewmask.run.arms import runs_of
from fewmask.run.evaluation import load_evaluation
from fewmask.run.finish import take_delivery
from fewmask.run.folder import RunFolder
from fewmask.run.gain import FOLDED, VAL, gain_over, interval_of
from fewmask.run.prepare import Prepared

ROLES: tuple[Role, ...] = ("val", "test")


def summarise(prepared: Prepared) -> dict[str, Any]:
    """Write the folder of a run of several seeds from the finished runs of each, metrics.json last.

    Args:
        prepared: the whole run.

    Returns:
        The content of metrics.json: scores are means over the seeds, and ``spread`` their standard deviations.
    """
    folder = RunFolder(prepared.folder)
    mine = runs_of(prepared)
    seeds, runs = [run.recipe.train.seed for run in mine], [RunFolder(run.folder) for run in mine]
    each = [run.read_metrics() for run in runs]
    baselines = [base for r, m in zip(runs, each, strict=True) if (base := r.compared_with(m)) is not None]
    evaluations = [load_evaluation(run.evaluation, "val") for run in runs]
    where = FOLDED if prepared.folds else VAL
    gain = gain_over(evaluations, baselines, prepared.index.classes, where) if baselines else None
    n = max(range(len(each)), key=lambda i: each[i]["delivered"]["val"] or 0.0)  # the first of equals
    metrics = {
        **{k: each[0][k] for k in ("method", "seed", "steps", "protocol", "labelled", "unlabelled")},
        "val": mean_score([m["val"] for m in each]), "test": mean_score([m["test"] for m in each]),
        "best": {"step": each[n]["best"]["step"], **{r: mean_score([m["best"][r] for m in each]) for r in ROLES}},
        "predictors": {name: mean_score([m["predictors"][name] for m in each]) for name in each[0]["predictors"]},
        "baseline": {r: mean_score([m["baseline"][r] for m in each]) for r in ROLES} if baselines else None,
        "interval": {r: interval_of(*(load_evaluation(run.evaluation, r) for run in runs)) for r in ROLES},
        "gain": gain, "delivered": each[n]["delivered"] | {"seed": seeds[n]},
        "seconds": round(sum(m["seconds"] for m in each), 1),
        "images_per_second": round(fmean(m["images_per_second"] for m in each), 1),
        "peak_memory_mb": max((m["peak_memory_mb"] for m in each if m["peak_memory_mb"] is not None), default=None),
        "deterministic": all(m.get("deterministic", False) for m in each),  # older versions did not say
        "seeds": seeds, "spread": {r: _spread([m[r] for m in each]) for r in ROLES}, "baseline_run": None,
        **({"folds": _mean_folds([m["folds"] for m in each])} if "folds" in each[0] else {}),
    }  # fmt: skip
    take_delivery(runs[n], folder)
    text = runs[n].next_steps.read_text(encoding="utf-8").replace(str(runs[n].path), str(folder.path))
    write_atomic(folder.next_steps, text)
    write_json(folder.metrics, metrics)
    return metrics


def _mean_folds(each: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean over the seeds of what each fold reached."""
    out = []
    for same in zip(*each, strict=True):
        base = [fold["baseline"] for fold in same if fold["baseline"] is not None]
        theirs = {r: mean_score([b[r] for b in base]) for r in ROLES} if len(base) == len(same) else None
        out.append({
            "images": same[0]["images"], **{r: mean_score([fold[r] for fold in same]) for r in ROLES},
            "baseline": theirs,
        })  # fmt: skip
    return out


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
