"""Recipes key by key: in what a recipe that is asked for differs from that of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewmask.config import leaves
from fewmask.recipe import FREE, DataConfig, Recipe


def differences(asked: Recipe, stored: Mapping[str, Any]) -> list[str]:
    """Return one line "key: stored → asked" for every breaking difference between a recipe and a run's config.yaml.

    What was left to be chosen (null, "auto") agrees with whatever was chosen; keys of ``FREE`` may differ. Elsewhere
    null is a value: no resize, every mask there is.
    """
    chosen = {"model.arch", "model.encoder", "data.crop", "machine.precision", "machine.channels_last", "folds"}
    new = dict(leaves(asked.complete()))
    plain = Recipe(data=DataConfig(dir=asked.data.dir), method={"name": asked.method_name})
    old = dict(leaves(plain.complete())) | dict(leaves(stored))  # a key is younger than the run: it had the default
    out = []
    for key in sorted(old.keys() | new.keys()):
        if key.removeprefix("machine.") in FREE or (key in chosen and new.get(key) in (None, "auto")):
            continue
        if asked.method_name == "auto" and key.startswith("method."):
            continue
        if old.get(key) != new.get(key):
            out.append(f"{key}: {old.get(key)!r} in the run, {new.get(key)!r} asked")
    return out
