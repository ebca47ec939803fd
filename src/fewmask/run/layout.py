"""The number format and memory layout of a run: probed, and taken over from a run beside that has timed the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fewmask.config import load_json
from fewmask.engine.determinism import refused
from fewmask.engine.precision import Format, choose
from fewmask.errors import CheckpointError, ConfigError
from fewmask.nets import Builder
from fewmask.nets.weights import identify
from fewmask.recipe import Recipe
from fewmask.run.environment import environment
from fewmask.run.folder import finished_in

_HERE = ("packages", "platform", "cpu", "cores", "threads", "cuda")
"""What of environment.json a timing holds for."""


def choose_layout(
    recipe: Recipe, classes: int, channels: int, beside: Path
) -> tuple[Format, dict[str, str] | None]:  # fmt: skip
    """Probe precision and memory format on a throw-away network of the run's kind.

    Args:
        recipe: with everything else chosen.
        classes: of the data.
        channels: of the images.
        beside: a folder of runs. Noise may turn a close timing round, and a baseline in another format does not match:
            what the newest finished run there has timed of the same network, batch and machine holds.

    Returns:
        The format, and ``nets.weights.identify`` of the encoder.

    Raises:
        ConfigError: the network cannot take such crops.
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
    shape = (data.batch, channels, *data.crop)
    timed = None
    if machine.precision == "auto":
        timed = {
            "arch": model.arch, "encoder": model.encoder, "options": json.loads(json.dumps(model.options)),
            "classes": classes, "batch": list(shape), "device": device.type,
        }  # fmt: skip
        if (there := _timed_in(beside, timed)) is not None:
            return there, found
    try:
        layout = choose(machine.precision, machine.channels_last, net, shape, device)
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
    return Format(layout.precision, layout.channels_last, layout.why, timed), found


def _timed_in(beside: Path, kind: dict[str, Any]) -> Format | None:
    """Return the format of the newest finished run that timed this kind of network on this machine."""
    here = environment()
    for folder in finished_in(beside):
        try:
            there = load_json(folder.environment.read_text(encoding="utf-8"))
            if there.get("timed") == kind and all(there.get(key) == here[key] for key in _HERE):
                machine = folder.recipe().machine
                assert machine.precision != "auto" and machine.channels_last is not None  # of a run that has trained
                why = f"{machine.precision}, as {folder.path} has timed it"
                return Format(machine.precision, machine.channels_last, why, kind)
        except (OSError, ValueError, AttributeError, AssertionError, CheckpointError):
            continue  # a run that cannot be read is none to go by
    return None
