"""After the last step: scores of last and best, the delivered model, pictures, metrics.json."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from fewmask.data.index import Item, Role
from fewmask.data.masks import read_image
from fewmask.engine.checkpoint import Store
from fewmask.engine.evaluate import Pictures, confusion_of, scores
from fewmask.engine.files import write_atomic, write_json
from fewmask.engine.flatten import load_networks, networks_to_flat
from fewmask.engine.infer import PROTOCOLS, Forward, Protocol, image_logits, normalise, to_grid
from fewmask.engine.learner import Learner
from fewmask.engine.train import Progress
from fewmask.errors import CheckpointError
from fewmask.nets import IMAGENET_MEAN, IMAGENET_STD
from fewmask.ops.metrics import mean_iou
from fewmask.report.pictures import save_png, side_by_side
from fewmask.run.folder import RunFolder
from fewmask.run.prepare import Prepared, Say


class Scorer:
    """Scores predictors of a learner on val and test; every rank takes its share of the images.

    Args:
        learner: with the networks.
        prepared: data and protocol.
        pictures: reads images and masks.
    """

    def __init__(self, learner: Learner, prepared: Prepared, pictures: Pictures) -> None:
        self.learner, self.prepared, self.pictures = learner, prepared, pictures
        self.reported = learner.method.predictors[0]
        self._known: dict[tuple[Role, str], dict[str, Any]] = {}

    def forward(self, predictor: str) -> Forward:
        """Return images → logits of one predictor, all networks in evaluation mode."""
        for net in self.learner.nets.values():
            net.eval()
        return lambda images: self.learner.method.predict(self.learner.nets, predictor, images)

    def matrix(self, role: Role, predictor: str, each: Callable[[Item, Tensor], None] | None = None) -> Tensor:
        """Return the confusion matrix of a role, [K, K]."""
        fabric, index = self.learner.fabric, self.prepared.index
        mine = index.items[role][fabric.global_rank :: fabric.world_size]
        matrix = confusion_of(
            self.forward(predictor), mine, self.pictures, len(index.classes),
            PROTOCOLS[self.prepared.recipe.protocol], each,
        )  # fmt: skip
        return self.learner.reduce(matrix.to(fabric.device)).cpu()

    def score(self, role: Role, predictor: str | None = None) -> dict[str, Any] | None:
        """Return S of ``docs/metrics.md``, or None where the role has no images; computed once until ``forget``."""
        if not self.prepared.index.items[role]:
            return None
        key = (role, predictor or self.reported)
        if key not in self._known:
            self._known[key] = scores(self.matrix(*key), self.prepared.index.classes)
        return self._known[key]

    def validate(self) -> dict[str, Any]:
        """Return S of the reported predictor on val, for networks that have changed since the last call."""
        self.forget()
        score = self.score("val")
        assert score is not None  # the loop asks only where there is a val set
        return score

    def forget(self) -> None:
        """Drop remembered scores: the networks have changed."""
        self._known.clear()


def finish(scorer: Scorer, done: Progress, store: Store | None, folder: RunFolder, say: Say) -> dict[str, Any]:
    """Score last and best, deliver the better one, draw pictures, and write metrics.json last.

    Args:
        scorer: holds the learner, with its last networks.
        done: where the run stands.
        store: on the first rank; None on the others, which only help scoring.
        folder: the run.
        say: told if the best checkpoint is lost.

    Returns:
        The content of metrics.json.
    """
    learner, prepared = scorer.learner, scorer.prepared
    recipe, fabric = prepared.recipe, learner.fabric
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
    metrics = {
        "method": recipe.method_name, "seed": recipe.train.seed, "steps": recipe.train.steps,
        "protocol": recipe.protocol, "labelled": len(prepared.pools.labelled),
        "unlabelled": len(prepared.pools.unlabelled), **last, "best": best, "predictors": others,
        "baseline": None, "gain": None,
        "delivered": {"run": "method", "checkpoint": "last" if best["step"] == recipe.train.steps else "best"},
        "seconds": round(done.seconds, 1), "images_per_second": round(seen / max(done.seconds, 1e-9), 1),
        "peak_memory_mb": _peak_memory_mb(fabric.device),
    }  # fmt: skip
    worst = _draw(scorer, folder) if fabric.global_rank == 0 else []
    if fabric.global_rank == 0:
        _deliver(scorer, folder)
        write_atomic(folder.next_steps, _next_steps(folder, prepared, worst))
        write_json(folder.metrics, metrics)
    fabric.barrier()
    return metrics


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
    recipe, index = scorer.prepared.recipe, scorer.prepared.index
    fresh = folder.path / ".model-new"
    shutil.rmtree(fresh, ignore_errors=True)
    net = scorer.learner.nets[scorer.reported]
    fresh.mkdir()
    tensors = {k.removeprefix("net."): v for k, v in networks_to_flat({"net": net}).items()}
    write_atomic(fresh / "model.safetensors", safetensors.torch.save(tensors))
    write_atomic(fresh / "classes.txt", "".join(f"{name}\n" for name in index.classes))
    write_json(
        fresh / "config.json",
        {
            "format": 1, "arch": recipe.model.arch, "encoder": recipe.model.encoder, "classes": list(index.classes),
            "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "resize": recipe.data.resize, "protocol": recipe.protocol,
            "method": recipe.method_name, "predictor": scorer.reported,
            "ids": _file_ids(scorer.prepared),
        },
    )  # fmt: skip
    shutil.rmtree(folder.model, ignore_errors=True)
    fresh.rename(folder.model)


def _file_ids(prepared: Prepared) -> list[int]:
    """Return the id that mask files use for each class: predictions are written with the user's own ids."""
    mapping = prepared.index.code.mapping
    ids = list(range(len(prepared.index.classes)))
    for file_id, learned in reversed(mapping or ()):  # of merged ids the first one stands for the class
        if learned < len(ids):
            ids[learned] = file_id
    return ids


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
            name = item.name.replace("/", "_")
            save_png(side_by_side(image, truth, prediction), folder.pictures / f"{kind}-{n + 1}-{value:.0f}-{name}.png")
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
    return read_image(item.image), truth.numpy(), prediction.numpy()


def _next_steps(folder: RunFolder, prepared: Prepared, worst: list[str]) -> str:
    run, model = folder.path, prepared.recipe.model
    lines = [
        "# What people do next; every line can be pasted.",
        "",
        "# predict on images of any size",
        f"fewmask predict {run} FOLDER_OF_IMAGES -o predictions",
        "",
        "# score the delivered model" + (" on the test images" if prepared.index.items["test"] else ""),
        f"fewmask evaluate {run} --split {'test' if prepared.index.items['test'] else 'val'}",
        "",
        "# after adding masks: continue from these networks",
        f"fewmask train {prepared.recipe.data.dir} --init {run} --method {prepared.recipe.method_name} "
        f"--arch {model.arch} --encoder {model.encoder} --weights none",
    ]
    if worst:
        lines += ["", "# the validation images with the lowest scores", *(f"#   {name}" for name in worst)]
    return "\n".join(lines) + "\n"
