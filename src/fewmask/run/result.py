"""A finished run, read back: its scores and its model. Nothing here needs what training needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.writers import Tool
from fewmask.run.folder import RunFolder
from fewmask.run.model import Model, Picture


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
        return self.metrics["delivered"]["val"]

    @property
    def model(self) -> Model:
        """The delivered model."""
        if self._model is None:
            self._model = Model.load(self.folder.model)
        return self._model

    def predict(
        self, image: Picture, *, flip: bool = False, scales: Sequence[float] | None = None
    ) -> np.ndarray:  # fmt: skip
        """Return class indices uint8 [H, W] of an image of any size.

        Args:
            image: a file, a uint8 RGB array [H, W, 3], or what Pillow has opened.
            flip: average the probabilities with those of the mirror image.
            scales: average those of the image in these sizes, for example (0.75, 1, 1.25); None = in its own.

        Raises:
            ConfigError: a scale that is not positive.
            DataError: it cannot be read, or is an array of other numbers.
        """
        return self.model.predict(image, flip=flip, scales=scales)

    def suggest(self, count: int = 20, out: Path | str | None = None, to: Sequence[Tool] = ("png",)) -> list[Any]:
        """Return what to label next, as ``Suggestion``; with ``out`` also write it, as ``fewmask suggest`` does."""
        from fewmask.run.suggest import suggest  # which needs what a run that is only read does not

        return suggest(self.path, count, None if out is None else Path(out), to, lambda text: None)


def load(path: Path | str) -> Run:
    """Return a finished run.

    Raises:
        CheckpointError: there is none in that folder.
    """
    return Run(path)
