"""After the last step: scores of last and best, the delivered model, pictures, metrics.json."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from fewmask.data.bands import shown
from fewmask.data.files import flat_name
from fewmask.data.images import read_item
from fewmask.data.index import Item, Role
from fewmask.engine.checkpoint import Store
from fewmask.engine.evaluate import Pictures, confusion_of
from fewmask.engine.files import sync_file, sync_folder, write_atomic, write_errors, write_json
from fewmask.engine.flatten import load_networks, networks_to_flat
from fewmask.engine.infer import PROTOCOLS, Forward, Protocol, image_logits, normalise, to_grid
from fewmask.engine.train import Progress
from fewmask.errors import CheckpointError, printable
from fewmask.ops.metrics import mean_iou
from fewmask.report.pictures import save_png, side_by_side
from fewmask.run.again import init_command
from fewmask.run.evaluation import Evaluation, save_evaluations
from fewmask.run.folder import RunFolder
from fewmask.run.gain import gain_over, interval_of
from fewmask.run.notes import Say
from fewmask.run.prepare import Prepared
from fewmask.run.score import Scorer


def finish(
    scorer: Scorer, done: Progress, store: Store | None, folder: RunFolder, baseline: RunFolder | None, say: Say
) -> dict[str, Any]:
    """Score last and best, compare with the baseline, deliver the better one, and write metrics.json last.

    Args:
        scorer: holds the learner, with its last networks.
        done: where the run stands.
        store: on the first rank; None on the others, which only help scoring.
        folder: the run.
        baseline: the matched supervised run, finished; None = there is none.
        say: told if the best checkpoint is lost.

    Returns:
        The content of metrics.json.
    """
    learner, prepared = scorer.learner, scorer.prepared
    recipe, fabric = prepared.recipe, learner.fabric
    found: dict[Role, Evaluation | None] = {role: scorer.evaluate(role) for role in ("val", "test")}
    last = {"val": scorer.score("val"), "test": scorer.score("test")}
    others = {name: scorer.score("val", name) for name in learner.method.predictors}
    best: dict[str, Any] = {"step": recipe.train.steps, **last}
    if done.best is not None and done.best["step"] != done.step:
        flat = fabric.broadcast(_networks_at(store, done.best["step"], say))
        if flat is not None:
            load_networks(learner.nets, flat)
            scorer.forget()
            best = {"step": done.best["step"], "val": scorer.score("val"), "test": scorer.score("test")}
    # "best" was chosen on val, so it is never behind there; without a val set it is the last
    seen = recipe.train.steps * sum(s.size for s in learner.slots.values())
    theirs = None if baseline is None else baseline.read_metrics()
    gain = None if baseline is None else gain_over([found["val"]], [baseline], prepared.index.classes)
    metrics = {
        "method": recipe.method_name, "seed": recipe.train.seed, "steps": recipe.train.steps,
        "protocol": recipe.protocol, "labelled": len(prepared.pools.labelled),
        "unlabelled": len(prepared.pools.unlabelled), **last, "best": best, "predictors": others,
        "baseline": None if theirs is None else {role: theirs[role] for role in ("val", "test")},
        "gain": gain, "delivered": _delivered(best, recipe.train.steps, theirs),
        "seconds": round(done.seconds, 1), "images_per_second": round(seen / max(done.seconds, 1e-9), 1),
        "peak_memory_mb": _peak_memory_mb(fabric.device), "skipped": done.skipped,
        "deterministic": done.deterministic,
        "interval": {role: interval_of(one) for role, one in found.items()},
        "baseline_run": None if baseline is None else baseline.path_from(folder),
    }  # fmt: skip
    worst = _draw(scorer, folder) if fabric.global_rank == 0 else []
    if fabric.global_rank == 0:
        _deliver(scorer, folder)
        if metrics["delivered"]["run"] == "baseline":
            assert baseline is not None  # _delivered has chosen it
            take_delivery(baseline, folder)
            worst = worst_of(baseline)
        save_evaluations(folder.evaluation, found)
        write_atomic(folder.next_steps, _next_steps(folder, prepared, worst))
        write_json(folder.metrics, metrics)
    fabric.barrier()
    return metrics


def _delivered(best: dict[str, Any], steps: int, theirs: dict[str, Any] | None) -> dict[str, Any]:
    """Return which model is the run's: the arm with the better score on val; of equals the method."""
    own = {"run": "method", "checkpoint": "last" if best["step"] == steps else "best", "step": best["step"]}
    own["val"] = best["val"] and best["val"]["miou"]
    other = None if theirs is None else theirs["delivered"]
    if other is None or other["val"] is None or (own["val"] is not None and own["val"] >= other["val"]):
        return own
    return other | {"run": "baseline"}


def take_delivery(source: RunFolder, folder: RunFolder) -> None:
    """Make another run's model and pictures those of a run."""
    for ours, theirs in ((folder.model, source.model), (folder.pictures, source.pictures)):
        fresh = folder.path / f".{ours.name}-new"
        shutil.rmtree(fresh, ignore_errors=True)
        if theirs.is_dir():
            with write_errors(fresh):
                shutil.copytree(theirs, fresh, copy_function=_copy)
                sync_folder(fresh)
                shutil.rmtree(ours, ignore_errors=True)
                fresh.rename(ours)


def _copy(source: str, target: str) -> None:
    """Copy a file so that it is on the disk before metrics.json says that the run is finished."""
    shutil.copy2(source, target)
    with open(target, "rb+") as file:
        sync_file(file, os.fstat(file.fileno()).st_size)


def worst_of(run: RunFolder) -> list[str]:
    """Return the val images with the lowest scores of a finished run, as its NEXT_STEPS.txt names them."""
    lines = run.next_steps.read_text(encoding="utf-8").splitlines() if run.next_steps.is_file() else []
    return [line.removeprefix(_IMAGE) for line in lines if line.startswith(_IMAGE)]


def _networks_at(store: Store | None, step: int, say: Say) -> dict[str, Tensor] | None:
    """Return the networks of the best checkpoint; None, and a warning, where it is damaged: the last is delivered."""
    try:
        return store.load(step).networks if store is not None else None
    except CheckpointError as error:
        say(f"WARNING: the best checkpoint is lost, the last one is delivered: {error}")
        return None


def _peak_memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return round(peak / 2**20 if sys.platform == "darwin" else peak / 2**10, 1)


def _deliver(scorer: Scorer, folder: RunFolder) -> None:
    """Write model/ as a sibling first, so that a reader never sees half of it."""
    recipe, index, (mean, std) = scorer.prepared.recipe, scorer.prepared.index, scorer.prepared.statistics
    fresh = folder.path / ".model-new"
    shutil.rmtree(fresh, ignore_errors=True)
    net = scorer.learner.method.network(scorer.learner.nets, scorer.reported)
    fresh.mkdir()
    tensors = {k.removeprefix("net."): v for k, v in networks_to_flat({"net": net}).items()}
    write_atomic(fresh / "model.safetensors", safetensors.torch.save(tensors))
    write_atomic(fresh / "classes.txt", "".join(f"{name}\n" for name in index.classes))
    write_json(
        fresh / "config.json",
        {
            "format": 1, "arch": recipe.model.arch, "encoder": recipe.model.encoder, **recipe.model.options,
            "classes": list(index.classes),
            "mean": mean, "std": std, "resize": recipe.data.resize, "protocol": recipe.protocol,
            "method": recipe.method_name, "predictor": scorer.reported,
            "ids": index.file_ids, **({"upright": True} if scorer.prepared.upright else {}),
            **({"channels": [band.told() for band in index.images.bands]} if index.images.bands else {}),
        },
    )  # fmt: skip
    shutil.rmtree(folder.model, ignore_errors=True)
    fresh.rename(folder.model)


def _draw(scorer: Scorer, folder: RunFolder, each_kind: int = 3) -> list[str]:
    """Write pictures/ of the best, median and worst val images; return the names of the worst."""
    index, pictures = scorer.prepared.index, scorer.pictures
    ranked: list[tuple[float, Item]] = []

    def note(item: Item, matrix: Tensor) -> None:
        value = mean_iou(matrix)
        if value is not None:
            ranked.append((value, item))

    fabric = scorer.learner.fabric
    forward = scorer.forward(scorer.reported)
    protocol = PROTOCOLS[scorer.prepared.recipe.protocol]
    mine = index.items["val"][:: fabric.world_size]  # the first rank's share is enough to choose from
    confusion_of(forward, mine, pictures, len(index.classes), protocol, note)
    ranked.sort(key=lambda pair: (-pair[0], pair[1].name))
    middle = max(0, (len(ranked) - each_kind) // 2)
    kinds = {"best": ranked[:each_kind], "median": ranked[middle : middle + each_kind], "worst": ranked[-each_kind:]}
    for kind, chosen in kinds.items():
        for n, (value, item) in enumerate(chosen):
            image, truth, prediction = predict_item(forward, item, pictures, protocol)
            name = f"{kind}-{n + 1}-{value:.0f}-{flat_name(item.name)}.png"
            save_png(side_by_side(image, truth, prediction), folder.pictures / name)
    return [item.name for _, item in kinds["worst"]]


def predict_item(
    forward: Forward, item: Item, pictures: Pictures, protocol: Protocol
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image [H, W, 3], truth and prediction [H, W] of one item, uint8, on the grid of its mask."""
    truth = pictures.mask(item)
    with torch.no_grad(), pictures.context():
        image = normalise(pictures.image(item), pictures.mean, pictures.std, pictures.device)
        logits = image_logits(forward, image, protocol).float()
    prediction = to_grid(logits, (truth.shape[0], truth.shape[1]))[0].to("cpu", torch.uint8)
    return shown(read_item(item), item.code.bands), truth.numpy(), prediction.numpy()


_IMAGE = "#   "


_SUGGEST = """\
# what to label next, and why, with masks to correct
fewmask suggest {run} -n 20 -o next

"""


def _image_line(name: str) -> str:
    return f"{_IMAGE}{printable(name)}"


def _next_steps(folder: RunFolder, prepared: Prepared, worst: list[str]) -> str:
    run = shlex.quote(str(folder.path))
    split = next((role for role in ("test", "val") if prepared.index.items[role]), None)
    what = "# score the delivered model" + (" on the test images" if split == "test" else "")
    lines = [
        "# What people do next; every line can be pasted.",
        "",
        "# predict on images of any size",
        f"fewmask predict {run} FOLDER_OF_IMAGES -o predictions",
        "",
        *([what, f"fewmask evaluate {run} --split {split}", ""] if split else []),
        *(_SUGGEST.format(run=run) if prepared.pools.unlabelled else "").splitlines(),
        "# after adding masks: continue from these networks",
        init_command(prepared.recipe, folder.path),
        "",
        "# one file for other programs",
        f"fewmask export {run} --format onnx -o model.onnx",
    ]
    if worst:
        lines += ["", "# the validation images with the lowest scores", *map(_image_line, worst)]
    return "\n".join(lines) + "\n"
