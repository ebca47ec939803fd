"""What is timed: a recipe on a data folder, or on generated scenes with a small network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fewmask.batch import Batch
from fewmask.data.scenes import write_scenes
from fewmask.data.stream import to_device
from fewmask.engine.launch import launch, leave
from fewmask.engine.learner import Learner
from fewmask.method import Method, Task
from fewmask.methods import resolve
from fewmask.recipe import for_its_length, read_recipe
from fewmask.run.arms import SUPERVISED
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Say
from fewmask.run.pace import wait_for
from fewmask.run.prepare import Prepared, parts_of, prepare
from fewmask.run.rehearse import made_up
from fewmask.run.training import learner_of

_SMALL: dict[str, Any] = {
    "model.arch": "deeplabv3plus", "model.encoder": "mobilenet_v2", "model.weights": "none", "data.crop": "96",
    "data.batch": 2, "data.unlabelled_batch": 2, "machine.precision": "fp32", "machine.workers": 0,
}  # fmt: skip
_LATE = 0.75  # of the schedule: nothing is warming up any more


@dataclass(frozen=True)
class Setting:
    """What the benches share.

    Attributes:
        prepared: recipe and data.
        fabric: launched.
        methods: names, supervised first.
        rounds: how often each job is timed.
        scratch: a folder for what a bench writes.
        say: receives sentences.
    """

    prepared: Prepared
    fabric: Any
    methods: tuple[str, ...]
    rounds: int
    scratch: Path
    say: Say

    def told(self) -> dict[str, Any]:
        """Return what two results must share to be compared."""
        recipe, layout = self.prepared.recipe, self.prepared.layout
        return {
            "arch": recipe.model.arch, "encoder": recipe.model.encoder, "crop": recipe.data.crop,
            "batch": recipe.data.batch, "unlabelled_batch": recipe.data.unlabelled_batch,
            "classes": self.prepared.task.classes, "precision": layout.precision,
            "device": str(self.fabric.device), "rounds": self.rounds,
        }  # fmt: skip

    def of(self, method: str) -> Prepared:
        """Return the same with another method."""
        recipe = self.prepared.recipe.model_copy(update={"method": {"name": method}})
        return replace(self.prepared, recipe=for_its_length(recipe))

    def sized(self, *, classes: int | None = None, crop: tuple[int, int] | None = None) -> Setting:
        """Return the same with another number of classes, each as frequent, or with crops of another size."""
        prepared = self.prepared
        if classes is not None:
            prepared = replace(prepared, task=Task(classes, (1 / classes,) * classes))
        if crop is not None:
            data = prepared.recipe.data.model_copy(update={"crop": crop})
            prepared = replace(prepared, recipe=prepared.recipe.model_copy(update={"data": data}))
        return replace(self, prepared=prepared)

    def trainings(self, method: str) -> Iterator[tuple[float, Prepared, Method]]:
        """Yield (share of the steps, recipe, method) of every training of a method; one that has no rounds has one."""
        prepared = self.of(method)
        whole = resolve(method)(prepared.recipe.constants(), prepared.task)
        shares = [one.share for one in whole.rounds()] or [1.0]
        for share, (recipe, one) in zip(shares, parts_of(prepared.recipe, whole), strict=True):
            yield share, replace(prepared, recipe=recipe), one


@contextmanager
def setting(
    data: Path | None, methods: Sequence[str], words: Sequence[str], rounds: int, say: Say
) -> Iterator[Setting]:
    """Prepare, launch and, in the end, remove everything.

    Raises:
        ConfigError: an unknown method or key.
        DataError: the data are unusable.
    """
    for name in methods:
        resolve(name)
    with TemporaryDirectory(prefix="fewmask-bench-") as name:
        scratch = Path(name)
        root = data or write_scenes(scratch / "scenes", labelled=8, unlabelled=24, val=2, test=0)
        keys = _SMALL | {"data.dir": str(root), "method": SUPERVISED}
        prepared = prepare(read_recipe(None, keys, words), RunFolder(scratch / "none"), lambda text: None)
        machine = prepared.recipe.machine
        fabric = launch(machine.devices, prepared.layout.precision, machine.rank_timeout)
        try:
            yield Setting(prepared, fabric, tuple(methods), rounds, scratch, say)
        finally:
            leave()


@dataclass
class Arm:
    """The steps of one training of a method, over and over on one batch of noise.

    Attributes:
        share: of the method's steps.
        learner: networks and optimisers.
        batch: makes the batch from bytes on the host, which is part of a step.
        t: the step, late in the schedule.
    """

    share: float
    learner: Learner
    batch: Callable[[], Batch]
    t: int

    @classmethod
    def of(cls, share: float, prepared: Prepared, method: Method, fabric: Any) -> Arm:
        """Build the networks of a training."""
        recipe = prepared.recipe
        learner = learner_of(prepared, method, fabric)
        learner.train_mode()
        mean, std = (torch.tensor(values, device=fabric.device) for values in prepared.statistics)
        assert recipe.data.crop is not None  # prepare() has chosen it
        raw = made_up(method.streams, learner.slots, recipe.data.crop, prepared.task.classes, len(mean))

        def batch() -> Batch:
            return to_device(raw, fabric.device, mean, std, prepared.layout.channels_last)

        return cls(share, learner, batch, int(_LATE * recipe.train.steps))

    def step(self) -> None:
        """Do a step, and wait for the device."""
        self.learner.update(self.batch(), self.t)
        wait_for(self.learner.fabric.device)
