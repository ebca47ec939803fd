"""The plan of a run: what was chosen and why, how long it will take, and how many steps a given time allows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from fewmask.config import leaves, load_json
from fewmask.errors import CheckpointError, ConfigError
from fewmask.recipe import Recipe
from fewmask.run.fill import SCORES, scheduled
from fewmask.run.folder import RunFolder
from fewmask.run.pace import Cost
from fewmask.run.prepare import Prepared

_CHECKPOINTS = 4  # kept at a time: two, the best, and one that is being written
_LEAST = 20  # steps of a run that --time allows
_SCORING = 0.2  # as far as this share of the time allows

FITTED = ("steps", "eval_every", "save_every")
"""Keys of ``train`` that ``--time`` chooses."""


def seconds_of(text: str) -> float:
    """Return the seconds of "2h", "1h30m", "90m", "45s" or "1.5h".

    Raises:
        ConfigError: anything else.
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    found = re.fullmatch("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in units), text.strip())
    parts = [float(part or 0) for part in found.groups()] if found else []
    total = sum(part * size for part, size in zip(parts, units.values(), strict=False))
    if not found or total <= 0:
        raise ConfigError(f"{text!r} is no time", where="--time", todo="write 2h, 90m, 1h30m or 45s")
    return total


def expected(
    recipe: Recipe, costs: Sequence[Cost], prepared: Prepared, tries: int = 0, tried: float = 0.0
) -> dict[str, Any]:  # fmt: skip
    """Return what a run takes.

    Args:
        recipe: the run's.
        costs: of its arms.
        prepared: the run.
        tries: trainings before it that choose the method.
        tried: seconds of these.

    Returns:
        {"seconds": of all, "tries_seconds", "disk_mb", "trainings": [{"method", "step_seconds", "picture_seconds"}]}.
    """
    seconds = tried + _seconds(recipe, costs, prepared)
    state = max(pace.state for cost in costs for pace in cost.paces)
    trainings = tries + recipe.seeds * sum(_times(recipe, cost, costs) * len(cost.paces) for cost in costs)
    return {
        "seconds": round(seconds, 1), "tries_seconds": round(tried, 1),
        "disk_mb": round(trainings * _CHECKPOINTS * state / 1e6, 1),
        "trainings": [
            {"method": c.method, "step_seconds": round(c.step, 5), "picture_seconds": round(c.paces[-1].picture, 5)}
            for c in costs
        ],
    }  # fmt: skip


def _times(recipe: Recipe, cost: Cost, costs: Sequence[Cost]) -> int:
    """Return how often an arm is trained for each seed; on all images only one is, and that is taken to be the last."""
    folds = (recipe.folds or 1) if recipe.cross_fitted else 1
    return folds + int(recipe.cross_fitted and cost is costs[-1])


def scored(prepared: Prepared) -> int:
    """Return how many val images a training has at most."""
    indices = [fold.index for fold in prepared.folds] or [prepared.index]
    return max(len(index.items["val"]) for index in indices)


def _seconds(recipe: Recipe, costs: Sequence[Cost], prepared: Prepared) -> float:
    """Return how long all trainings take."""
    val, test = scored(prepared), len(prepared.index.items["test"])
    return recipe.seeds * sum(_times(recipe, cost, costs) * cost.seconds(recipe, val, test) for cost in costs)


def fitted(
    recipe: Recipe, seconds: float, costs: Sequence[Cost], prepared: Prepared, given: float | None = None,
    ahead: Callable[[int], float] | None = None,
) -> Recipe:  # fmt: skip
    """Return the recipe with as many steps as fit into a time, all trainings together.

    Args:
        recipe: with any steps.
        seconds: the time.
        costs: of its arms.
        prepared: the run.
        given: the time that was asked for, if trying methods has taken a part of it.
        ahead: seconds that trying methods will take, of a run of so many steps.

    Raises:
        ConfigError: they are too few to learn anything.
    """

    def times(cost: Cost) -> int:
        return recipe.seeds * _times(recipe, cost, costs)

    once = sum(times(cost) * cost.paces[-1].picture * scored(prepared) for cost in costs)
    scores = max(1, min(SCORES, int(_SCORING * seconds / max(1e-9, once))))

    def with_steps(steps: int) -> Recipe:
        every = max(1, -(-steps // scores))
        return recipe.replace("train", steps=steps, eval_every=every, save_every=every)

    def takes(steps: int) -> float:
        return (ahead(steps) if ahead else 0.0) + _seconds(with_steps(steps), costs, prepared)

    low, high = 0, max(1, int(seconds / max(1e-9, sum(times(cost) * cost.step for cost in costs))))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if takes(middle) <= seconds else (low, middle - 1)
    steps = low if low < 100 else low // 10 * 10
    if steps < _LEAST:
        have = f"{seconds:g} s" if given in (None, seconds) else f"{seconds:.0f} of {given:g} s, beside trying methods,"
        trained = " and ".join(cost.method for cost in costs) + (" beside trying methods" if ahead else "")
        raise ConfigError(
            f"{have} are enough for {steps} steps of {trained}; "
            f"{_LEAST} take {takes(_LEAST):.0f} s", where="--time",
            todo="give more time, a smaller --crop or --encoder, or --no-baseline",
        )  # fmt: skip
    return with_steps(steps)


def spoken(plan: dict[str, Any]) -> str:
    """Return what is expected in one sentence."""
    parts = [f"{t['method']} {t['step_seconds']:.3g} s a step" for t in plan["trainings"]]
    first = f", of it {duration(tried)} to try methods" if (tried := plan["tries_seconds"]) else ""
    return f"expected: {duration(plan['seconds'])}{first}, {plan['disk_mb']:.0f} MB of checkpoints ({', '.join(parts)})"


def duration(seconds: float) -> str:
    """Return a time as people say it: 2 h 10 min, 14 min, 50 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes >= 2 else f"{round(seconds)} s"


def settle(asked: Recipe, folder: RunFolder, seconds: float | None) -> Recipe:
    """Return the recipe with the steps that a run chose when it began, for this time or from its images.

    Raises:
        CheckpointError: it was given another time.
    """
    if not folder.started:
        return asked
    if seconds is None:
        return _as_chosen(asked, folder)
    had = begun_with(folder)
    if had != seconds:
        said = "no --time" if had is None else f"--time {had:g}s"
        raise CheckpointError(
            f"the run began with {said}, not {seconds:g}s", where=folder.path,
            todo="repeat its command, or give another --out (or --new)",
        )  # fmt: skip
    stored = folder.stored()["train"]
    return asked.replace("train", **{key: stored[key] for key in FITTED})


def _as_chosen(asked: Recipe, folder: RunFolder) -> Recipe:
    """Return the recipe with the schedule that the run's images had when it began; it may go on on another machine."""
    data, stored = folder.manifest(), dict(leaves(folder.stored()))
    labelled, unlabelled = (n if type(n := data.get(key)) is int else 0 for key in ("labelled", "unlabelled"))
    ways = [scheduled(asked, labelled, unlabelled, cuda) for cuda in (False, True)]
    return next((way for way in ways if way.train.steps == stored.get("train.steps")), asked)


def begun_with(folder: RunFolder) -> float | None:
    """Return the time that a run was given, in seconds."""
    try:
        plan = load_json(folder.plan.read_text(encoding="utf-8"))
        return None if plan.get("time") is None else float(plan["time"])
    except (OSError, ValueError, AttributeError, TypeError):
        return None
