"""What lies ahead of a run, told before hours go into it: ``--plan``, and the first lines of every training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewmask.engine.determinism import deterministic
from fewmask.engine.files import ensure_writable, write_json
from fewmask.engine.launch import launch, leave, placement
from fewmask.errors import ConfigError
from fewmask.nets.provenance import provenance
from fewmask.recipe import Recipe
from fewmask.run.again import as_before
from fewmask.run.arms import SUPERVISED, comparable
from fewmask.run.folder import RunFolder, choose_folder
from fewmask.run.halving import METHODS, can_try, costliest, steps_within, to_time, tries_ahead
from fewmask.run.notes import Notes, Say
from fewmask.run.pace import Cost, costs, costs_of
from fewmask.run.plan import expected, fitted, seconds_of, settle, spoken
from fewmask.run.prepare import Prepared, prepare

RUNS = Path("runs")
"""Where runs go that are given no --out."""
_WORTH = 200  # steps; shorter trainings are over before it is worth while to time them


def budget(asked: Recipe, time: str | None) -> float | None:
    """Return the seconds of ``--time``; None where it is not given.

    Raises:
        ConfigError: the steps are given too, or it is no time.
    """
    if time is not None and "steps" in asked.train.model_fields_set:
        raise ConfigError("--time chooses the steps, and they are given", where="train.steps", todo="give one of them")
    return None if time is None else seconds_of(time)


def plan_of(recipe: Recipe, seconds: float | None, hopes: dict[str, Any] | None) -> dict[str, Any]:
    """Return what plan.json of a run says: the time that was given, the steps, the weights, and what was expected."""
    return {"time": seconds, "steps": recipe.train.steps, "weights": weights_of(recipe), "expected": hopes}


def weights_of(recipe: Recipe) -> dict[str, str | None]:
    """Return {"source", "licence"} of what a run's networks start from."""
    if recipe.model.init is not None:
        return {"source": recipe.model.init, "licence": None}
    assert recipe.model.encoder  # fill() has chosen it
    found = provenance(recipe.model.encoder, recipe.model.weights)
    return {"source": found.source, "licence": found.licence}


def foretold(prepared: Prepared, methods: Collection[str], fabric: Any, say: Say) -> Prepared:
    """Return a new run with its plan, having said what its trainings will take; some of their steps are timed.

    Args:
        prepared: the run.
        methods: names of those that lie ahead; a baseline that exists is trained no more.
        fabric: launched; every rank takes part.
        say: told, unless the trainings are too short for that.
    """
    recipe, hopes = prepared.recipe, None
    if recipe.train.steps >= _WORTH and methods:
        found = fabric.broadcast(costs(prepared, fabric, methods))
        hopes = expected(recipe, found, prepared)
        say(spoken(hopes))
    return replace(prepared, plan=plan_of(recipe, None, hopes))


def plan_only(asked: Recipe, out: Path | None, say: Say = print, time: str | None = None) -> dict[str, Any]:
    """Return what ``execute`` would do, without training, and write it to plan.json of the run folder.

    Some steps are timed on one device. Where unlabelled images are chosen by what they show, as many others stand in
    for them here.

    Args:
        asked: the recipe.
        out: run folder; None = the one that the next new run of this recipe will take.
        say: receives one sentence for each decision.
        time: "2h" or the like: see ``execute``.

    Raises:
        DataError: the data are unusable.
        ConfigError: the recipe is.
        CheckpointError: the folder holds another run.
    """
    with Notes(say) as notes, deterministic(asked.machine.deterministic):
        return _plan(as_before(asked), out, notes, budget(asked, time))


def _plan(asked: Recipe, out: Path | None, say: Say, seconds: float | None) -> dict[str, Any]:
    why: list[str] = []

    def note(text: str) -> None:
        why.append(text)
        say(text)

    folder = choose_folder(asked, RUNS, True, lambda _: False) if out is None else RunFolder(out)
    folder.check_usable()
    if folder.started:
        folder.check_same(settle(asked, folder, seconds))
    devices = "cpu" if placement(asked.machine.devices).accelerator == "cpu" else "1"
    plain, nowhere = asked.replace("data", unlabelled_by="random"), RunFolder(folder.path / "none")
    prepared = prepare(plain, nowhere, note, timed=seconds is not None)
    fabric = launch(devices, prepared.layout.precision, asked.machine.rank_timeout)
    tries = asked.halving and asked.method_name == "auto" and can_try(prepared, note)
    try:
        found = costs_of(to_time(prepared), fabric) if tries else costs(prepared, fabric)
    finally:
        leave()
    recipe, hopes = (_with_tries if tries else _straight)(prepared, found, seconds)
    if tries:
        note(
            f"auto: {', '.join(METHODS)} are tried first; which will be trained is not known yet: this is the recipe "
            f"of {recipe.method_name}, and the time of {costliest(prepared, found)[-1].method}, which costs the most"
        )
    note(spoken(hopes))
    plan = _whole_plan(recipe, prepared, hopes) | {"time": seconds, "why": why}
    if not folder.started:  # a run's own plan says how it was begun
        ensure_writable(folder.path)
        write_json(folder.plan, plan)
        say(f"plan: {folder.plan}")
    return plan


def _straight(
    prepared: Prepared, found: Sequence[Cost], seconds: float | None
) -> tuple[Recipe, dict[str, Any]]:  # fmt: skip
    """Return the recipe with the steps that a time allows, and what is expected of it."""
    recipe = prepared.recipe if seconds is None else fitted(prepared.recipe, seconds, found, prepared)
    return recipe, expected(recipe, found, prepared)


def _with_tries(
    prepared: Prepared, found: Sequence[Cost], seconds: float | None
) -> tuple[Recipe, dict[str, Any]]:  # fmt: skip
    """Return the same of a run whose method is tried out first."""
    recipe = prepared.recipe
    if seconds is not None:
        recipe = recipe.replace("train", steps=steps_within(prepared, seconds, found))
    return recipe, expected(recipe, costliest(prepared, found), prepared, *tries_ahead(recipe, found, prepared))


def _whole_plan(recipe: Recipe, prepared: Prepared, hopes: dict[str, Any]) -> dict[str, Any]:
    index, pools = prepared.index, prepared.pools
    compared = comparable(recipe, index, lambda _: None)
    return {
        "method": recipe.method_name, "arch": recipe.model.arch, "encoder": recipe.model.encoder,
        "weights": weights_of(recipe), "steps": recipe.train.steps, "baseline": compared,
        "hours": round(hopes["seconds"] / 3600, 3), "disk_mb": hopes["disk_mb"],
        "recipe": recipe.complete(), "classes": list(index.classes), "labelled": len(pools.labelled),
        "unlabelled": len(pools.unlabelled), "val": len(index.items["val"]), "test": len(index.items["test"]),
        "split_hash": pools.hash(), "trainings": _trainings(recipe, compared), "folds": recipe.folds,
        "fingerprint": prepared.fingerprint, "expected": hopes,
    }  # fmt: skip


def _trainings(recipe: Recipe, compared: bool) -> list[dict[str, Any]]:
    """Return {"method", "seed", "steps"} of every training; a matched baseline that exists is then reused instead."""
    methods = [SUPERVISED, recipe.method_name] if compared else [recipe.method_name]
    seeds, steps = range(recipe.train.seed, recipe.train.seed + recipe.seeds), recipe.train.steps
    if not recipe.cross_fitted:
        return [{"method": method, "seed": seed, "steps": steps} for seed in seeds for method in methods]
    folds = range(1, 1 + (recipe.folds or 0))
    out = [{"method": m, "seed": s, "steps": steps, "fold": k} for s in seeds for k in folds for m in methods]
    return out + [{"method": recipe.method_name, "seed": seed, "steps": steps, "fold": 0} for seed in seeds]
