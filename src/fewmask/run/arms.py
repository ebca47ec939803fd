"""The trainings of one command: the method and its matched supervised baseline, once for each seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewmask.config import leaves, load_json
from fewmask.data.index import DataIndex, Pools
from fewmask.errors import CheckpointError, ConfigError
from fewmask.recipe import Recipe
from fewmask.run.environment import environment, other_weights
from fewmask.run.evaluation import load_evaluation
from fewmask.run.folder import RunFolder, finished_in
from fewmask.run.notes import Say
from fewmask.run.prepare import Prepared

SUPERVISED = "supervised"

_FREE = ("machine.", "train.save_every", "train.log_every", "data.dir", "data.data_yaml", "data.labelled",
         "data.unlabelled", "data.split_seed", "data.group_by", "baseline", "seeds", "fold")  # fmt: skip
"""Beginnings of keys that a matched baseline may differ in: places, spellings of the same images, what it uses not."""

_SAME_DATA = ("classes", "labelled_names", "labelled_pixels", "val", "test", "data_hash", "truth_hash")
_SAME_MACHINE = ("precision", "channels_last")


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        prepared: what it needs.
        baseline: folder of the matched supervised run that it is compared with, finished before it; None = none.
    """

    prepared: Prepared
    baseline: Path | None = None


def arms_of(prepared: Prepared, say: Say) -> list[Arm]:
    """Return the trainings of a command in their order; finished ones too.

    Args:
        prepared: the command's run, its first seed.
        say: told which baseline is reused, and why there is none.

    Raises:
        ConfigError: the run named as baseline does not match.
        CheckpointError: it is not finished.
    """
    recipe, out = prepared.recipe, []
    compared = comparable(recipe, prepared.index, say)
    for run in runs_of(prepared):
        for mine in folds_of(run) or [run]:
            out.append(Arm(mine, _baseline(mine, prepared.folder.parent, out, say) if compared else None))
    own = [arm.prepared for arm in out if arm.prepared.recipe.method_name == SUPERVISED]
    if compared and own:
        times = f"{len(own)} × " if len(own) > 1 else ""
        say(f"baseline: {times}supervised, {own[0].recipe.train.steps} steps (--no-baseline leaves it out)")
    return out


def runs_of(prepared: Prepared) -> list[Prepared]:
    """Return the run of each seed of a command: the command's own where there is one."""
    recipe = prepared.recipe
    seeds = range(recipe.train.seed, recipe.train.seed + recipe.seeds)
    return [prepared if recipe.seeds == 1 else _for_seed(prepared, seed) for seed in seeds]


def folds_of(run: Prepared) -> list[Prepared]:
    """Return the trainings whose scores are those of a cross-fitted run; none of another run."""
    return [
        replace(_part(run, number), index=fold.index, pools=fold.pools, task=fold.task, manifest=fold.manifest)
        for number, fold in enumerate(run.folds, start=1)
    ]


def on_all(run: Prepared, arm: Prepared) -> Prepared:
    """Return the training of a cross-fitted run on all labelled images: of its method, or of its baseline.

    Args:
        run: the run.
        arm: the first fold of the one or the other.
    """
    part = _part(run, 0)
    method, data = arm.recipe.method, part.recipe.data.model_copy(update={"unlabelled": arm.recipe.data.unlabelled})
    pools = run.pools if arm.pools.unlabelled else Pools(run.pools.labelled, ())
    manifest = run.manifest | {"unlabelled": len(pools.unlabelled), "split_hash": pools.hash()}
    recipe = part.recipe.model_copy(update={"method": method, "data": data, "baseline": False})
    return replace(part, recipe=recipe, pools=pools, manifest=manifest)


def _part(run: Prepared, number: int) -> Prepared:
    """Return one training of a cross-fitted run, which starts where the same of the run before ended."""
    recipe = run.recipe.model_copy(update={"fold": number})
    before = RunFolder(recipe.model.init or "").fold(number)
    if recipe.model.init and before.started:
        recipe = recipe.replace("model", init=str(before.path))
    return replace(run, recipe=recipe, folder=RunFolder(run.folder).fold(number).path, plan=None, folds=())


def _for_seed(prepared: Prepared, seed: int) -> Prepared:
    recipe = prepared.recipe.replace("train", seed=seed).model_copy(update={"seeds": 1})
    return replace(prepared, recipe=recipe, folder=RunFolder(prepared.folder).seed(seed).path, plan=None)


def comparable(recipe: Recipe, index: DataIndex, say: Say) -> bool:
    """Return whether a baseline is wanted and would differ from the run; say why there is none."""
    if recipe.baseline is False:
        return False
    if recipe.method_name == SUPERVISED:
        say("no baseline: supervised training is the baseline itself")
        return False
    if not index.items["val"] and not recipe.cross_fitted:
        say("no baseline: without validation images the two could not be compared")
        return False
    return True


def _baseline(prepared: Prepared, beside: Path, arms: list[Arm], say: Say) -> Path:
    """Return the folder of the matched baseline, found in ``beside``; where it must be trained, add it to the arms."""
    wanted = matched(prepared)
    named = prepared.recipe.baseline
    if isinstance(named, str):
        folder = _same_part(RunFolder(named), prepared.recipe)
        wrong = mismatch(wanted, folder)
        if wrong:
            raise ConfigError(
                f"the baseline does not match: {'; '.join(wrong[:4])}", where=folder.path,
                todo="leave --baseline out: a matching one is found or trained",
            )  # fmt: skip
        return folder.path
    own = RunFolder(wanted.folder)
    if own.started:  # this run's own, finished or interrupted
        arms.append(Arm(wanted))
        return own.path
    for folder in finished_in(beside):
        if not mismatch(wanted, folder):
            say(f"baseline: {folder.path}, trained before on the same data with the same budget and seed")
            return folder.path
    arms.append(Arm(wanted))
    return own.path


def _same_part(folder: RunFolder, recipe: Recipe) -> RunFolder:
    """Return the run of one seed, and of one fold, in a finished run of several; else the run itself."""
    seed = recipe.train.seed
    folder = folder.seed(seed) if seed in folder.read_metrics().get("seeds", ()) else folder
    return folder.fold(recipe.fold) if recipe.fold and "folds" in folder.read_metrics() else folder


def matched(prepared: Prepared) -> Prepared:
    """Return the matched supervised training: same labels, network, budget, seed, precision and supervised loss."""
    pools = Pools(prepared.pools.labelled, ())
    manifest = prepared.manifest | {"unlabelled": 0, "split_hash": pools.hash()}
    return replace(
        prepared, recipe=matched_recipe(prepared.recipe), folder=RunFolder(prepared.folder).baseline.path, pools=pools,
        manifest=manifest, plan=None,
    )  # fmt: skip


def matched_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe of the matched supervised training."""
    sup = recipe.constants().model_dump(mode="json").get("sup")
    method = {"name": SUPERVISED} | ({} if sup is None else {"sup": sup})
    data = recipe.data.model_copy(update={"unlabelled": "none"})
    return recipe.model_copy(update={"method": method, "data": data, "baseline": False, "seeds": 1})


def mismatch(wanted: Prepared, folder: RunFolder) -> list[str]:
    """Return in words how a finished run differs from the matched baseline; empty = it can serve as it."""
    try:
        metrics = folder.read_metrics()
        if metrics.get("method") != SUPERVISED:
            return [f"its method is {metrics.get('method')!r}, not {SUPERVISED!r}"]
        if "seeds" in metrics:
            return [f"it is a run of the seeds {metrics['seeds']}, not of {wanted.recipe.train.seed}"]
        load_evaluation(folder.evaluation, "val")  # else it fails after the training
        stored, manifest = folder.stored(), folder.manifest()
        versions = load_json(folder.environment.read_text(encoding="utf-8"))
    except CheckpointError as error:
        return [error.what]
    except (OSError, ValueError):
        return ["it cannot be read"]
    out = [
        f"{key} is {theirs!r}, not {ours!r}" for key, ours, theirs in _pairs(wanted.recipe, stored) if ours != theirs
    ]
    out += [f"{key} differ" for key in _SAME_DATA if manifest.get(key) != wanted.manifest.get(key)]
    now = environment()
    out += [f"{key} differ" for key in ("packages", "fewmask") if versions.get(key) != now[key]]
    if other_weights(versions, wanted.weights):
        out.append("the encoder's weights differ")
    return out


def _pairs(recipe: Recipe, stored: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, ours, theirs) of every key that must agree."""
    ours, theirs = dict(leaves(recipe.complete())), dict(leaves(stored))
    for key in sorted(ours.keys() | theirs.keys()):
        if key.removeprefix("machine.") in _SAME_MACHINE or not key.startswith(_FREE):
            yield key, ours.get(key), theirs.get(key)
