"""What a recipe leaves open: method, network, crop, workers, precision; each choice is said with its reason."""

from __future__ import annotations

import math
import os
from statistics import median_low

import torch

from fewmask.data.index import Pools
from fewmask.data.scan import Scan
from fewmask.data.sizes import input_size
from fewmask.method import Task
from fewmask.methods import resolve
from fewmask.nets import DEFAULT_ARCH, default_encoder
from fewmask.nets.provenance import provenance
from fewmask.recipe import SHORT, Recipe, for_its_length
from fewmask.run.notes import Say

_SMALL, _SEEN = 0.1, 0.25  # of an image: a crop from which on a smaller input is proposed, and what one then shows
_PASSES = 20  # over the labelled images, at least; with a GPU half as many over the unlabelled ones
_MOST = {False: 8_000, True: 16_000}  # steps that are chosen without and with a GPU: an hour or two; below SHORT
SCORES = 8
"""On val, of a run whose steps are chosen."""


def fill(asked: Recipe, pools: Pools, counts: Scan, say: Say, timed: bool = False) -> Recipe:
    """Choose what the recipe leaves open, and say each choice; but for the steps if they are ``timed`` later."""
    recipe, cuda = asked, torch.cuda.is_available() and not asked.machine.devices.startswith("cpu")
    if recipe.method_name == "auto":
        name = "fixmatch" if pools.unlabelled or pools.partial else "supervised"
        recipe = for_its_length(recipe.model_copy(update={"method": {"name": name}}))
        also = f", and {len(pools.partial)} labelled in part" if pools.partial else ""
        if not asked.halving:  # else it only holds the place
            say(f"method: {name}, since there are {len(pools.unlabelled)} unlabelled images{also}")
    if not timed:
        recipe = scheduled(recipe, len(pools.labelled), len(pools.unlabelled), cuda)
        if "steps" not in asked.train.model_fields_set:
            passes = recipe.train.steps * recipe.data.batch / max(1, len(pools.labelled))
            least = " (as few as are ever chosen)" if recipe.train.steps == asked.train.steps else ""
            say(f"steps: {recipe.train.steps}{least}, {passes:.0f} passes over {len(pools.labelled)} labelled images")
    if asked.method_name != "auto" or not asked.halving:
        tell_of_constants(recipe, say)
    if (arch := recipe.model.arch) is None:
        arch = DEFAULT_ARCH
        recipe = recipe.replace("model", arch=arch)
        say(f"architecture: {arch}, with which the methods were compared (docs/results.md)")
    if recipe.model.encoder is None:
        encoder = default_encoder(arch, cuda)
        recipe = recipe.replace("model", encoder=encoder)
        if encoder != arch:  # else there is no other
            say(f"encoder: {encoder}, for a {'GPU' if cuda else 'CPU'}")
    if recipe.model.init is None:
        assert recipe.model.encoder  # chosen above
        say(f"weights: {provenance(recipe.model.encoder, recipe.model.weights)}")
    else:
        say(f"networks: {recipe.model.arch} with {recipe.model.encoder}, from {recipe.model.init}")
    if recipe.data.crop is None:
        stored = counts.sizes[counts.rows(pools.labelled)].tolist()
        sizes = [input_size(recipe.data.resize, (height, width)) for height, width in stored]
        height, width = median_low(s[0] for s in sizes), median_low(s[1] for s in sizes)
        most = 512 if cuda else 256
        crop = tuple(min(side, most) // 16 * 16 or side for side in (height, width))
        recipe = recipe.replace("data", crop=crop)
        say(f"crop: {crop[0]}x{crop[1]}, from a median input of {height}x{width}")
        share = crop[0] * crop[1] / (height * width)
        if share < _SMALL:
            sides = [max(32, round(side * (share / _SEEN) ** 0.5 / 32) * 32) for side in (height, width)]
            say(
                f"a crop shows {share:.0%} of such an image: --resize {sides[0]}x{sides[1]} would show a quarter, "
                "and be faster, if what is looked for is large enough"
            )
    if recipe.machine.workers is None:
        cores = os.cpu_count() or 1
        workers = min(8, cores // 2) if cuda else (0 if cores <= 2 else min(4, cores // 4))
        recipe = recipe.replace("machine", workers=workers)
    say(_training(recipe, len(pools.unlabelled) + len(pools.partial), timed))
    return recipe


def _training(recipe: Recipe, unlabelled: int, timed: bool) -> str:
    """Return batch, rate and schedule as one sentence."""
    optim, data, train = recipe.optim, recipe.data, recipe.train
    steps = "as many steps as the time allows" if timed else f"{train.steps} steps"
    beside = f" and {data.unlabelled_batch} unlabelled" if unlabelled and recipe.method_name != "supervised" else ""
    rate = f"{optim.name} at {optim.lr:g}" + (f", {optim.head_lr_mult:g} times that for all but the encoder" if
                                               optim.head_lr_mult != 1 else "")  # fmt: skip
    falling = f", falling to 0 with power {optim.power:g}" if optim.power else ""
    return f"training: {steps} of {data.batch} labelled{beside} crops, {rate}{falling}"


def scheduled(asked: Recipe, labelled: int, unlabelled: int, cuda: bool) -> Recipe:
    """Return the recipe with as many steps as its images want, where nobody has given any.

    2000 are enough for a few hundred images. More images are passed over 20 times; on a GPU, where steps are cheap, the
    unlabelled ones 10 times. Steps that a recipe or a flag gives stay, and so do scores and checkpoints.

    Args:
        asked: the recipe as given.
        labelled: how many images of that kind may be learned from.
        unlabelled: the same; a method that does not see them takes no steps for them.
        cuda: whether it trains on a GPU.
    """
    given = asked.train.model_fields_set
    if "steps" in given:
        return asked
    wanted = _PASSES * labelled / asked.data.batch
    if cuda and asked.method_name != "supervised":
        wanted = max(wanted, _PASSES / 2 * unlabelled / asked.data.unlabelled_batch)
    steps = min(_MOST[cuda], math.ceil(wanted / 500) * 500)
    if steps <= asked.train.steps:
        return asked
    every = {key: steps // SCORES for key in ("eval_every", "save_every") if key not in given}
    return asked.replace("train", steps=steps, **every)


def tell_of_constants(recipe: Recipe, say: Say) -> None:
    """Say which constants are not the paper's because the run is short."""
    method = resolve(recipe.method_name)
    plain = method.Config().model_dump()
    ours = {k: v for k, v in method.short.items() if recipe.method.get(k) == v != plain[k]}
    if ours and recipe.train.steps < SHORT:
        told = " ".join(f"method.{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in ours.items())
        say(f"{told}: for a run below {SHORT} steps; the paper's constants are in the method's page")


def tell_of_classes(recipe: Recipe, task: Task, say: Say) -> None:
    """Say which constants the method changes because there are so few classes."""
    adapted = resolve(recipe.method_name)(recipe.constants(), task).adapted()
    if adapted:
        told = " ".join(f"method.{key}={value}" for key, value in adapted.items())
        say(f"{told}: there are only {task.classes} classes")
    elif task.classes == 2:  # people ask whether a threshold of 0.95 still fits
        say(f"two classes: no constant of {recipe.method_name} is another one for that")
