"""From a recipe to a trained, measured and delivered model. The place where the floors are joined."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from fewmask.data.dataset import Dataset
from fewmask.engine.determinism import deterministic
from fewmask.engine.failure import failing_together
from fewmask.engine.files import clean_leftovers, ensure_writable, write_json
from fewmask.engine.launch import is_first_process, launch
from fewmask.engine.lock import RunLock
from fewmask.engine.signals import stoppable
from fewmask.errors import CheckpointError, Interrupted
from fewmask.methods import resolve
from fewmask.recipe import Recipe, for_its_length, read_recipe
from fewmask.run.again import as_before
from fewmask.run.ahead import RUNS, budget, foretold, plan_of
from fewmask.run.arms import Arm, arms_of, runs_of
from fewmask.run.changes import told_of_changes
from fewmask.run.crossfit import gather, last_training
from fewmask.run.differences import differences
from fewmask.run.doubt import pools_of, relabel
from fewmask.run.fill import tell_of_constants
from fewmask.run.folder import RunFolder, choose_folder
from fewmask.run.halving import (
    PLAN,
    can_try,
    halve,
    spent,
    steps_begun,
    steps_within,
    to_time,
    tried_for,
    with_method,
)
from fewmask.run.notes import Notes, Say
from fewmask.run.pace import costs, costs_of
from fewmask.run.plan import duration, expected, fitted, settle, spoken
from fewmask.run.prepare import Prepared, confirm, parts_of, prepare
from fewmask.run.quality import calibrate
from fewmask.run.rehearse import rehearse
from fewmask.run.report import write_report
from fewmask.run.result import Run
from fewmask.run.rounds import train_arm
from fewmask.run.seeds import summarise

_DOUBTFUL = 6  # training masks that a report shows
_LOOKED_AT = 200  # of so many: the others are asked for, with suggest --relabel


def train(
    dir: Path | str | Dataset, out: Path | str | None = None, *, new: bool = False, say: Say = print,
    time: str | None = None, **keys: Any,
) -> Run:  # fmt: skip
    """Train on a folder, and return the finished run; the Python twin of ``fewmask train``.

    Args:
        dir: the folder of images and masks, or samples of one's own.
        out: see ``execute``.
        new: see ``execute``.
        say: see ``execute``.
        time: "2h" or the like, in place of steps: see ``execute``.
        keys: recipe keys with ``__`` for the dot, ``optim__lr=0.01``, and ``method="fixmatch"``.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    folder = dir.write() if isinstance(dir, Dataset) else dir
    asked = for_its_length(read_recipe(None, {"data.dir": str(folder)} | dotted))
    return execute(asked, None if out is None else Path(out), new=new, say=say, time=time)


def execute(
    asked: Recipe, out: Path | None = None, *, new: bool = False, say: Say = print, time: str | None = None
) -> Run:  # fmt: skip
    """Train as a recipe says, continuing an interrupted run of the same recipe, and return the finished run.

    Args:
        asked: the recipe.
        out: run folder; None = the newest unfinished run of this recipe below ``runs/``, else a new one.
        new: start another run in any case; never continue one.
        say: receives one sentence for each decision; the default prints it.
        time: "2h" or the like: as many steps as fit into it on this machine, all trainings together; chosen once, when
            the run begins.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    asked, seconds = as_before(asked), budget(asked, time)
    with (
        Notes(say if is_first_process() else _silent) as notes, deterministic(asked.machine.deterministic),
        stoppable("between trainings"),
    ):  # fmt: skip
        return _execute(asked, out, new, notes, seconds)


def _execute(asked: Recipe, out: Path | None, new: bool, say: Notes, seconds: float | None) -> Run:
    first, fits, tries, fresh = is_first_process(), False, False, False

    def same(folder: RunFolder) -> bool:
        try:
            if not folder.started:
                return tried_for(asked, seconds, folder)
            return not differences(settle(asked, folder, seconds), folder.stored())
        except CheckpointError:
            return False

    with ExitStack() as stack:
        prepared: Prepared | None = None
        arms: list[Arm] = []
        if first:
            folder = RunFolder(out) if out is not None else choose_folder(asked, RUNS, new, same)
            folder.check_usable(new)
            stack.enter_context(_claimed(folder))
            clean_leftovers(folder.path)
            asked, fresh = settle(asked, folder, seconds), not folder.started
            fits = seconds is not None and fresh
            if folder.started and folder.finished:
                confirm(asked, folder, say)
                run = Run(folder.path)
                if not folder.report.exists():  # killed after metrics.json, or removed
                    _report(folder, say)
                say(f"{folder.path} is already finished")
                say.release()
                return run
            prepared = prepare(asked, folder, say, timed=fits)
            every = (item for items in prepared.index.items.values() for item in items)
            stack.enter_context(told_of_changes(every, say))
            tries = asked.halving and asked.method_name == "auto" and fresh and can_try(prepared, say)
            arms = [] if fits or tries else arms_of(prepared, say)
        elif out is not None and RunFolder(out).finished:
            return Run(out)  # the first process will not come to meet the others either
        fabric = launch(asked.machine.devices, asked.machine.precision, asked.machine.rank_timeout)
        stack.enter_context(failing_together(fabric))
        prepared, arms, fits, tries, fresh = fabric.broadcast((prepared, arms, fits, tries, fresh))
        assert prepared is not None  # the first process sent it
        began = monotonic()
        if tries:
            prepared = _try_methods(prepared, seconds, fabric, say)
        if fits and seconds is not None:
            used = max(monotonic() - began, spent(RunFolder(prepared.folder)) if first else 0.0) if tries else 0.0
            left = fabric.broadcast(seconds - used)
            prepared = _fit(prepared, seconds, left, fabric, say)
        if fits or tries:
            arms = fabric.broadcast(arms_of(prepared, say) if first else [])
        ahead = [arm.prepared for arm in arms if not fabric.broadcast(RunFolder(arm.prepared.folder).finished)]
        _rehearse(ahead, fabric)
        if fresh and not fits:
            prepared = foretold(prepared, {one.recipe.method_name for one in ahead}, fabric, say)
        crossed = runs_of(prepared) if prepared.recipe.cross_fitted else []
        total = len(arms) + len(crossed)
        _train_all(arms, 0, total, prepared, fabric, say)
        # which arm is trained on everything is known when the folds are
        last = fabric.broadcast([Arm(last_training(run)) for run in crossed] if first else [])
        _train_all(last, len(arms), total, prepared, fabric, say)
        say.release()  # where every training was finished before
        if first:
            for run in crossed:
                gather(run)
            if prepared.recipe.seeds > 1:
                summarise(prepared)
            _report(RunFolder(prepared.folder), say)
        fabric.barrier()
        return Run(prepared.folder)


def _train_all(arms: list[Arm], before: int, total: int, prepared: Prepared, fabric: Any, say: Notes) -> None:
    """Carry out the trainings that are not finished yet.

    Args:
        arms: some of a command's.
        before: how many there are before them.
        total: how many there are in all.
        prepared: the command's run.
        fabric: launched.
        say: receives one sentence for each decision.

    Raises:
        Interrupted: somebody has asked to stop, and there are more.
    """
    for n, arm in enumerate(arms, start=before + 1):
        if not fabric.broadcast(RunFolder(arm.prepared.folder).finished):
            who = train_arm(arm, prepared, fabric, say, title=_title(arm, n, total))
            if who and n < total:
                raise Interrupted(
                    f"stopped by {who} after training {n} of {total}", where="the state is saved",
                    todo="run the same command again to continue",
                )  # fmt: skip


def _try_methods(prepared: Prepared, seconds: float | None, fabric: Any, say: Notes) -> Prepared:
    """Return the run with the method that short runs have found to be the best; with a time, they take a part of it."""
    if seconds is not None:
        folder = RunFolder(prepared.folder)
        begun = fabric.broadcast(steps_begun(folder) if fabric.global_rank == 0 else None)
        if begun is None or begun["time"] != seconds:
            say("timing some steps of each method")
            found = fabric.broadcast(costs_of(to_time(prepared), fabric))
            begun = {"time": seconds, "steps": steps_within(prepared, seconds, found)}
            if fabric.global_rank == 0:
                ensure_writable(folder.halving)
                write_json(folder.halving / PLAN, begun)
        prepared = replace(prepared, recipe=prepared.recipe.replace("train", steps=begun["steps"]))
    recipe = with_method(prepared.recipe, halve(prepared, fabric, say)["chosen"])
    tell_of_constants(recipe, say)
    return replace(prepared, recipe=recipe)


def _fit(prepared: Prepared, seconds: float, left: float, fabric: Any, say: Say) -> Prepared:
    """Return the run with as many steps as fit into what is left of a time."""
    say("timing some steps")
    found = fabric.broadcast(costs(prepared, fabric))
    recipe = fitted(prepared.recipe, left, found, prepared, given=seconds)
    hopes = expected(recipe, found, prepared)
    say(f"{recipe.train.steps} steps fit into {duration(left)}; {spoken(hopes)}")
    return replace(prepared, recipe=recipe, plan=plan_of(recipe, seconds, hopes))


def _rehearse(ahead: list[Prepared], fabric: Any) -> None:
    """Rehearse every kind of training that lies ahead once, before hours go into the first of them."""
    for prepared in {p.recipe.method_name: p for p in ahead}.values():
        method = resolve(prepared.recipe.method_name)(prepared.recipe.constants(), prepared.task)
        for recipe, one in parts_of(prepared.recipe, method):
            rehearse(replace(prepared, recipe=recipe), one, fabric)


def _report(folder: RunFolder, say: Notes) -> None:
    """Use the delivered model on the run's own images, and write the report; a finished run is lost for none of it."""
    fresh = folder.path / ".doubtful-new"

    def doubtful() -> None:
        shutil.rmtree(fresh, ignore_errors=True)
        relabel(folder.path, _DOUBTFUL, fresh, _silent, most=_LOOKED_AT)
        fresh.rename(folder.doubtful)

    steps = {
        "the training masks were not looked at": None if folder.doubtful.exists() else doubtful,
        "what predict may expect was not calibrated": lambda: calibrate(folder, pools_of(folder, _silent)[0]),
        f"no report; try again with: fewmask report {folder.path}": lambda: write_report(folder.path),
    }
    for loss, step in steps.items():
        try:
            if step is not None:
                step()
        except Interrupted:
            raise
        except Exception as error:  # of whatever kind: the training is done, its numbers are on disk
            say(f"WARNING: {loss} ({type(error).__name__}: {error})")
    shutil.rmtree(fresh, ignore_errors=True)


def _title(arm: Arm, n: int, total: int) -> str | None:
    """Return what is trained now, where it is one of several."""
    recipe = arm.prepared.recipe
    part = {None: "", 0: ", all labelled images"}.get(recipe.fold, f", fold {recipe.fold} of {recipe.folds}")
    return f"training {n} of {total}: {recipe.method_name}, seed {recipe.train.seed}{part}" if total > 1 else None


@contextmanager
def _claimed(folder: RunFolder) -> Iterator[None]:
    """Hold the run folder; where nothing was begun in a folder that we made, nothing is left of it."""
    fresh = not folder.path.exists()
    with RunLock(folder.path):
        try:
            yield
        finally:  # while the lock is ours: another process may have taken the folder that we saw missing
            if fresh and not folder.started and all(p.name.startswith(".lock") for p in folder.path.iterdir()):
                shutil.rmtree(folder.path, ignore_errors=True)


def _silent(_: str) -> None:
    """Say nothing: only the first process speaks."""
