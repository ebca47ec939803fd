"""The training loop, on one page. It knows steps, not methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor

from fewmask.batch import Batch, Items
from fewmask.config import Config
from fewmask.engine.checkpoint import Snapshot, Store
from fewmask.engine.faults import site
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
    """

    steps: int = Field(default=2000, ge=1)
    seed: int = Field(default=0, ge=0)
    log_every: int = Field(default=10, ge=1)
    eval_every: int = Field(default=250, ge=0)
    save_every: int = Field(default=250, ge=1)


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
        milestones: steps after which a checkpoint is saved in any case.
    """

    batches: Callable[[int, int], Iterator[dict[str, Items]]]
    prepare: Callable[[Mapping[str, Items]], Batch]
    validate: Callable[[], dict[str, Any]] | None
    store: Store | None
    log: MetricsLog | None
    tensorboard: TensorBoardLog | None
    stop: StopRequest
    barrier: Callable[[], object]
    agree: Callable[[bool, bool], bool]
    report: Callable[[dict[str, Any]], None]
    milestones: Collection[int] = ()


@dataclass
class Progress:
    """How far a run is: what a checkpoint stores beside tensors.

    Attributes:
        step: steps done.
        best: {"step", "miou"} of the best score on val so far.
        seconds: spent training, over all parts of an interrupted run.
        log_offset: bytes of metrics.jsonl that belong to these steps.
    """

    step: int = 0
    best: dict[str, Any] | None = None
    seconds: float = 0.0
    log_offset: int = 0

    def state(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"step": self.step, "best": self.best, "seconds": self.seconds, "log_offset": self.log_offset}

    @classmethod
    def of(cls, snapshot: Snapshot | None) -> Progress:
        """Read it from a snapshot; a new run's without one."""
        state = {} if snapshot is None else snapshot.state
        return cls(**{k: state[k] for k in ("step", "best", "seconds", "log_offset") if k in state})


def fit(learner: Learner, around: Surroundings, cfg: TrainConfig, done: Progress) -> Progress:
    """Train from ``done.step`` to ``cfg.steps`` and return where the run stands.

    Raises:
        Interrupted: a signal asked to stop; the state is saved.
        NonFiniteError: a loss became NaN or infinite; nothing is saved after it.
        WriteError: a checkpoint could not be written.
    """
    learner.train_mode()
    source = around.batches(done.step, cfg.steps)
    clock = time.perf_counter()
    waited = 0.0
    since = clock
    for t in range(done.step, cfg.steps):
        asked = time.perf_counter()
        raw = next(source)
        waited += time.perf_counter() - asked
        site("step.begin")
        terms, memo = learner.update(around.prepare(raw), t)
        site("step.end")
        done.step = t + 1
        last = done.step == cfg.steps

        if done.step % cfg.log_every == 0 or last:
            learner.check_finite(done.step)
            now = time.perf_counter()
            record = {"step": done.step, "lr": learner.rate(t), "loss": float(sum(terms.values()))}
            record |= {name: float(term) for name, term in terms.items()}
            record |= {name: float(memo[name]) for name in ("kept",) if name in memo}
            record |= {name: _shares(memo[name]) for name in ("pseudo",) if name in memo}
            record["data_wait"] = round(waited / max(now - since, 1e-9), 4)
            since, waited = now, 0.0
            _write(around, record)

        improved = False
        if around.validate and (last or (cfg.eval_every and done.step % cfg.eval_every == 0)):
            score = around.validate()
            learner.train_mode()
            improved = score["miou"] is not None and (done.best is None or score["miou"] > done.best["miou"])
            if improved:
                done.best = {"step": done.step, "miou": score["miou"]}
            _write(around, {"step": done.step, "val": score["miou"], "val_iou": score["iou"]})
            since = time.perf_counter()

        due = done.step % cfg.log_every == 0
        stopping = around.agree(around.stop.requested, due) and not last
        if improved or last or stopping or done.step % cfg.save_every == 0 or done.step in around.milestones:
            learner.check_finite(done.step)
            done.seconds += time.perf_counter() - clock
            clock = time.perf_counter()
            if around.store is not None and around.log is not None:
                done.log_offset = around.log.sync()
                around.store.save(learner.snapshot(done.step, done.state()), best=improved)
            around.barrier()
            since = time.perf_counter()
        if stopping:
            who = around.stop.name or "another process"
            raise Interrupted(
                f"stopped by {who} after step {done.step} of {cfg.steps}", where="the state is saved",
                todo="run the same command again to continue",
            )  # fmt: skip
    return done


def _shares(counts_K: Tensor) -> list[float]:
    """Return a histogram as shares of its sum; zeros where it is empty."""
    return (counts_K.double() / counts_K.sum().clamp(min=1)).mul(1e6).round().div(1e6).tolist()


def _write(around: Surroundings, record: dict[str, Any]) -> None:
    if around.log is not None:
        around.log.write(record)
    if around.tensorboard is not None:
        around.tensorboard.write(record)
    around.report(record)
