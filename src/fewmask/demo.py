"""What ``fewmask demo`` does: a folder of generated scenes, and two trainings on it that differ in the method alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewmask.data.scenes import write_scenes
from fewmask.recipe import read_recipe
from fewmask.run import Run, execute
from fewmask.run.prepare import Say

METHODS = ("supervised", "fixmatch")
"""What is compared: training on the few masks alone, and with the images that have none."""

STEPS = 300
"""Of each training."""

SCENES = {"labelled": 12, "unlabelled": 160, "val": 40, "test": 60}
"""How many scenes of each kind."""

KEYS = {
    "model.arch": "fpn", "model.encoder": "resnet18", "model.weights": "none", "data.crop": "96",
    "train.eval_every": 100,
}  # fmt: skip
"""Recipe keys of both trainings: a small network from scratch, since nothing may be downloaded."""


def demonstrate(
    out: Path, *, steps: int = STEPS, seed: int = 0, settings: Sequence[str] = (), say: Say = print
) -> dict[str, Run]:
    """Write OUT/data, train each of ``METHODS`` on it, and return the finished runs by method.

    What an earlier call with the same arguments has finished is not done again.

    Args:
        out: folder for the data and the runs.
        steps: of each training.
        seed: of the scenes and of the trainings.
        settings: ``key=value`` words of any recipe key, for both trainings.
        say: receives one sentence for each decision.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    runs: dict[str, Run] = {}
    recipes = {
        method: read_recipe(
            None,
            KEYS | {"data.dir": str(out / "data"), "method": method, "train.steps": steps, "train.seed": seed},
            settings,
        )
        for method in METHODS
    }  # before anything is written: a wrong setting costs nothing
    data = write_scenes(out / "data", seed=seed, **SCENES)
    say(f"{data}: {SCENES['labelled']} scenes with masks, {SCENES['unlabelled']} without; see {data / 'README.txt'}")
    for n, (method, recipe) in enumerate(recipes.items(), start=1):
        say(f"training {n} of {len(METHODS)}: {method}, {steps} steps")
        runs[method] = execute(recipe, out / method, say=say)
    return runs
