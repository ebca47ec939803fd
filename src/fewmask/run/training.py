"""One training: a learner, what surrounds it, and the loop from where it stands to its end."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from fewmask.data.index import Item
from fewmask.data.masks import read_mask
from fewmask.data.stream import ItemLoader, StepDataset, batches, plan_slots, to_device
from fewmask.engine.checkpoint import Store
from fewmask.engine.evaluate import Pictures
from fewmask.engine.files import clean_leftovers
from fewmask.engine.learner import Learner
from fewmask.engine.log import MetricsLog, TensorBoardLog, tensorboard_available
from fewmask.engine.monitor import Monitor
from fewmask.engine.progress import Reporter
from fewmask.engine.signals import StopRequest
from fewmask.engine.train import Progress, Surroundings, fit
from fewmask.methods import resolve
from fewmask.nets import IMAGENET_MEAN, IMAGENET_STD, Builder
from fewmask.run.arms import Arm
from fewmask.run.finish import finish
from fewmask.run.folder import RunFolder
from fewmask.run.init import start_from
from fewmask.run.prepare import Notes, Prepared, Say, begin
from fewmask.run.score import Scorer


def train_arm(arm: Arm, whole_run: Prepared, fabric: Any, say: Notes, title: str | None = None) -> str:
    """Train one arm to its end, continuing where it stands, and write its run folder.

    Args:
        arm: the training.
        whole_run: the command's run; its folder is begun with its first arm.
        fabric: launched.
        say: receives one sentence for each decision.
        title: announces the training, where there are several.

    Returns:
        Who asked to stop while it was being scored, which nothing interrupts; "" = nobody.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    with ExitStack() as stack:
        return _train(arm, whole_run, fabric, stack, say, title)


def _train(arm: Arm, whole_run: Prepared, fabric: Any, stack: ExitStack, say: Notes, title: str | None) -> str:
    prepared = arm.prepared
    recipe, folder = prepared.recipe, RunFolder(prepared.folder)
    data, machine, model = recipe.data, recipe.machine, recipe.model
    assert data.crop and model.arch and model.encoder and machine.workers is not None  # prepare() has chosen them
    first = fabric.global_rank == 0
    method = resolve(recipe.method_name)(recipe.constants(), prepared.task)
    slots = plan_slots(
        method.streams, prepared.pools, data.batch, data.unlabelled_batch, fabric.global_rank, fabric.world_size
    )
    build = Builder(
        model.arch, model.encoder, prepared.task.classes, weights=model.weights, seed=recipe.train.seed, **model.options
    )
    learner = Learner(
        fabric, method, build, recipe.optim, slots, recipe.train.steps, recipe.train.seed, prepared.layout
    )
    if first:
        clean_leftovers(folder.path)
    store = Store(folder.path, warn=say) if first else None
    done = _resume(learner, store, say)
    if done.step == 0 and model.init:
        start_from(learner.nets, Path(model.init), say)
    if first:
        begin(whole_run)  # a command that is interrupted in its first arm finds its folder again
        begin(prepared)

    code, device = prepared.index.code, fabric.device
    mean, std = torch.tensor(IMAGENET_MEAN, device=device), torch.tensor(IMAGENET_STD, device=device)
    cache = machine.cache_mb / max(1, machine.workers)
    dataset = StepDataset(
        prepared.pools, method.streams, slots, ItemLoader(code, data.resize, cache), data.crop, data.augment,
        recipe.train.seed,
    )  # fmt: skip
    stored = ItemLoader(code, data.resize, machine.cache_mb / 4)

    def truth(item: Item) -> torch.Tensor:
        assert item.mask is not None  # val and test items all have one
        return torch.from_numpy(read_mask(item.mask, code))

    pictures = Pictures(lambda i: stored(i.without_mask())[0], truth, mean, std, device, learner.autocast)
    scorer = Scorer(learner, prepared, pictures)
    log = stack.enter_context(MetricsLog(folder.log)) if first else None
    if log is not None:
        log.truncate(done.log_offset, say)
    board = TensorBoardLog(folder.tensorboard, done.step) if first and tensorboard_available() else None
    if board is not None:
        stack.callback(board.close)
    reporter = stack.enter_context(Reporter(recipe.train.steps, done.step, say, visible=first))
    monitor = Monitor(prepared.index.classes, prepared.task.frequency, reporter.message)

    def report(record: dict[str, Any]) -> None:
        reporter.record(record)
        monitor.record(record)

    around = Surroundings(
        batches=lambda start, stop: batches(dataset, start, stop, machine.workers or 0, device.type == "cuda"),
        prepare=lambda raw: to_device(raw, device, mean, std, prepared.layout.channels_last),
        validate=scorer.validate if prepared.index.items["val"] else None,
        store=store, log=log,
        tensorboard=board,
        stop=stack.enter_context(StopRequest()), barrier=fabric.barrier,
        agree=learner.any_rank,
        report=report,
    )  # fmt: skip
    if title:
        say(title)
    say.release()
    done = fit(learner, around, recipe.train, done)
    reporter.message("scoring")
    finish(scorer, done, store, folder, None if arm.baseline is None else RunFolder(arm.baseline), say)
    stop = around.stop
    return (stop.name or "another process") if learner.any_rank(stop.requested, due=True) else ""


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
