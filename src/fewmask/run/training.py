"""One training: a learner, what surrounds it, and the loop from where it stands to its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewmask.batch import Items
from fewmask.data.bands import channels
from fewmask.data.feed import Feed, bearable_workers
from fewmask.data.images import item_size
from fewmask.data.index import Item
from fewmask.data.masks import read_known
from fewmask.data.quarantine import Quarantine, QuarantineFile
from fewmask.data.sizes import item_loader
from fewmask.data.stream import StepDataset, plan_slots, to_device
from fewmask.engine.checkpoint import Store
from fewmask.engine.determinism import is_deterministic
from fewmask.engine.evaluate import Pictures
from fewmask.engine.files import clean_leftovers
from fewmask.engine.launch import placement
from fewmask.engine.learner import Learner
from fewmask.engine.log import MetricsLog, TensorBoardLog, tensorboard_available
from fewmask.engine.progress import Reporter
from fewmask.engine.signals import StopRequest
from fewmask.engine.train import Progress, Surroundings, fit
from fewmask.method import Method
from fewmask.nets import Builder
from fewmask.ops.monitor import Monitor
from fewmask.run.finish import finish
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Notes
from fewmask.run.prepare import Prepared, begin
from fewmask.run.score import Scorer

Start = Callable[[Mapping[str, nn.Module]], None]
"""Gives the networks of a training their start."""


@dataclass(frozen=True)
class Training:
    """One training, and what is asked of it.

    Attributes:
        prepared: data, recipe and run folder; the recipe's steps are this training's.
        method: what is trained.
        baseline: folder of the finished run that it is compared with; None = none.
        start: gives the networks their start, at step 0; None = as they are built.
        title: announces it, where there are several.
        milestones: steps whose checkpoints are kept.
    """

    prepared: Prepared
    method: Method
    baseline: Path | None = None
    start: Start | None = None
    title: str | None = None
    milestones: tuple[int, ...] = ()


def train_one(job: Training, within: Sequence[Prepared], fabric: Any, say: Notes) -> str:
    """Train to the end, continuing where it stands, and write the run folder.

    Args:
        job: the training.
        within: the runs that it is a part of, the command's first; their folders are begun with their first training.
        fabric: launched.
        say: receives one sentence for each decision.

    Returns:
        Who asked to stop while it was being scored, which nothing interrupts; "" = nobody.

    Raises:
        FewmaskError: see ``docs/exit-codes.md``.
    """
    with ExitStack() as stack:
        return _train(job, within, fabric, stack, say)


def learner_of(prepared: Prepared, method: Method, fabric: Any, trains: bool = True) -> Learner:
    """Return the networks of a method, as a recipe wants them, and their optimisers unless they only predict."""
    recipe = prepared.recipe
    data, model = recipe.data, recipe.model
    assert model.arch and model.encoder  # prepare() has chosen them
    slots = plan_slots(
        method.streams, prepared.pools, data.batch, data.unlabelled_batch, fabric.global_rank, fabric.world_size
    )
    build = Builder(
        model.arch, model.encoder, prepared.task.classes, weights=model.weights, seed=recipe.train.seed,
        channels=channels(prepared.index.images.bands), **model.options,
    )  # fmt: skip
    steps, seed = recipe.train.steps, recipe.train.seed
    parts = recipe.train.accumulate
    return Learner(fabric, method, build, recipe.optim, slots, steps, seed, prepared.layout, trains, parts)


def pictures_of(prepared: Prepared, learner: Learner) -> Pictures:
    """Return how the images and masks of a run's data become inputs and truths of a learner's networks."""
    recipe, code, device = prepared.recipe, prepared.index.code, learner.fabric.device
    classes = len(prepared.index.classes)
    stored = item_loader(code, recipe.data.resize, recipe.machine.cache_mb / 4, classes)

    def truth(item: Item) -> torch.Tensor:
        assert item.mask is not None  # val and test items all have one
        return torch.from_numpy(read_known(item.mask, code, classes, item_size(item)))

    mean, std = (torch.tensor(values, device=device) for values in prepared.statistics)
    return Pictures(lambda i: stored(i.without_labels())[0], truth, mean, std, device, learner.autocast)


def dataset_of(
    prepared: Prepared, method: Method, learner: Learner, quarantine: Quarantine | None = None
) -> StepDataset:  # fmt: skip
    """Return step to batch, as a recipe wants it, for the streams of a method."""
    data, machine = prepared.recipe.data, prepared.recipe.machine
    assert data.crop and machine.workers is not None  # prepare() has chosen them
    room, classes = machine.cache_mb / max(1, machine.workers), len(prepared.index.classes)
    stored = item_loader(prepared.index.code, data.resize, room, classes)
    return StepDataset(
        prepared.pools, method.streams, learner.slots, stored, data.crop, data.augment, prepared.recipe.train.seed,
        quarantine, prepared.index.images.bands,
    )  # fmt: skip


def _train(job: Training, within: Sequence[Prepared], fabric: Any, stack: ExitStack, say: Notes) -> str:
    prepared, method = job.prepared, job.method
    recipe, folder = prepared.recipe, RunFolder(prepared.folder)
    data, machine = recipe.data, recipe.machine
    assert data.crop and machine.workers is not None  # prepare() has chosen them
    first = fabric.global_rank == 0
    learner = learner_of(prepared, method, fabric)
    if first:
        clean_leftovers(folder.path)
    store = Store(folder.path, always=job.milestones, warn=say) if first else None
    done = _resume(learner, store, job.start)
    if done.step:
        say(f"continuing after step {done.step}")
    if first:
        for run in (*within, prepared):  # a command that is interrupted in its first training finds its folder again
            begin(run)

    device = fabric.device
    file = QuarantineFile(folder.quarantine, len(prepared.pools.unlabelled))
    quarantine = Quarantine(fabric.broadcast(file.read())) if data.on_bad_unlabelled == "skip" else None
    dataset = dataset_of(prepared, method, learner, quarantine)
    workers = bearable_workers(machine.workers, *dataset.batch_size(), say, placement(machine.devices).local)
    feed = Feed(dataset, workers, device.type == "cuda", machine.loader_timeout, file.write)
    pictures = pictures_of(prepared, learner)
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

    def tell_start(progress: Progress) -> None:
        if recipe.model.init and job.start is not None and progress.step == 0 and prepared.index.items["val"]:
            _score_start(scorer, log, say)

    def rewind() -> Progress:
        learner.begin_again()
        progress = _resume(learner, store, job.start)
        if log is not None:
            log.truncate(progress.log_offset, say)
        tell_start(progress)
        return progress

    def names(raw: Mapping[str, Items]) -> dict[str, list[str]]:
        everywhere = {stream: learner.gather(items.index.to(device)) for stream, items in raw.items()}
        return {s: [dataset.item(s, i).name for i in index.flatten().tolist()] for s, index in everywhere.items()}

    around = Surroundings(
        batches=feed.steps,
        prepare=lambda raw: to_device(raw, device, pictures.mean, pictures.std, prepared.layout.channels_last),
        validate=scorer.validate if prepared.index.items["val"] else None,
        store=store, log=log,
        tensorboard=board,
        stop=stack.enter_context(StopRequest()), barrier=fabric.barrier,
        agree=learner.any_rank,
        report=report, milestones=job.milestones, rewind=rewind, names=names, say=reporter.message,
        debug=folder.debug if first else None,
    )  # fmt: skip
    if job.title:
        say(job.title)
    say.release()
    tell_start(done)
    try:
        done = fit(learner, around, recipe.train, done)
    except (RuntimeError, ConnectionError, EOFError) as error:
        if (lost := feed.explain(error)) is not None:
            raise lost from error
        raise
    reporter.message("scoring")
    finish(scorer, done, store, folder, None if job.baseline is None else RunFolder(job.baseline), say)
    stop = around.stop
    return (stop.name or "another process") if learner.any_rank(stop.requested, due=True) else ""


def _score_start(scorer: Scorer, log: MetricsLog | None, say: Notes) -> None:
    """Tell what networks that were taken from another run score before the first step: what that run delivered."""
    score = scorer.validate()
    scorer.learner.train_mode()
    say("before the first step: " + ("not measured" if score["miou"] is None else f"{score['miou']:.1f} mIoU on val"))
    if log is not None:
        log.write({"step": 0, "val": score["miou"], "val_iou": score["iou"]})


def _resume(learner: Learner, store: Store | None, start: Start | None) -> Progress:
    """Load the newest valid checkpoint on every rank, which the first one reads; without any, the run's start."""
    snapshot = None
    if store is not None:
        store.clean()
        snapshot = store.latest()
    snapshot = learner.fabric.broadcast(snapshot)
    if snapshot is not None:
        learner.restore(snapshot)
    elif start is not None:
        start(learner.nets)
    done = Progress.of(snapshot)
    done.deterministic &= is_deterministic(learner.fabric.device.type)
    return done
