"""From a recipe to a trained, measured and delivered model. The place where the floors are joined."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fewmask.engine.files import clean_leftovers, ensure_writable, write_json
from fewmask.engine.launch import is_first_process, launch, leave
from fewmask.engine.lock import RunLock
from fewmask.errors import FewmaskError, Interrupted
from fewmask.method import trainings
from fewmask.methods import resolve
from fewmask.recipe import Recipe, for_its_length, read_recipe
from fewmask.run.arms import SUPERVISED, Arm, arms_of, comparable
from fewmask.run.data import read_data
from fewmask.run.folder import RunFolder, choose_folder
from fewmask.run.prepare import Notes, Prepared, Say, confirm, fill, prepare
from fewmask.run.rehearse import rehearse
from fewmask.run.report import write_report
from fewmask.run.result import Run
from fewmask.run.rounds import train_arm
from fewmask.run.seeds import summarise

RUNS = Path("runs")
"""Where runs go that are given no --out."""


def train(dir: Path | str, out: Path | str | None = None, *, new: bool = False, say: Say = print, **keys: Any) -> Run:
    """Train on a folder, and return the finished run; the Python twin of ``fewmask train``.

    Args:
        dir: the folder of images and masks.
        out: see ``execute``.
        new: see ``execute``.
        say: see ``execute``.
        keys: recipe keys with ``__`` for the dot, ``optim__lr=0.01``, and ``method="fixmatch"``.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    dotted = {key.replace("__", "."): value for key, value in keys.items()}
    asked = for_its_length(read_recipe(None, {"data.dir": str(dir)} | dotted))
    return execute(asked, None if out is None else Path(out), new=new, say=say)


def execute(asked: Recipe, out: Path | None = None, *, new: bool = False, say: Say = print) -> Run:
    """Train as a recipe says, continuing an interrupted run of the same recipe, and return the finished run.

    Args:
        asked: the recipe.
        out: run folder; None = the newest unfinished run of this recipe below ``runs/``, else a new one.
        new: start another run in any case; never continue one.
        say: receives one sentence for each decision; the default prints it.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    notes = Notes(say if is_first_process() else _silent)
    try:
        return _execute(asked, out, new, notes)
    except FewmaskError as error:
        for text in notes.held:  # the error comes first, what led to it after it
            error.add_note(text)
        raise


def _execute(asked: Recipe, out: Path | None, new: bool, say: Notes) -> Run:
    first = is_first_process()
    with ExitStack() as stack:
        prepared: Prepared | None = None
        arms: list[Arm] = []
        if first:
            folder = RunFolder(out) if out is not None else choose_folder(asked, RUNS, new)
            folder.check_usable(new)
            stack.enter_context(_claimed(folder))
            clean_leftovers(folder.path)
            if folder.started and folder.finished:
                confirm(asked, folder, say)
                run = Run(folder.path)
                if not folder.report.exists():  # killed after metrics.json, or removed
                    _report(folder, say)
                say(f"{folder.path} is already finished")
                say.release()
                return run
            prepared = prepare(asked, folder, say)
            arms = arms_of(prepared, say)
        elif out is not None and RunFolder(out).finished:
            return Run(out)  # the first process will not come to meet the others either
        fabric = launch(asked.machine.devices, asked.machine.precision, asked.machine.rank_timeout)
        prepared, arms = fabric.broadcast((prepared, arms))
        assert prepared is not None  # the first process sent it
        stack.callback(leave)
        _rehearse(
            [arm.prepared for arm in arms if not fabric.broadcast(RunFolder(arm.prepared.folder).finished)], fabric
        )
        for n, arm in enumerate(arms, start=1):
            if not fabric.broadcast(RunFolder(arm.prepared.folder).finished):
                who = train_arm(arm, prepared, fabric, say, title=_title(arm, n, arms))
                if who and n < len(arms):
                    raise Interrupted(
                        f"stopped by {who} after training {n} of {len(arms)}", where="the state is saved",
                        todo="run the same command again to continue",
                    )  # fmt: skip
        say.release()  # where every training was finished before
        if first:
            if prepared.recipe.seeds > 1:
                summarise(prepared, arms)
            _report(RunFolder(prepared.folder), say)
        fabric.barrier()
        return Run(prepared.folder)


def _rehearse(ahead: list[Prepared], fabric: Any) -> None:
    """Rehearse every kind of training that lies ahead once, before hours go into the first of them."""
    for prepared in {p.recipe.method_name: p for p in ahead}.values():
        method = resolve(prepared.recipe.method_name)(prepared.recipe.constants(), prepared.task)
        for one in trainings(method):
            rehearse(prepared, one, fabric)


def _report(folder: RunFolder, say: Notes) -> None:
    """Write the report; a finished run is not lost for it."""
    try:
        write_report(folder.path)
    except Exception as error:  # of whatever kind: the training is done, its numbers are on disk
        say(f"WARNING: no report ({type(error).__name__}: {error}); try again with: fewmask report {folder.path}")


def _title(arm: Arm, n: int, arms: list[Arm]) -> str | None:
    """Return what is trained now, where it is one of several."""
    recipe = arm.prepared.recipe
    return f"training {n} of {len(arms)}: {recipe.method_name}, seed {recipe.train.seed}" if len(arms) > 1 else None


def plan_only(asked: Recipe, out: Path | None, say: Say = print) -> dict[str, Any]:
    """Return what ``execute`` would do, without training; with ``out`` also write it to OUT/plan.json.

    Where unlabelled images are chosen by what they show, as many others stand in for them here.

    Raises:
        DataError: the data are unusable.
        ConfigError: the recipe is.
    """
    index, pools, counts = read_data(asked.replace("data", unlabelled_by="random"), say)
    recipe = fill(asked, pools, counts, say)
    plan = {
        "recipe": recipe.complete(), "classes": list(index.classes), "labelled": len(pools.labelled),
        "unlabelled": len(pools.unlabelled), "val": len(index.items["val"]), "test": len(index.items["test"]),
        "split_hash": pools.hash(), "trainings": _trainings(recipe, comparable(recipe, index, say)),
    }  # fmt: skip
    if out is not None:
        RunFolder(out).check_usable()
        ensure_writable(out)
        write_json(out / "plan.json", plan)
    return plan


def _trainings(recipe: Recipe, compared: bool) -> list[dict[str, Any]]:
    """Return {"method", "seed", "steps"} of every training; a matched baseline that exists is then reused instead."""
    methods = [SUPERVISED, recipe.method_name] if compared else [recipe.method_name]
    seeds = range(recipe.train.seed, recipe.train.seed + recipe.seeds)
    return [{"method": method, "seed": seed, "steps": recipe.train.steps} for seed in seeds for method in methods]


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
