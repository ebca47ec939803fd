"""The training loop, on one page. It knows steps, not methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from fewmask.batch import Batch, Items
from fewmask.config import Config
from fewmask.engine.checkpoint import Snapshot, Store
from fewmask.engine.faults import site
from fewmask.engine.guard import Guard, LossOfControl
from fewmask.engine.learner import Learner
from fewmask.engine.log import MetricsLog, TensorBoardLog
from fewmask.engine.signals import StopRequest
from fewmask.errors import Interrupted


class TrainConfig(Config):
    """The ``train`` section of a recipe.

    Attributes:
        steps: optimiser steps of the run.
        seed: of initialisation, order and augmentation.
        log_every: steps between lines of metrics.jsonl.
        eval_every: steps between scores on val; 0 = only at the end.
        save_every: steps between checkpoints.
        accumulate: parts of a step, computed one after the other: less memory, the same images, and statistics (of
            BatchNorm, of what a loss divides by, of selections) of a part in place of the batch.
    """

    steps: int = Field(default=2000, ge=1)
    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, ge=1)
    eval_every: int = Field(default=250, ge=0)
    save_every: int = Field(default=250, ge=1)
    accumulate: int = Field(default=1, ge=1)


@dataclass
class Surroundings:
    """What the loop talks to.

    Attributes:
        batches: (start, stop) to the uint8 batches of these steps.
        prepare: uint8 batch to device batch.
        validate: scores the reported predictor on val, {"miou", "iou", ...}; None without a val set.
        store: checkpoints; None on all ranks but the first.
        log: metrics.jsonl; None on all ranks but the first.
        tensorboard: None where it is not installed, and on all ranks but the first.
        stop: set by a signal.
        barrier: waits for the other ranks.
        agree: (flag, due) to whether any rank's flag is set.
        report: receives every record of the log, for the progress bar.
        rewind: goes back to the last state that was saved, or to the start, and returns where that stands.
        names: uint8 batch to the names of the images in it, of all ranks, by stream.
        say: receives one sentence for each thing that happens.
        debug: folder for what is known of a step that ends the run; None on all ranks but the first.
        milestones: steps after which a checkpoint is saved in any case.
    """

    batches: Callable[[int, int], Generator[dict[str, Items]]]
    prepare: Callable[[Mapping[str, Items]], Batch]
    validate: Callable[[], dict[str, Any]] | None
    store: Store | None
    log: MetricsLog | None
    tensorboard: TensorBoardLog | None
    stop: StopRequest
    barrier: Callable[[], object]
    agree: Callable[[bool, bool], bool]
    report: Callable[[dict[str, Any]], None]
    rewind: Callable[[], Progress]
    names: Callable[[Mapping[str, Items]], dict[str, list[str]]]
    say: Callable[[str], None]
    debug: Path | None = None
    milestones: Collection[int] = ()


@dataclass
class Progress:
    """How far a run is: what a checkpoint stores beside tensors.

    Attributes:
        step: steps done.
        best: {"step", "miou"} of the best score on val so far.
        seconds: spent training, over all parts of an interrupted run.
        log_offset: bytes of metrics.jsonl that belong to these steps.
        skipped: steps, counted from 1, that were left out because they were not finite.
        deterministic: all steps so far added in a fixed order.
    """

    step: int = 0
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    log_offset: int = 0
    skipped: list[int] = field(default_factory=list)
    deterministic: bool = True

    def state(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> Progress:
        """Read it from a snapshot; a new run's without one."""
        state = {} if snapshot is None else snapshot.state
        return cls(**{f.name: state[f.name] for f in fields(cls) if f.name in state})


def fit(learner: Learner, around: Surroundings, cfg: TrainConfig, done: Progress) -> Progress:
    """Train from ``done.step`` to ``cfg.steps`` and return where the run stands.

    Raises:
        Interrupted: a signal asked to stop; the state is saved.
        NonFiniteError: a loss or a gradient was NaN or infinite, too often; nothing is saved after it.
        WriteError: a checkpoint could not be written.
    """
    guarded = 0
    while True:
        guard = Guard(learner, guarded, done.skipped, around.names, around.debug, around.say)
        try:
            with closing(around.batches(done.step, cfg.steps)) as source:
                _Loop(learner, around, cfg, done, guard).run(source)
            return done
        except LossOfControl as found:
            done = around.rewind()
            guarded = found.step
            around.say(
                f"WARNING: something is NaN or infinite by step {guarded}; back to step {done.step}, to find the step"
            )


class _Loop:
    """One way through the steps."""

    def __init__(
        self, learner: Learner, around: Surroundings, cfg: TrainConfig, done: Progress, guard: Guard
    ) -> None:  # fmt: skip
        self.learner, self.around, self.cfg, self.done, self.guard = learner, around, cfg, done, guard
        self.clock = self.since = time.perf_counter()
        self.waited = 0.0

    def run(self, source: Iterator[dict[str, Items]]) -> None:
        """Train from where the run stands to its end."""
        cfg, done, around = self.cfg, self.done, self.around
        self.learner.train_mode()
        for t in range(done.step, cfg.steps):
            asked = time.perf_counter()
            raw = next(source)
            self.waited += time.perf_counter() - asked
            site("step.begin")
            batch = around.prepare(raw)
            result = self.guard.update(raw, batch, t) if t < self.guard.until else self.learner.update(batch, t)
            site("step.end")
            done.step = t + 1
            last = done.step == cfg.steps
            due = done.step % cfg.log_every == 0
            if result is None:
                self._write({"step": done.step, "skipped": True})
            elif due or last:
                self._log(*result)
            improved = False
            proven = result is not None  # else the state may be what made this step fail: nothing is kept of it
            if around.validate and (last or (proven and cfg.eval_every and done.step % cfg.eval_every == 0)):
                improved = self._validate(around.validate)
            stopping = around.agree(around.stop.requested, due) and not last
            kept = last or stopping or done.step in around.milestones
            if improved or kept or (proven and done.step % cfg.save_every == 0):
                self._save(improved)
            if stopping:
                who = around.stop.name or "another process"
                raise Interrupted(
                    f"stopped by {who} after step {done.step} of {cfg.steps}", where="the state is saved",
                    todo="run the same command again to continue",
                )  # fmt: skip

    def _log(self, terms: Mapping[str, Tensor], memo: Mapping[str, Tensor]) -> None:
        if not self.learner.sound():
            raise LossOfControl(self.done.step)
        now = time.perf_counter()
        found = self.learner.mean({**terms, **{name: memo[name] for name in ("kept",) if name in memo}})
        record: dict[str, Any] = {"step": self.done.step, "lr": self.learner.rate(self.done.step - 1)}
        record |= {"loss": sum(found[name] for name in terms)} | found
        if "pseudo" in memo:
            record["pseudo"] = _shares(self.learner.reduce(memo["pseudo"]))
        if "agree" in memo:
            same, kept = self.learner.reduce(memo["agree"]).tolist()
            record |= {"agree": round(same / kept, 6)} if kept else {}
        record["data_wait"] = round(self.waited / max(now - self.since, 1e-9), 4)
        self.since, self.waited = now, 0.0
        self._write(record)

    def _validate(self, validate: Callable[[], dict[str, Any]]) -> bool:
        """Score on val; return whether this is the best score so far."""
        done = self.done
        self._look()
        score = validate()
        self.learner.train_mode()
        improved = score["miou"] is not None and (done.best is None or score["miou"] > done.best["miou"])
        if improved:
            done.best = {"step": done.step, "miou": score["miou"]}
        self._write({"step": done.step, "val": score["miou"], "val_iou": score["iou"]})
        self.since = time.perf_counter()
        return improved

    def _save(self, best: bool) -> None:
        around, done = self.around, self.done
        self._look()
        done.seconds += time.perf_counter() - self.clock
        self.clock = time.perf_counter()
        if around.store is not None and around.log is not None:
            done.log_offset = around.log.sync()
            around.store.save(self.learner.snapshot(done.step, done.state()), best=best)
        around.barrier()
        self.since = time.perf_counter()

    def _look(self) -> None:
        if not self.learner.sound(everything=True):
            raise LossOfControl(self.done.step)

    def _write(self, record: dict[str, Any]) -> None:
        if self.around.log is not None:
            self.around.log.write(record)
        if self.around.tensorboard is not None:
            self.around.tensorboard.write(record)
        self.around.report(record)


def _shares(counts_K: Tensor) -> list[float]:
    """Return a histogram as shares of its sum; zeros where it is empty."""
    return (counts_K.double() / counts_K.sum().clamp(min=1)).mul(1e6).round().div(1e6).tolist()
