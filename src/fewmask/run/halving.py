"""``--method auto``: a handful of methods tried on the run's own data by successive halving.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016: every
method gets a part of the steps, the better ones a larger part, and the best one is trained in earnest. Each try is an
ordinary run in ``RUN/halving/``, from scratch and with a schedule of its own, so that an interrupted one continues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.config import load_json
from fewmask.engine.evaluate import scores
from fewmask.engine.files import write_json
from fewmask.errors import Interrupted
from fewmask.ops.interval import paired_gain
from fewmask.recipe import Recipe, for_its_length
from fewmask.run.arms import SUPERVISED, Arm, comparable, folds_of, matched, matched_recipe
from fewmask.run.differences import differences
from fewmask.run.evaluation import load_evaluation
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Notes, Say
from fewmask.run.pace import Cost
from fewmask.run.plan import fitted, scored
from fewmask.run.prepare import Prepared
from fewmask.run.rounds import train_arm

METHODS = (SUPERVISED, "fixmatch", "mean_teacher", "cps", "ucc")
"""What is tried: the methods of one round that need nothing but images and masks."""

RUNGS = ((1 / 8, 2), (1 / 3, 1))
"""Share of the run's steps that each method gets, and how many go on."""

PLAN = "plan.json"
"""In ``RUN/halving/``: the time that a run was given, and the steps that were chosen for it before the first try."""

_LEAST = 20  # steps of a try
_ENOUGH = 30  # val images, or groups of them, that may tell methods apart


def halve(prepared: Prepared, fabric: Any, say: Notes) -> dict[str, Any]:
    """Try the methods and write ``RUN/halving/halving.json``; every rank takes part.

    Of a cross-fitted run the first fold is what they are scored on.

    Args:
        prepared: the run, with everything chosen but the method; its steps are what the shares are of.
        fabric: launched.
        say: receives one sentence for each decision.

    Returns:
        {"chosen", "why", "told_apart", "rungs": [{"steps", "miou": {method: mIoU on val}}]}.

    Raises:
        CheckpointError: an interrupted search had another configuration.
        Interrupted: somebody has asked to stop.
    """
    folder, base = RunFolder(prepared.folder), (folds_of(prepared) or [prepared])[0]
    names, rungs = METHODS, list[dict[str, Any]]()
    for n, (share, stay) in enumerate(RUNGS, start=1):
        steps = steps_of_try(prepared.recipe, share)
        if rungs and rungs[-1]["steps"] == steps:  # of a short run: the same tries once more
            break
        for name in names:
            one = _prepared(base, folder, n, name, steps)
            if fabric.global_rank == 0 and RunFolder(one.folder).started:
                RunFolder(one.folder).check_same(one.recipe)
            if fabric.broadcast(RunFolder(one.folder).finished):
                continue
            if who := train_arm(Arm(one), one, fabric, say, f"auto, {steps} steps: {name}"):
                raise Interrupted(
                    f"stopped by {who} while methods were tried", where="the state is saved",
                    todo="run the same command again to continue",
                )  # fmt: skip
        found = fabric.broadcast(_scores(folder, n, names, prepared.index.classes) if fabric.global_rank == 0 else {})
        rungs.append({"steps": steps, "miou": found})
        # of equals the one that is named first: the cheaper
        names = tuple(sorted(names, key=lambda name: -(found[name] or 0.0))[:stay])
    told: dict[str, Any] = {}
    if fabric.global_rank == 0:
        told = _told(folder, rungs, names[0], len(base.index.items["val"]))
        write_json(folder.halving / "halving.json", told)
    told = fabric.broadcast(told)
    say(told["why"])
    return told


def tried_for(asked: Recipe, seconds: float | None, folder: RunFolder) -> bool:
    """Return whether a folder, whose run has not begun, holds the first of the tries that a command would make.

    Args:
        asked: the recipe as given.
        seconds: the time that was given in place of steps.
        folder: the run.

    Raises:
        CheckpointError: the configuration of that try cannot be read.
    """
    first = RunFolder(_place(folder, 1, METHODS[0]))
    if not asked.halving or asked.method_name != "auto" or not first.started:
        return False
    if seconds is not None:
        begun = steps_begun(folder)
        if begun is None or begun["time"] != seconds:
            return False
        asked = asked.replace("train", steps=begun["steps"])
    stored = first.stored()
    tried = _recipe(asked, METHODS[0], steps_of_try(asked, RUNGS[0][0]))
    return not differences(tried.model_copy(update={"fold": stored.get("fold")}), stored)


def steps_begun(folder: RunFolder) -> dict[str, Any] | None:
    """Return {"time", "steps"} of a run whose tries have begun within a time; None where there are none."""
    try:
        begun = load_json((folder.halving / PLAN).read_text(encoding="utf-8"))
        return {"time": float(begun["time"]), "steps": int(begun["steps"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def spent(folder: RunFolder) -> float:
    """Return the seconds that the finished tries took, in this process or in one before it."""
    return sum(RunFolder(file.parent).read_metrics()["seconds"] for file in folder.halving.glob("*/metrics.json"))


def to_time(prepared: Prepared) -> list[Prepared]:
    """Return a training of each method, to be timed."""
    folder, base = RunFolder(prepared.folder), (folds_of(prepared) or [prepared])[0]
    return [_prepared(base, folder, 0, name, base.recipe.train.steps) for name in METHODS]


def can_try(prepared: Prepared, say: Say) -> bool:
    """Return whether there is anything to choose from, and something to choose by; say what there is not."""
    if not prepared.pools.unlabelled and not prepared.pools.partial:
        say("auto: without unlabelled images there is nothing to choose from")
        return False
    if not prepared.index.items["val"] and not prepared.folds:
        say("auto: without val images nothing can be chosen by trying")
        return False
    return True


def with_method(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe with a method, and its constants for the recipe's steps."""
    return for_its_length(recipe.model_copy(update={"method": {"name": name}}))


def costliest(prepared: Prepared, costs: Sequence[Cost]) -> list[Cost]:
    """Return what a run takes at most, of ``METHODS`` in their order: that of its baseline, and the largest of all."""
    baseline = costs[:1] if comparable(prepared.recipe, prepared.index, lambda text: None) else []
    return [*baseline, max(costs, key=lambda cost: cost.step)]


def steps_within(prepared: Prepared, seconds: float, costs: Sequence[Cost]) -> int:
    """Return how many steps a run can have whose tries, baseline and training take so long together, at most.

    Args:
        prepared: the run.
        seconds: of all.
        costs: of ``METHODS``, in their order.

    Raises:
        ConfigError: they are too few to learn anything.
    """

    def ahead(steps: int) -> float:
        return tries_ahead(prepared.recipe.replace("train", steps=steps), costs, prepared)[1]

    return fitted(prepared.recipe, seconds, costliest(prepared, costs), prepared, ahead=ahead).train.steps


def tries_ahead(recipe: Recipe, costs: Sequence[Cost], prepared: Prepared) -> tuple[int, float]:
    """Return how many tries there are, and the seconds that they take if the costliest methods stay.

    Args:
        recipe: the run's.
        costs: of ``METHODS``, in their order.
        prepared: the run.
    """
    val, test = scored(prepared), len(prepared.index.items["test"])
    seen, seconds, tries, count = set[int](), 0.0, 0, len(costs)
    for share, stay in RUNGS:
        if (steps := steps_of_try(recipe, share)) not in seen:
            one = recipe.replace("train", steps=steps, eval_every=0)
            seconds += sum(sorted(cost.seconds(one, val, test) for cost in costs)[-count:])
            tries += count
        seen.add(steps)
        count = stay
    return tries, seconds


def steps_of_try(recipe: Recipe, share: float) -> int:
    """Return the steps of a try, of a run's recipe."""
    return max(_LEAST, round(share * recipe.train.steps))


def _recipe(whole: Recipe, name: str, steps: int) -> Recipe:
    """Return the recipe of a try, of the run's."""
    recipe = whole.replace("train", steps=steps, eval_every=0, save_every=steps)
    recipe = with_method(recipe.model_copy(update={"baseline": False, "seeds": 1, "halving": False}), name)
    return matched_recipe(recipe) if name == SUPERVISED else recipe


def _place(folder: RunFolder, rung: int, name: str) -> Path:
    return folder.halving / f"{rung}-{name}"


def _prepared(base: Prepared, folder: RunFolder, rung: int, name: str, steps: int) -> Prepared:
    place = _place(folder, rung, name)
    made = replace(base, recipe=_recipe(base.recipe, name, steps), folder=place, plan=None, folds=())
    return replace(matched(made), folder=place) if name == SUPERVISED else made


def _scores(folder: RunFolder, rung: int, names: Sequence[str], classes: Sequence[str]) -> dict[str, float | None]:
    found = {name: load_evaluation(RunFolder(_place(folder, rung, name)).evaluation, "val") for name in names}
    return {
        name: None if one is None else scores(torch.from_numpy(one.matrix), classes)["miou"]
        for name, one in found.items()
    }


def _told(folder: RunFolder, rungs: list[dict[str, Any]], best: str, images: int) -> dict[str, Any]:
    """Return what was found, and whether the val images can tell the best of the last rung from the second.

    They never can where they are few: an interval over images knows nothing of other seeds, and the best of five is
    the luckiest of them, too.
    """
    last = rungs[-1]["miou"]
    second = max((name for name in last if name != best), key=lambda name: last[name] or 0.0)
    arms = [load_evaluation(RunFolder(_place(folder, len(rungs), name)).evaluation, "val") for name in (best, second)]
    gain, units = None, 0
    if all(one is not None for one in arms):
        counts = [np.stack([one.counts]) for one in arms if one is not None]
        assert arms[0] is not None
        gain = paired_gain(counts[0], counts[1], arms[0].units, arms[0].groups)
        units = len(set(arms[0].groups)) if any(arms[0].groups) else len(set(arms[0].units))
    apart = gain is not None and gain.miou.low > 0 and units >= _ENOUGH
    said = ", ".join(f"{name} {miou:.1f}" for name, miou in last.items() if miou is not None)
    why = f"method: {best}, the best of {', '.join(rungs[0]['miou'])} in short runs; "
    why += f"mIoU on {images} val images after {rungs[-1]['steps']} steps: {said}"
    low_high = "" if gain is None else f", 95 % interval {gain.miou.low:+.1f} to {gain.miou.high:+.1f}"
    if apart:
        why += f". Ahead of {second} on these images{low_high}, with one seed each"
    else:
        why += f". These images are too few to tell {best} from {second}{low_high}: either may be the better"
    return {"chosen": best, "why": why, "told_apart": apart, "rungs": rungs}
