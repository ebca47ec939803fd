"""One step and one picture before the first step: a run that does not fit into memory ends here, and not in an epoch.

The step is the last one of the schedule, when every ramp has risen and every warm-up is over, on made-up images of the
run's sizes; the picture is as large as the largest that will be predicted.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from typing import Any

import torch

from fewmask.batch import Items, Slots, Stream
from fewmask.data.stream import to_device
from fewmask.engine import faults
from fewmask.engine.infer import PROTOCOLS, image_logits, to_grid
from fewmask.engine.launch import placement
from fewmask.errors import ConfigError, ResourceError, short_of_memory
from fewmask.method import Method
from fewmask.recipe import Recipe
from fewmask.run.prepare import Prepared
from fewmask.run.training import learner_of


def rehearse(prepared: Prepared, method: Method, fabric: Any) -> None:
    """Build the networks of a training, take one step, predict one picture, and forget all of it.

    Args:
        prepared: data and recipe; the recipe's steps are this training's.
        method: what will be trained.
        fabric: launched.

    Raises:
        ResourceError: the memory does not suffice; with a table of what to lower.
        ConfigError: normalisation layers cannot take a batch of one image.
    """
    recipe = prepared.recipe
    try:
        with faults.held():
            _rehearse(prepared, method, fabric)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            f"a training of {recipe.method_name} has steps of one image; {recipe.model.arch} pools it to one value a "
            "channel, which cannot be normalised", where="data.batch",
            todo="use a batch of 2 or more in every round, or --arch unet",
        ) from error  # fmt: skip
    except (RuntimeError, MemoryError) as error:
        if not short_of_memory(error):
            raise
        data, model = recipe.data, recipe.model
        assert data.crop is not None
        what = f"out of memory in the rehearsal of a step of {recipe.method_name}"
        where = (
            f"{model.arch} with {model.encoder}, batch {data.batch}+{data.unlabelled_batch}, "
            f"crop {data.crop[0]}x{data.crop[1]}, {prepared.layout.precision}, {fabric.device}"
        )
        short = ResourceError(what, where=where, todo="lower one of the following")
        for line in smaller(recipe, method, prepared.largest):
            short.add_note(line)
        raise short from error
    finally:
        gc.collect()
        if fabric.device.type == "cuda":
            torch.cuda.empty_cache()


def _rehearse(prepared: Prepared, method: Method, fabric: Any) -> None:
    recipe, layout = prepared.recipe, prepared.layout
    assert recipe.data.crop is not None
    learner = learner_of(prepared, method, fabric)
    learner.train_mode()
    mean, std = (torch.tensor(values, device=fabric.device) for values in prepared.statistics)
    raw = made_up(method.streams, learner.slots, recipe.data.crop, prepared.task.classes, len(mean))
    learner.update(to_device(raw, fabric.device, mean, std, layout.channels_last), recipe.train.steps - 1)
    for net in learner.nets.values():
        net.eval()
    with torch.no_grad(), learner.autocast():
        picture = torch.zeros(1, len(mean), *prepared.largest, device=fabric.device)
        name = method.predictors[0]
        logits = image_logits(lambda x: method.predict(learner.nets, name, x), picture, PROTOCOLS[recipe.protocol])
        to_grid(logits.float(), prepared.largest)


def made_up(
    streams: Mapping[str, Stream], slots: Mapping[str, Slots], crop: tuple[int, int], classes: int, channels: int
) -> dict[str, Items]:
    """Return a batch of noise as a loader would make it, with every kind of label that a round may have."""
    g = torch.Generator().manual_seed(0)
    batch = {}
    for name, stream in streams.items():
        count = slots[name].count
        labels = torch.randint(0, classes, (2, count, *crop), generator=g).to(torch.uint8)
        place = torch.arange(crop[0] * crop[1]).view(1, *crop).expand(count, -1, -1)
        shape = (count, channels, *crop)
        views = tuple(torch.randint(0, 256, shape, generator=g).to(torch.uint8) for _ in stream.views)
        batch[name] = Items(
            views, stream.views, torch.ones(count, *crop, dtype=torch.bool), torch.arange(count),
            labels[0] if stream.pool == "labelled" else None, labels[1],
            tuple(place.clone() for kind in stream.views if kind == "geo"),
        )  # fmt: skip
    return batch


def _more_parts(recipe: Recipe, method: Method) -> int | None:
    """Return the next number of parts that a step of these batches can be computed in; None = there is none."""
    data, now, world = recipe.data, recipe.train.accumulate, placement(recipe.machine.devices).world
    share = 0  # groups of images that stay together, on each process, which every number of parts must divide
    for stream in method.streams.values():
        size = data.batch if stream.pool == "labelled" else data.unlabelled_batch
        share = math.gcd(share, 1 if size % (world * stream.together) else size // (world * stream.together))
    return next((parts for parts in range(now + 1, share + 1) if share % parts == 0), None)


def smaller(recipe: Recipe, method: Method, largest: tuple[int, int]) -> list[str]:
    """Return a table, one row a line, of what to lower and what part of a step's pixels that takes away."""
    data = recipe.data
    assert data.crop is not None
    sides = [max(16, round(side * 0.7) // 16 * 16) for side in data.crop]
    views = {"labelled": 0, "other": 0}
    for stream in method.streams.values():
        views["labelled" if stream.pool == "labelled" else "other"] += len(stream.views)
    mine, others = data.batch * views["labelled"], data.unlabelled_batch * views["other"]

    def less(share: float) -> str:
        return f"{share:.0%} fewer pixels a step"

    rows = []
    if others and data.unlabelled_batch > 1:
        half = data.unlabelled_batch // 2
        rows.append((f"--unlabelled-batch {half}", less((others - half * views["other"]) / (mine + others))))
    if data.batch > 1:
        half = data.batch // 2
        rows.append((f"--batch {half}", less((mine - half * views["labelled"]) / (mine + others))))
    if (parts := _more_parts(recipe, method)) is not None:
        rows.append((f"train.accumulate={parts}", "the same images a step, in parts, each with statistics of its own"))
    if (share := 1 - sides[0] * sides[1] / (data.crop[0] * data.crop[1])) > 0:
        rows.append((f"--crop {sides[0]}x{sides[1]}", less(share)))
    if recipe.machine.precision == "fp32":
        rows.append(("--precision bf16", "half the memory of activations"))
    if recipe.model.encoder not in ("mobilenet_v2", "tiny"):
        rows.append(("--encoder mobilenet_v2", "a small network"))
    if max(largest) > 1024 and recipe.protocol == "whole":
        text = f"the largest picture, {largest[0]}x{largest[1]}, is predicted as a whole"
        rows.append((f"--resize {largest[0] // 2}x{largest[1] // 2}", text))
    wide = max(len(flag) for flag, _ in rows)
    return [f"  {flag:<{wide}}  {text}" for flag, text in rows]
