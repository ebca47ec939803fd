"""Scores of a finished run, computed again: on its own data or another folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from fewmask.data.check import duplicate_images
from fewmask.data.datayaml import DataYaml
from fewmask.data.folds import resampled_with
from fewmask.data.index import DataIndex, Item, MaskCode, Role
from fewmask.data.layouts import read_folder
from fewmask.data.masks import read_mask
from fewmask.data.scan import scan
from fewmask.data.sizes import item_loader
from fewmask.engine.checkpoint import Store
from fewmask.engine.evaluate import Pictures, scores
from fewmask.engine.flatten import load_networks
from fewmask.engine.infer import PROTOCOLS
from fewmask.engine.precision import FORMATS
from fewmask.errors import CheckpointError, ConfigError, DataError
from fewmask.method import Task, make_networks, trainings
from fewmask.methods import METHODS, resolve
from fewmask.nets import Builder
from fewmask.ops.boundary import boundary_f
from fewmask.ops.metrics import dice
from fewmask.recipe import Recipe
from fewmask.run.data import masked_index, open_folder
from fewmask.run.doubt import pools_of
from fewmask.run.evaluation import Evaluation, counted, joined
from fewmask.run.folder import RunFolder
from fewmask.run.gain import interval_of
from fewmask.run.model import Model
from fewmask.run.notes import Say

Which = Literal["delivered", "last", "best", "baseline"]


def model_of(folder: RunFolder, which: Which, trust_code: bool = False) -> tuple[Model, int | None]:
    """Return a model of a run, and its step.

    Args:
        folder: a finished run.
        which: "delivered"; "last" or "best" of the method; "baseline": the last of the matched supervised run.
        trust_code: import a method that the run names by a dotted path.

    Raises:
        CheckpointError: the run is not finished, or that checkpoint is gone, or there is no baseline.
        ConfigError: a run of several seeds has no such model of its own; its method is code that is not trusted.
    """
    metrics = folder.read_metrics()
    if which == "delivered":
        return Model.load(folder.model), metrics["delivered"].get("step")
    _refuse_seeds(folder, which)
    if "folds" in metrics:
        if (which == "baseline") != (metrics["delivered"]["run"] == "baseline"):
            raise ConfigError(
                f"of a cross-fitted run only the better arm was trained on all images, and that is not {which!r}",
                where=folder.path, todo=f"--which delivered, or name a fold: {folder.fold(1).path}",
            )  # fmt: skip
        folder, which = folder.all, "last"
        metrics = folder.read_metrics()
    if which == "baseline":
        if (theirs := folder.compared_with(metrics)) is None:
            raise CheckpointError("the run has no baseline", where=folder.path, todo="train with --baseline")
        folder, which = theirs, "last"
        metrics = folder.read_metrics()
    step = metrics["best"]["step"] if which == "best" else metrics["steps"]
    model = Model.load(folder.model)  # of another step, perhaps of the other arm: its network is replaced
    holds, before = folder, 0  # a run of several rounds has its networks in the last one
    if rounds := metrics.get("rounds"):
        holds, before = folder.round(len(rounds) - 1, rounds[-1]["name"]), metrics["steps"] - rounds[-1]["steps"]
    model.net.load_state_dict(_reported(holds, step - before, len(model.mean), trust_code).state_dict())
    return model, step


def _refuse_seeds(folder: RunFolder, which: Which) -> None:
    metrics = folder.read_metrics()
    if which != "delivered" and "seeds" in metrics:
        raise ConfigError(
            f"a run of several seeds has no {which!r} model of its own", where=folder.path,
            todo=f"name the run of one seed: {folder.seed(metrics['seeds'][0]).path}",
        )  # fmt: skip


def _reported(folder: RunFolder, step: int, inputs: int, trust_code: bool) -> torch.nn.Module:
    """Return the reported predictor of a run at a checkpoint, of so many input channels."""
    recipe, pixels = folder.recipe(), list(folder.manifest()["labelled_pixels"].values())
    if recipe.method_name not in METHODS and not trust_code:
        raise ConfigError(
            f"the run's method {recipe.method_name!r} is code of its own, which is not imported unasked",
            where=folder.config, todo="if you trust it: --trust-code; --which delivered needs none",
        )  # fmt: skip
    task = Task.of(pixels)
    method = trainings(resolve(recipe.method_name)(recipe.constants(), task))[-1]
    model = recipe.model
    assert model.arch and model.encoder  # a run's recipe is complete
    build = Builder(
        model.arch, model.encoder, task.classes, weights="none", seed=recipe.train.seed, channels=inputs,
        **model.options,
    )  # fmt: skip
    nets = make_networks(method, build, recipe.train.seed)
    load_networks(nets, Store(folder.path).load(step).networks)
    return method.network(nets, method.predictors[0])


@dataclass(frozen=True)
class _Scored:
    """One model's results on some images, and what is said of them; ``outlines``: ``boundary_f`` of each image."""

    found: Evaluation
    step: int | None
    protocol: str
    classes: list[str]
    outlines: list[list[float | None]]


def rescore(
    path: Path, dir: Path | None, split: Role, which: Which, trust_code: bool = False, boundary: bool = False,
    say: Say = lambda text: None, declared: DataYaml | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return {"split", "which", "step", "protocol", "images"} + S + {"dice", "boundary_f", "interval"}.

    ``interval`` is as ``gain.interval_of`` has it; it tells how far other images like these would move the mIoU.
    ``dice`` and ``boundary_f`` are {"mean", "classes": {name: number or null}}; the latter are means over images.

    The val images of a cross-fitted run are its labelled ones, each predicted by a network that has not seen it.

    Args:
        path: a run folder.
        dir: other data with the same classes; None = the run's own.
        split: which images; of other data without roles all that have masks.
        which: which of the run's models.
        trust_code: see ``model_of``.
        boundary: also predict each image once more, for "boundary_f", which is else null.
        say: told which images of other data are scored, if that is not plain.
        declared: what counts in place of the data.yaml of ``dir``; None reads its own, and of the run's own data what
            the run has noted.

    Raises:
        CheckpointError: the run is not finished, or the val images that were drawn for it are gone.
        DataError: the data cannot be read, or have no such images.
        ConfigError: the classes differ.
    """
    folder = RunFolder(path)
    try:
        crossed = dir is None and split == "val" and "folds" in folder.read_metrics()
        parts: list[tuple[RunFolder, Which]] = _folds(folder, which) if crossed else [(folder, which)]
        other = None if dir is None else (dir, declared)
        each = [_score(part, other, split, arm, trust_code, boundary, say) for part, arm in parts]
    except (KeyError, AttributeError) as error:  # a metrics.json that lacks what this program writes
        raise CheckpointError(
            f"metrics.json of the run lacks {error}", where=folder.metrics, todo="repeat the run's train command"
        ) from error
    found, names = joined([one.found for one in each]), each[0].classes
    matrix, outlines = torch.from_numpy(found.matrix), [image for one in each for image in one.outlines]
    return {
        "split": split, "which": which, "step": each[0].step, "protocol": each[0].protocol,
        "images": len(found.names), **scores(matrix, names), "dice": _by_class(dice(matrix), names),
        "boundary_f": _by_class(_over_images(outlines, matrix.sum(1).tolist()), names) if boundary else None,
        "interval": interval_of(found),
    }  # fmt: skip


def _by_class(values: Sequence[float | None], names: Sequence[str]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {"mean": fmean(known) if known else None, "classes": dict(zip(names, values, strict=True))}


def _over_images(each: Sequence[Sequence[float | None]], truth: Sequence[int]) -> list[float | None]:
    """Return the mean of each class over the images that have an outline of it; None for one that no mask holds.

    Args:
        each: of every image, ``boundary_f``.
        truth: pixels of each class in the masks.
    """
    columns = [[value for value in column if value is not None] for column in zip(*each, strict=True)]
    return [fmean(known) if known and held else None for known, held in zip(columns, truth, strict=True)]


def _folds(folder: RunFolder, which: Which) -> list[tuple[RunFolder, Which]]:
    """Return the runs of the folds, and which of their models belongs to one of the whole run."""
    _refuse_seeds(folder, which)
    folder = folder.delivering
    metrics = folder.read_metrics()
    if which == "best":  # a fold's best is chosen on the images that it scores
        which = "last"
    if which == "delivered":  # a fold may have delivered the other arm
        which = "last" if metrics["delivered"]["run"] == "method" else "baseline"
    return [(folder.fold(k), which) for k in range(1, len(metrics["folds"]) + 1)]


def _score(
    folder: RunFolder, other: tuple[Path, DataYaml | None] | None, split: Role, which: Which, trust_code: bool,
    boundary: bool, say: Say,
) -> _Scored:  # fmt: skip
    model, step = model_of(folder, which, trust_code)
    recipe = folder.recipe()
    index, items = _own(folder, recipe, split) if other is None else _others(folder, *other, split, recipe, say)
    root = index.root
    if index.classes and list(index.classes) != model.classes:
        raise ConfigError(
            f"the data have the classes {list(index.classes)}, the model {model.classes}", where=root,
            todo="evaluate on data with the same classes in the same order",
        )  # fmt: skip
    if index.images.bands != model.card.channels:
        raise ConfigError(
            "the data have other channels than the model", where=root,
            todo="declare in its data.yaml (or --data-yaml FILE) the channels that model/config.json tells",
        )  # fmt: skip
    if not items:
        raise DataError(f"there are no {split} images with masks", where=root, todo="choose another --split or DIR")
    seen = scan(items, len(model.classes), index.code, exif=index.exif)
    seen.raise_first()
    copies = [[item.name for _, item in same] for same in duplicate_images(index, seen)]
    whole = item_loader(index.code, recipe.data.resize)

    def truth(item: Item) -> torch.Tensor:
        assert item.mask is not None
        return torch.from_numpy(read_mask(item.mask, index.code))

    # the precision that training validated with, so that the figures agree
    dtype = FORMATS[recipe.machine.precision]
    pictures = Pictures(
        lambda i: whole(i.without_mask())[0], truth, model.mean, model.std, model.device,
        lambda: torch.autocast(model.device.type, dtype=dtype) if dtype is not None else nullcontext(),
    )  # fmt: skip
    protocol = PROTOCOLS[recipe.protocol]
    matrix, counts = counted(model.net, items, pictures, len(model.classes), protocol)
    names, units = tuple(item.name for item in items), resampled_with(items, copies)
    outlines = [_outlines(model, item, index.code) for item in items] if boundary else []
    found = Evaluation(matrix.numpy(), names, tuple(item.group for item in items), counts.numpy(), units)
    return _Scored(found, step, protocol.name, model.classes, outlines)


def _own(folder: RunFolder, recipe: Recipe, split: Role) -> tuple[DataIndex, Sequence[Item]]:
    """Return a run's data, and the images that it was scored on: of val that was drawn, those and no others."""
    index, _ = pools_of(folder, lambda text: None) if recipe.fold else open_folder(recipe, folder)
    items, was = index.items[split], folder.manifest().get("val_names")
    if split != "val" or was is None:
        return index, items
    names = set(was)
    kept = [item for item in items if item.name in names]
    if len(kept) < len(was):
        raise CheckpointError(
            f"{len(was) - len(kept)} of the {len(was)} val images that were drawn for the run are gone",
            where=index.root, todo="put them back, or name other data: fewmask evaluate RUN DIR",
        )  # fmt: skip
    return index, kept


def _others(
    folder: RunFolder, root: Path, declared: DataYaml | None, split: Role, recipe: Recipe, say: Say
) -> tuple[DataIndex, Sequence[Item]]:  # fmt: skip
    """Return other data, and the images of a role; without roles all that have masks, unless it is the run's own."""
    if declared is None and root.resolve() == Path(recipe.data.dir).resolve():
        declared = folder.declared
    index = masked_index(read_folder(root, val_fraction=None, groups=recipe.data.group_by, declared=declared))
    if index.items["val"] or index.items["test"]:
        return index, index.items[split]
    trained = set(folder.manifest().get("labelled_names", ()))
    if trained and trained <= {item.name for item in index.labelled}:  # perhaps moved, or grown
        say(f"{root} holds the images that the run was trained on: it is taken for the run's own data")
        return _own(folder, recipe.replace("data", dir=str(root)), split)
    say(f"{root} has no roles: all {len(index.labelled)} images with masks are scored")
    return index, index.labelled


def _outlines(model: Model, item: Item, code: MaskCode) -> list[float | None]:
    """Return ``boundary_f`` of an image, predicted as ``predict`` does."""
    assert item.mask is not None
    return boundary_f(model.predict(item.image), read_mask(item.mask, code), len(model.classes))
