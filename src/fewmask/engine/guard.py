"""Steps that a training would not survive, NaN or infinity in a loss, a weight or a moment: left out, told, counted.

Nothing looks at single steps while all is well: a flag gathers on the device and is read where something is logged or
saved anyway. When it is set, the run goes back to its last sound state and takes the same steps once more, each with a
copy of the state before it, so that the one that does harm is found and undone, with its traces in normalisation
statistics, teachers and banks. Data and augmentation are functions of the step, so the way there is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fewmask.batch import Batch, Items
from fewmask.engine.checkpoint import Snapshot
from fewmask.engine.files import remove, write_atomic, write_errors, write_json
from fewmask.engine.learner import Learner
from fewmask.errors import NonFiniteError

MAX_SKIPPED = 3
"""Steps of a run that may be left out; the next one ends it."""

Terms = tuple[dict[str, Tensor], dict[str, Tensor]]


class LossOfControl(Exception):
    """A loss, weight or moment was not finite when ``step`` steps were done; caught by the loop."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"not finite after step {step}")


class Guard:
    """Takes steps one at a time, and undoes one that leaves the state not finite.

    Args:
        learner: whose steps.
        until: steps below it are looked at.
        skipped: steps left out so far, counted from 1; added to.
        names: stream name to the names of the images that stand in a batch, on all ranks.
        folder: what is written about the step that ends the run; None on all ranks but the first.
        say: receives one sentence for each step left out.
    """

    def __init__(
        self, learner: Learner, until: int, skipped: list[int],
        names: Callable[[Mapping[str, Items]], dict[str, list[str]]], folder: Path | None, say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._learner, self.until, self._skipped = learner, until, skipped
        self._names, self._folder, self._say = names, folder, say

    def update(self, raw: Mapping[str, Items], batch: Batch, t: int) -> Terms | None:
        """Do step ``t``; None where it was undone.

        Raises:
            NonFiniteError: it was, and more than MAX_SKIPPED steps have been.
        """
        before = self._learner.snapshot(t, {})
        terms, memo = self._learner.update(batch, t)
        if self._learner.sound(everything=True):
            return terms, memo
        images = self._names(raw)
        what = "a gradient" if self._learner.sound() else "the loss"
        found = {"terms": {name: float(term) for name, term in terms.items()}, "not_finite": self._learner.unsound()}
        self._learner.restore(before)
        self._skipped.append(t + 1)
        self._say(
            f"WARNING: step {t + 1} is left out: {what} is NaN or infinite there "
            f"({len(self._skipped)} of at most {MAX_SKIPPED} such steps); "
            + ", ".join(f"{stream}: {' '.join(these)}" for stream, these in images.items())
        )
        if len(self._skipped) > MAX_SKIPPED:
            self._give_up(t + 1, before, raw, {"step": t + 1, "lr": self._learner.rate(t), "images": images, **found})
        return None

    def _give_up(self, step: int, before: Snapshot, raw: Mapping[str, Items], report: dict[str, Any]) -> None:
        where = "training"
        if self._folder is not None:
            folder = self._folder / f"step-{step:08d}"
            with write_errors(folder):
                remove(folder)
                folder.mkdir(parents=True)
            write_atomic(folder / "networks.safetensors", safetensors.torch.save(before.networks))
            write_atomic(folder / "batch.safetensors", safetensors.torch.save(_tensors(raw)))
            write_json(folder / "report.json", report | {"skipped": self._skipped})
            where = f"{folder} holds the networks before it and its batch"
        raise NonFiniteError(
            f"the loss or a gradient became NaN or infinite at {len(self._skipped)} steps, the last one step {step}",
            where=where,
            todo="lower optim.lr, or set optim.clip=1 or --precision fp32; the last checkpoint is sound",
        )


def _tensors(raw: Mapping[str, Items]) -> dict[str, Tensor]:
    """Return the batch of a step as the loader made it: uint8 views, masks, positions in the pool."""
    found: dict[str, Tensor] = {}
    for stream, items in raw.items():
        found |= {
            f"{stream}.view{n}.{kind}": v for n, (kind, v) in enumerate(zip(items.kinds, items.views, strict=True))
        }
        found |= {f"{stream}.source{n}": s for n, s in enumerate(items.source)}
        rest = {"valid": items.valid, "index": items.index, "mask": items.mask, "pseudo": items.pseudo}
        found |= {f"{stream}.{key}": x for key, x in rest.items() if x is not None}
    return {key: x.contiguous() for key, x in found.items()}
