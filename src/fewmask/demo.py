"""What ``fewmask demo`` does: a folder of generated scenes, and a run on it beside its supervised baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewmask.data.scenes import write_scenes
from fewmask.recipe import read_recipe
from fewmask.run.execute import execute
from fewmask.run.notes import Say
from fewmask.run.result import Run

STEPS = 2400
"""Of each training."""

LABELLED, UNLABELLED = 24, 160
"""Training scenes with and without a mask."""

NETWORK: dict[str, Any] = {
    "model.arch": "small", "model.encoder": "small", "model.weights": "none", "data.crop": "96",
    "data.augment.scale": [0.8, 1.3], "optim.lr": 3e-3, "optim.head_lr_mult": 1.0, "train.eval_every": 800,
}  # fmt: skip
"""Recipe keys of both trainings: a small network from scratch, since nothing may be downloaded.

All parts of it start from noise, so they learn at one rate; toys differ little in size, so the scale does. Both were
chosen on supervised training.
"""

METHOD: dict[str, Any] = {
    "method.name": "fixmatch", "method.teacher": "ema", "method.ema_decay": 0.99, "method.tau": 0.8, "method.ramp": 0.3,
    "method.cutmix": 1.0,
}  # fmt: skip
"""The semi-supervised training: the best of those tried on scenes of another seed (docs/development.md)."""


def demonstrate(out: Path, *, steps: int = STEPS, seed: int = 0, settings: Sequence[str] = (), say: Say = print) -> Run:
    """Write OUT/data, train on it with its supervised baseline beside it, and return the run, OUT/run.

    What an earlier call with the same arguments has finished is not done again.

    Args:
        out: folder for the data and the run.
        steps: of each training.
        seed: of the scenes and of the trainings.
        settings: ``key=value`` words of any recipe key, for both trainings.
        say: receives one sentence for each decision.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    keys = NETWORK | METHOD | {"data.dir": str(out / "data"), "train.steps": steps, "train.seed": seed}
    recipe = read_recipe(None, keys, settings)  # before anything is written: a wrong setting costs nothing
    data = write_scenes(out / "data", labelled=LABELLED, unlabelled=UNLABELLED, seed=seed)
    say(f"{data}: {LABELLED} training scenes with masks, {UNLABELLED} without; see {data / 'README.txt'}")
    return execute(recipe, out / "run", say=say)
