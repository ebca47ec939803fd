"""What a recipe leaves open: method, network, crop, workers, precision; each choice is said with its reason."""

from __future__ import annotations

import os
from statistics import median_low

import torch

from fewmask.data.index import Pools
from fewmask.data.scan import Scan
from fewmask.engine.determinism import refused
from fewmask.engine.precision import Format, choose
from fewmask.errors import ConfigError
from fewmask.methods import resolve
from fewmask.nets import DEFAULT_ARCH, Builder, default_encoder
from fewmask.nets.provenance import provenance
from fewmask.nets.weights import identify
from fewmask.recipe import SHORT, Recipe, for_its_length
from fewmask.run.data import Say


def fill(asked: Recipe, pools: Pools, counts: Scan, say: Say) -> Recipe:
    """Choose what the recipe leaves open, and say each choice."""
    recipe, cuda = asked, torch.cuda.is_available() and not asked.machine.devices.startswith("cpu")
    if recipe.method_name == "auto":
        name = "fixmatch" if pools.unlabelled or pools.partial else "supervised"
        recipe = for_its_length(recipe.model_copy(update={"method": {"name": name}}))
        also = f", and {len(pools.partial)} labelled in part" if pools.partial else ""
        if not asked.halving:  # else it only holds the place
            say(f"method: {name}, since there are {len(pools.unlabelled)} unlabelled images{also}")
    if asked.method_name != "auto" or not asked.halving:
        tell_of_constants(recipe, say)
    if (arch := recipe.model.arch) is None:
        arch = DEFAULT_ARCH
        recipe = recipe.replace("model", arch=arch)
        say(f"architecture: {arch}")
    if recipe.model.encoder is None:
        encoder = default_encoder(arch, cuda)
        recipe = recipe.replace("model", encoder=encoder)
        if encoder != arch:  # else there is no other
            say(f"encoder: {encoder}, for a {'GPU' if cuda else 'CPU'}")
    if recipe.model.init is None:
        assert recipe.model.encoder  # chosen above
        say(f"weights: {provenance(recipe.model.encoder, recipe.model.weights)}")
    if recipe.data.crop is None:
        sizes = [recipe.data.resize] if recipe.data.resize else counts.sizes[counts.rows(pools.labelled)].tolist()
        height, width = median_low(s[0] for s in sizes), median_low(s[1] for s in sizes)
        most = 512 if cuda else 256
        crop = tuple(min(side, most) // 16 * 16 or side for side in (height, width))
        recipe = recipe.replace("data", crop=crop)
        say(f"crop: {crop[0]}x{crop[1]}, from a median input of {height}x{width}")
    if recipe.machine.workers is None:
        cores = os.cpu_count() or 1
        workers = min(8, cores // 2) if cuda else (0 if cores <= 2 else min(4, cores // 4))
        recipe = recipe.replace("machine", workers=workers)
    return recipe


def choose_layout(
    recipe: Recipe, classes: int, channels: int, say: Say
) -> tuple[Format, dict[str, str] | None]:  # fmt: skip
    """Probe precision and memory format on a throw-away network of the run's kind; say what its encoder came from.

    Returns:
        The format, and ``nets.weights.identify`` of the encoder.
    """
    machine, model, data = recipe.machine, recipe.model, recipe.data
    device = torch.device("cpu" if machine.devices.startswith("cpu") or not torch.cuda.is_available() else "cuda")
    assert model.arch and model.encoder and data.crop  # fill() has chosen them
    build = Builder(
        model.arch, model.encoder, classes, weights=model.weights, seed=recipe.train.seed, channels=channels,
        **model.options,
    )  # fmt: skip
    # building it also proves, before anything is written, that the architecture and its weights can be had
    net = build("probe").to(device)
    found = None if model.weights == "none" else identify(model.weights, net.get_submodule("encoder"))
    try:
        layout = choose(machine.precision, machine.channels_last, net, (data.batch, channels, *data.crop), device)
    except (
        ValueError,
        RuntimeError,
        AssertionError,
    ) as error:  # what networks raise for a size or batch they cannot take
        if refused(error) is not None:
            raise
        raise ConfigError(
            f"{model.arch} with {model.encoder} cannot train on {data.batch} crops of {data.crop[0]}x{data.crop[1]} "
            f"({str(error).splitlines()[0][:120]})",
            where="data.crop, data.batch", todo="use a larger crop or batch, or another architecture",
        ) from error  # fmt: skip
    say(f"precision: {layout.why}")
    return layout, found


def tell_of_constants(recipe: Recipe, say: Say) -> None:
    """Say which constants are not the paper's because the run is short."""
    method = resolve(recipe.method_name)
    plain = method.Config().model_dump()
    ours = {k: v for k, v in method.short.items() if recipe.method.get(k) == v != plain[k]}
    if ours and recipe.train.steps < SHORT:
        told = " ".join(f"method.{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in ours.items())
        say(f"{told}: for a run below {SHORT} steps; the paper's constants are in the method's page")
