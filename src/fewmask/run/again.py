"""Training on from another run: what ``--init RUN`` takes of its settings, and the command that says so."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewmask.config import leaves, load_yaml
from fewmask.engine.infer import PROTOCOLS
from fewmask.engine.train import TrainConfig
from fewmask.recipe import DataConfig, Recipe, for_its_length
from fewmask.run.fill import scheduled
from fewmask.run.folder import RunFolder

_NETWORK = ("arch", "encoder", "output_stride", "atrous_rates")
_FLAGS = {
    "data.crop": "--crop", "data.batch": "--batch", "data.unlabelled_batch": "--unlabelled-batch",
    "data.unlabelled": "--unlabelled", "data.group_by": "--group-by", "train.steps": "--steps", "train.seed": "--seed",
    "seeds": "--seeds",
}  # fmt: skip
_LEFT = ("version", "data.dir", "data.data_yaml", "data.labelled", "data.resize", "protocol", "baseline", "method.name",
         "halving", "folds", "fold")  # fmt: skip
"""Keys that the command has otherwise, that the run is asked for, or that new masks may change."""
_SCHEDULE = ("train.steps", "train.eval_every", "train.save_every")


def as_before(asked: Recipe) -> Recipe:
    """Return the recipe with the network, input size and protocol of the run that it starts from, where it gives none.

    No other network could take the run's tensors, and at another input size step 0 would not score what the run did.
    Pretrained weights are not asked for: the run's take their place.

    Args:
        asked: the recipe as given. Where ``model.init`` is no run folder, it comes back as it is.
    """
    folder = RunFolder(asked.model.init or "")
    if not asked.model.init or not folder.config.is_file():
        return asked
    before = folder.recipe()
    taken: dict[str, Any] = {key: getattr(before.model, key) for key in _NETWORK} | {"weights": "none"}
    asked = asked.replace("model", **{k: v for k, v in taken.items() if k not in asked.model.model_fields_set})
    if "protocol" not in asked.model_fields_set:
        asked = asked.model_copy(update={"protocol": before.protocol})
    if "resize" not in asked.data.model_fields_set and not PROTOCOLS[asked.protocol].native:
        asked = asked.replace("data", resize=before.data.resize)
    return asked


def init_command(recipe: Recipe, run: Path) -> str:
    """Return the command that trains on from a run's networks, with all masks there are then and its other settings.

    A schedule that followed from the number of images is chosen anew.

    Args:
        recipe: the run's, complete.
        run: its folder, from whose settings ``as_before`` takes the rest.
    """
    words = ["fewmask", "train", *recipe.data.words, "--init", str(run), "--method", recipe.method_name]
    words += ["--no-baseline"] if recipe.baseline is False else []
    data = folder.manifest() if (folder := RunFolder(run)).data.is_file() else {}
    words += ["--folds", "1"] if recipe.folds == 1 and "val_names" in data else []  # held out, as they were
    told = dict(leaves(recipe.complete()))
    plain = dict(leaves(_default(recipe).complete()))
    chosen = _SCHEDULE if data and _was_chosen(recipe, data) else ()
    for key, value in told.items():
        if key.startswith(("model.", "machine.")) or key in (*_LEFT, *chosen) or value == plain.get(key):
            continue
        words += [_FLAGS[key], _worded(value)] if key in _FLAGS else [f"{key}={_worded(value)}"]
    return shlex.join(words)


def _default(recipe: Recipe) -> Recipe:
    """Return what a command without settings would train, for as long."""
    data, train = DataConfig(dir=recipe.data.dir), TrainConfig(steps=recipe.train.steps)
    plain = for_its_length(Recipe(data=data, method={"name": recipe.method_name}, train=train))
    return plain.replace("train", steps=TrainConfig().steps)


def _was_chosen(recipe: Recipe, data: Mapping[str, Any]) -> bool:
    """Return whether the number of images chose the steps, on this machine or one with a GPU."""
    batches = {"batch": recipe.data.batch, "unlabelled_batch": recipe.data.unlabelled_batch}
    plain = _default(recipe).replace("data", **batches)
    plain = plain.without("train", "steps")
    ways = [scheduled(plain, data["labelled"], data["unlabelled"], cuda) for cuda in (False, True)]
    return any(way.train.steps == recipe.train.steps for way in ways)


def _worded(value: Any) -> str:
    """Return a value as a flag or ``key=value`` takes it."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(side, int) for side in value):
        return f"{value[0]}x{value[1]}"  # a crop
    return value if isinstance(value, str) and load_yaml(value) == value else json.dumps(value)
