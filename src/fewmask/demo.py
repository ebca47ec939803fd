"""What ``fewmask demo`` does: a folder of generated scenes, and two trainings on it that differ in the method alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewmask.data.scenes import write_scenes
from fewmask.recipe import read_recipe
from fewmask.run import Run, execute
from fewmask.run.prepare import Say

STEPS = 1200
"""Of each training."""

LABELLED, UNLABELLED = 24, 160
"""Training scenes with and without a mask."""

METHODS = {"supervised": f"{LABELLED} masks", "fixmatch": f"{LABELLED} masks, {UNLABELLED} images without"}
"""What is compared, and what each learns from."""

KEYS = {
    "model.arch": "small", "model.encoder": "small", "model.weights": "none", "data.crop": "96",
    "data.augment.scale": [0.8, 1.3], "optim.lr": 3e-3, "optim.head_lr_mult": 1.0, "train.eval_every": 400,
}  # fmt: skip
"""Recipe keys of both trainings: a small network from scratch, since nothing may be downloaded.

All parts of it start from noise, so they learn at one rate; toys differ little in size, so the scale does. Both were
chosen on supervised training.
"""


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
    data = write_scenes(out / "data", labelled=LABELLED, unlabelled=UNLABELLED, seed=seed)
    say(f"{data}: {LABELLED} training scenes with masks, {UNLABELLED} without; see {data / 'README.txt'}")
    for n, (method, recipe) in enumerate(recipes.items(), start=1):
        say(f"training {n} of {len(METHODS)}: {method}, {steps} steps")
        if runs:  # what the first one probed: the arms differ in the method alone
            first = next(iter(runs.values())).folder.recipe().machine
            recipe = recipe.replace("machine", precision=first.precision, channels_last=first.channels_last)
        runs[method] = execute(recipe, out / method, say=say)
    return runs
