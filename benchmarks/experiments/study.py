"""A study: one YAML file that spells a set of runs; each run is a recipe on a named data set."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments.source import source_hash
from fewmask.data.scenes import write_scenes
from fewmask.nets.options import OPTIONS
from fewmask.recipe import FREE, read_recipe

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("FEWMASK_SHARED", HERE.parents[2] / "shared")) / "data"
"""Where the data sets and the encoder lie; nothing of them is part of the project."""

WEIGHTS = "mobilenet_v2"
"""Name that studies use for the encoder below ``SHARED``."""

YOUNGER: dict[str, Any] = {
    "unlabelled_by": "random", "outside": False, "on_bad_unlabelled": "stop", "allow_leaks": [], "data_yaml": None,
}  # fmt: skip
"""Keys of ``data`` that are younger than the first results: with these values, what is run is what it was."""
YOUNGER_SWITCHES = {
    "cps": ("ramp",),
    "ucc": ("ramp",),
    "mean_teacher": ("together",),
    "u2pl": ("ramp", "strong", "warmup_unlabelled"),
    "dars": ("flip", "together", "one_loss", "rates", "first_batch"),
    "three_stage": ("rates", "first_batch"),
    "st_plus_plus": ("first_batch",),
    "self_training": ("flip", "together", "one_loss"),
}
"""Such keys of a method, where they are off."""


@dataclass(frozen=True)
class Experiment:
    """One run of a study.

    Attributes:
        study: its name.
        arm: name of the variant, as tables show it.
        data: name of the data set.
        keys: recipe keys, dotted.
    """

    study: str
    arm: str
    data: str
    keys: dict[str, Any]

    def recipe(self, folder: str) -> dict[str, Any]:
        """Return the complete recipe, on a data folder."""
        return read_recipe(None, self.keys | {"data.dir": folder, "baseline": False}).complete()

    @property
    def method(self) -> str:
        return str(self.keys["method.name"])

    def config_key(self) -> str:
        """Hash of what is run, without the code that runs it; places on this machine do not count."""
        recipe = self.recipe(self.data)
        # a study spells its arms out, and its data have val images
        for name in ("baseline", "seeds", "folds", "fold", "halving"):
            del recipe[name]
        for name in OPTIONS:  # younger than the first results: where they are null, what is run is what it was
            if recipe["model"][name] is None:
                del recipe["model"][name]
        for name in ("rotate", "class_crops"):
            if not recipe["data"]["augment"][name]:
                del recipe["data"]["augment"][name]
        if recipe["train"]["accumulate"] == 1:
            del recipe["train"]["accumulate"]
        for name in YOUNGER_SWITCHES.get(self.method, ()):
            if not recipe["method"][name]:
                del recipe["method"][name]
        for name in FREE:
            del recipe["machine"][name]
        if not recipe["machine"]["deterministic"]:
            del recipe["machine"]["deterministic"]
        for name, plain in YOUNGER.items():
            if recipe["data"][name] == plain:
                del recipe["data"][name]
        for name in ("log_every", "save_every"):
            del recipe["train"][name]
        text = json.dumps([recipe, (HERE / "data" / f"{self.data}.yaml").read_text()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def key(self) -> str:
        """Hash of configuration and source: the name of the result."""
        return f"{self.config_key()}-{source_hash(self.method)}"

    def result(self) -> Path:
        return HERE / "results" / self.study / f"{self.key()}.json"


def read_study(name: str) -> list[Experiment]:
    """Return the runs of ``studies/NAME.yaml``: every arm × every point of the grid × every draw × every seed.

    A draw is a split seed: which images the labelled set holds. Arms are compared within a draw and a seed.
    """
    tree = yaml.safe_load((HERE / "studies" / f"{name}.yaml").read_text(encoding="utf-8"))
    return list(_expand(name, tree))


def _expand(name: str, tree: dict[str, Any]) -> Iterator[Experiment]:
    grid = tree.get("grid") or {}
    for seed, draw in itertools.product(tree["seeds"], tree.get("draws") or [None]):
        drawn = {} if draw is None else {"data.split_seed": draw}
        for data in tree["data"]:
            for arm, own in tree["arms"].items():
                for point in itertools.product(*grid.values()):
                    varied = dict(zip(grid, point, strict=True))
                    keys = (tree.get("keys") or {}) | (tree["data"][data] or {}) | (own or {}) | varied
                    label = " ".join([arm, *(f"{k.rpartition('.')[2]}={v}" for k, v in varied.items())])
                    yield Experiment(name, label, data, {**keys, **drawn, "train.seed": seed})


def data_folder(name: str, scratch: Path) -> Path:
    """Return the folder of ``data/NAME.yaml``: links into a data set of ``SHARED`` with other roles, or scenes."""
    spec = yaml.safe_load((HERE / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    folder = scratch / "data" / name
    if "scenes" in spec:
        return write_scenes(folder, **spec["scenes"])
    source = SHARED / spec["source"]
    if not source.is_dir():
        raise SystemExit(f"no data set at {source}: set FEWMASK_SHARED")
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("images", "masks", "classes.txt"):
        link = folder / part
        if not link.is_symlink():
            link.symlink_to((source / part).resolve())
    (folder / "data.yaml").write_text(yaml.safe_dump(spec["data"]), encoding="utf-8")
    for list_name, names in (spec.get("lists") or {}).items():
        (folder / list_name).write_text("".join(f"{n}\n" for n in names), encoding="utf-8")
    return folder
