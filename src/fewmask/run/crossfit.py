"""A cross-fitted run: every labelled image is scored by networks that have seen nothing of it, one is trained on all.

``RUN/folds/K/`` are ordinary runs whose validation images are those of one fold, each with its baseline; ``RUN/all/``
is the training on all labelled images, of the arm that the folds say is better. The run's own folder holds what the
folds found together, and the network of ``all``. ``RUN/baseline/`` holds what the folds' baselines found.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from fewmask.engine.evaluate import scores
from fewmask.engine.files import write_atomic, write_json
from fewmask.report.record import Picture, read_pictures
from fewmask.run.again import init_command
from fewmask.run.arms import folds_of, matched, on_all
from fewmask.run.evaluation import Evaluation, joined, load_evaluation, save_evaluations
from fewmask.run.finish import take_delivery, worst_of
from fewmask.run.folder import RunFolder
from fewmask.run.gain import FOLDED, gain_over, interval_of
from fewmask.run.prepare import Prepared, begin
from fewmask.run.seeds import ROLES, mean_score


def last_training(run: Prepared) -> Prepared:
    """Return the training on all labelled images, of the arm that is ahead in the finished folds; of equals the method.

    Raises:
        CheckpointError: a fold's scores are lost.
    """
    folds = folds_of(run)
    folder = [RunFolder(fold.folder) for fold in folds]
    baselines = _baselines(folder)
    ahead = not baselines or _miou(run, folder) >= _miou(run, baselines)
    return on_all(run, folds[0] if ahead else matched(folds[0]))


def gather(run: Prepared) -> dict[str, Any]:
    """Write the folder of a cross-fitted run from its finished trainings, metrics.json last.

    Args:
        run: the run of one seed.

    Returns:
        The content of metrics.json: ``val`` is of all labelled images, ``test`` the mean over the networks of the
        folds, ``folds`` what each of them reached.
    """
    begin(run)  # of several seeds, no training has written the folder of the seed's run
    folder, last = RunFolder(run.folder), RunFolder(run.folder).all
    folds = [RunFolder(fold.folder) for fold in folds_of(run)]
    baselines, found, end = _baselines(folds), pooled(folds), last.read_metrics()
    metrics, theirs = _summary(run, folds, found), None
    save_evaluations(folder.evaluation, {"val": found})
    if baselines:
        others = pooled(baselines)
        theirs = _summary(run, baselines, others)
        begin(matched(run))
        save_evaluations(folder.baseline.evaluation, {"val": others})
        write_json(folder.baseline.metrics, theirs)
    arm = "method" if end["method"] == run.recipe.method_name else "baseline"
    ahead = metrics if arm == "method" or theirs is None else theirs
    metrics |= {
        "baseline": None if theirs is None else {role: theirs[role] for role in ROLES},
        "gain": gain_over([found], [folder.baseline], run.index.classes, FOLDED) if baselines else None,
        "delivered": {
            "run": arm, "checkpoint": "last", "step": end["steps"], "val": ahead["val"]["miou"],
            "test": end["test"] and end["test"]["miou"],
        },
        "seconds": round(metrics["seconds"] + end["seconds"], 1), "skipped": end["skipped"],
        "deterministic": metrics["deterministic"] and end.get("deterministic", False),
        "baseline_run": folder.baseline.path_from(folder) if baselines else None,
    }  # fmt: skip
    take_delivery(last, folder)
    _take_pictures(folds, folder.pictures)
    worst = [f"#   {name}" for fold in folds for name in worst_of(fold)]
    text = last.next_steps.read_text(encoding="utf-8").replace(str(last.path), str(folder.path))
    again = init_command(run.recipe, folder.path)  # in place of the one of that training, which has no baseline
    text = "\n".join(again if line.startswith("fewmask train ") else line for line in text.split("\n"))
    head = ["", "# the images with the lowest scores, of networks that had not seen them"] if worst else []
    write_atomic(folder.next_steps, text + "".join(f"{line}\n" for line in [*head, *worst]))
    write_atomic(folder.log, last.log.read_bytes())
    write_json(folder.metrics, metrics)
    return metrics


def _baselines(folds: Sequence[RunFolder]) -> list[RunFolder]:
    named = [fold.read_metrics()["baseline_run"] for fold in folds]
    return [RunFolder(fold.path / name) for fold, name in zip(folds, named, strict=True) if name]


def pooled(folds: Sequence[RunFolder]) -> Evaluation:
    """Return the results of several folds as those of one set of images, by name."""
    return joined([found for fold in folds if (found := load_evaluation(fold.evaluation, "val")) is not None])


def _miou(run: Prepared, folds: Sequence[RunFolder]) -> float:
    return scores(torch.from_numpy(pooled(folds).matrix), run.index.classes)["miou"] or 0.0


def _summary(run: Prepared, folds: Sequence[RunFolder], found: Evaluation) -> dict[str, Any]:
    """Return what the folds of one arm found together, as metrics.json tells it."""
    each = [fold.read_metrics() for fold in folds]
    val, test = scores(torch.from_numpy(found.matrix), run.index.classes), mean_score([m["test"] for m in each])
    first = each[0]
    return {
        **{k: first[k] for k in ("method", "seed", "steps", "protocol")},
        "labelled": len(run.pools.labelled), "unlabelled": len(run.pools.unlabelled), "val": val, "test": test,
        "best": {"step": first["steps"], "val": val, "test": test},  # chosen on the images that it is scored on: never
        "predictors": {next(iter(first["predictors"])): val},  # of the others no counts are kept to put together
        "baseline": None, "gain": None,
        "delivered": {"run": "method", "checkpoint": "last", "step": first["steps"], "val": val["miou"]},
        "seconds": sum(m["seconds"] for m in each),
        "images_per_second": round(fmean(m["images_per_second"] for m in each), 1),
        "peak_memory_mb": max((m["peak_memory_mb"] for m in each if m["peak_memory_mb"] is not None), default=None),
        "deterministic": all(m.get("deterministic", False) for m in each),  # older versions did not say
        "skipped": [], "interval": {"val": interval_of(found), "test": None}, "baseline_run": None,
        "folds": [
            {"images": len(names), "val": m["val"], "test": m["test"], "baseline": m["baseline"]}
            for names, m in zip(run.manifest["folds"], each, strict=True)
        ],
    }  # fmt: skip


def _take_pictures(folds: Sequence[RunFolder], folder: Path, each_kind: int = 3) -> None:
    """Copy the best, median and worst pictures of all folds, as those of one run."""
    found = [p for fold in folds for p in read_pictures(fold.pictures)]
    by = {kind: [p for p in found if p.kind == kind] for kind in ("best", "median", "worst")}
    by["best"].sort(key=lambda p: (-_value(p), p.name))
    by["worst"].sort(key=lambda p: (_value(p), p.name))
    middle = median([_value(p) for p in by["median"]]) if by["median"] else 0.0
    by["median"].sort(key=lambda p: (abs(_value(p) - middle), p.name))
    shutil.rmtree(folder, ignore_errors=True)
    for kind, pictures in by.items():
        # the last one is the worst, as in other runs
        chosen = pictures[:each_kind][:: -1 if kind == "worst" else 1]
        for n, picture in enumerate(chosen, start=1):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture.file, folder / f"{kind}-{n}-{picture.score}-{picture.name}.png")


def _value(picture: Picture) -> float:
    return 0.0 if picture.score == "nan" else float(picture.score)
