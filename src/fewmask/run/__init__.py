"""A run: from a recipe to a trained, measured and delivered model. The place where the floors are joined."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.data.index import Item
from fewmask.data.masks import read_mask
from fewmask.data.stream import ItemLoader, StepDataset, batches, plan_slots, to_device
from fewmask.engine.checkpoint import Store
from fewmask.engine.evaluate import Pictures
from fewmask.engine.files import clean_leftovers, ensure_writable, write_json
from fewmask.engine.launch import is_first_process, launch, leave
from fewmask.engine.learner import Learner
from fewmask.engine.lock import RunLock
from fewmask.engine.log import MetricsLog, TensorBoardLog, tensorboard_available
from fewmask.engine.progress import Reporter
from fewmask.engine.signals import StopRequest
from fewmask.engine.train import Progress, Surroundings, fit
from fewmask.errors import FewmaskError
from fewmask.methods import resolve
from fewmask.nets import IMAGENET_MEAN, IMAGENET_STD, Builder
from fewmask.recipe import Recipe, read_recipe
from fewmask.run.finish import Scorer, finish
from fewmask.run.folder import RunFolder, choose_folder
from fewmask.run.init import start_from
from fewmask.run.model import Model
from fewmask.run.prepare import Notes, Prepared, Say, begin, confirm, fill, prepare, read_data

RUNS = Path("runs")
"""Where runs go that are given no --out."""


class Run:
    """A finished run.

    Args:
        path: its folder.

    Raises:
        CheckpointError: there is no finished run.
    """

    def __init__(self, path: Path | str) -> None:
        self.folder = RunFolder(path)
        self.metrics: dict[str, Any] = self.folder.read_metrics()
        self._model: Model | None = None

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def score(self) -> float | None:
        """MIoU of the delivered model on val, in percent; None without a val set."""
        chosen = self.metrics["best"] if self.metrics["delivered"]["checkpoint"] == "best" else self.metrics
        return chosen["val"] and chosen["val"]["miou"]

    @property
    def model(self) -> Model:
        """The delivered model."""
        if self._model is None:
            self._model = Model.load(self.folder.model)
        return self._model

    def predict(self, image: np.ndarray | Path | str) -> np.ndarray:
        """Return class indices uint8 [H, W] for an image file or a uint8 RGB array [H, W, 3] of any size."""
        return self.model.predict(image)


def load(path: Path | str) -> Run:
    """Return a finished run.

    Raises:
        CheckpointError: there is none in that folder.
    """
    return Run(path)


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
    asked = read_recipe(None, {"data.dir": str(dir)} | dotted)
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
        if first:
            folder = RunFolder(out) if out is not None else choose_folder(asked, RUNS, new)
            folder.check_usable(new)
            stack.enter_context(_claimed(folder))
            clean_leftovers(folder.path)
            if folder.started and folder.finished:
                confirm(asked, folder, say)
                run = Run(folder.path)
                say(f"{folder.path} is already finished")
                say.release()
                return run
            prepared = prepare(asked, folder, say)
        elif out is not None and RunFolder(out).finished:
            return Run(out)  # the first process will not come to meet the others either
        fabric = launch(asked.machine.devices, asked.machine.precision)
        prepared = fabric.broadcast(prepared)
        assert prepared is not None  # the first process sent it
        stack.callback(leave)
        _train(prepared, fabric, stack, say)
        return Run(prepared.folder)


def plan_only(asked: Recipe, out: Path | None, say: Say = print) -> dict[str, Any]:
    """Return what ``execute`` would do, without training; with ``out`` also write it to OUT/plan.json.

    Raises:
        DataError: the data are unusable.
        ConfigError: the recipe is.
    """
    index, pools, counts = read_data(asked, say)
    recipe = fill(asked, pools, counts, say)
    plan = {
        "recipe": recipe.complete(), "classes": list(index.classes), "labelled": len(pools.labelled),
        "unlabelled": len(pools.unlabelled), "val": len(index.items["val"]), "test": len(index.items["test"]),
        "split_hash": pools.hash(),
    }  # fmt: skip
    if out is not None:
        RunFolder(out).check_usable()
        ensure_writable(out)
        write_json(out / "plan.json", plan)
    return plan


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


def _train(prepared: Prepared, fabric: Any, stack: ExitStack, say: Notes) -> None:
    recipe, folder = prepared.recipe, RunFolder(prepared.folder)
    data, machine, model = recipe.data, recipe.machine, recipe.model
    assert data.crop and model.arch and model.encoder and machine.workers is not None  # prepare() has chosen them
    first = fabric.global_rank == 0
    method = resolve(recipe.method_name)(recipe.constants(), prepared.task)
    slots = plan_slots(
        method.streams, prepared.pools, data.batch, data.unlabelled_batch, fabric.global_rank, fabric.world_size
    )
    build = Builder(model.arch, model.encoder, prepared.task.classes, weights=model.weights, seed=recipe.train.seed)
    learner = Learner(
        fabric, method, build, recipe.optim, slots, recipe.train.steps, recipe.train.seed, prepared.layout
    )
    store = Store(folder.path, warn=say) if first else None
    done = _resume(learner, store, say)
    if done.step == 0 and model.init:
        start_from(learner.nets, Path(model.init), say)
    if first:
        begin(prepared)

    code, device = prepared.index.code, fabric.device
    mean, std = torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)
    cache = machine.cache_mb / max(1, machine.workers)
    dataset = StepDataset(
        prepared.pools, method.streams, slots, ItemLoader(code, data.resize, cache), data.crop, data.augment,
        recipe.train.seed,
    )  # fmt: skip
    whole = ItemLoader(code, data.resize, machine.cache_mb / 4)

    def truth(item: Item) -> torch.Tensor:
        assert item.mask is not None  # val and test items all have one
        return torch.from_numpy(read_mask(item.mask, code))

    pictures = Pictures(lambda i: whole(i.without_mask())[0], truth, mean, std, device, learner.autocast)
    scorer = Scorer(learner, prepared, pictures)
    log = stack.enter_context(MetricsLog(folder.log)) if first else None
    if log is not None:
        log.truncate(done.log_offset, say)
    board = TensorBoardLog(folder.tensorboard, done.step) if first and tensorboard_available() else None
    if board is not None:
        stack.callback(board.close)
    reporter = stack.enter_context(Reporter(recipe.train.steps, done.step, say, visible=first))
    around = Surroundings(
        batches=lambda start, stop: batches(dataset, start, stop, machine.workers or 0, device.type == "cuda"),
        prepare=lambda raw: to_device(raw, device, mean, std, prepared.layout.channels_last),
        validate=scorer.validate if prepared.index.items["val"] else None,
        store=store, log=log,
        tensorboard=board,
        stop=stack.enter_context(StopRequest()), barrier=fabric.barrier,
        agree=learner.any_rank,
        report=reporter.record,
    )  # fmt: skip
    say.release()
    done = fit(learner, around, recipe.train, done)
    reporter.message("scoring")
    finish(scorer, done, store, folder, say)


def _resume(learner: Learner, store: Store | None, say: Say) -> Progress:
    """Load the newest valid checkpoint on every rank; the first one reads it."""
    snapshot = None
    if store is not None:
        store.clean()
        snapshot = store.latest()
    snapshot = learner.fabric.broadcast(snapshot)
    if snapshot is not None:
        learner.restore(snapshot)
        say(f"continuing after step {snapshot.step}")
    return Progress.of(snapshot)
