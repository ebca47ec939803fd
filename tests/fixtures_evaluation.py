"""Scores of single images in round figures, and run folders that hold nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewmask.run.evaluation import Evaluation, save_evaluations
from fewmask.run.folder import RunFolder

NAMES = ("a", "b", "c", "d", "e")


def arm(*hits: float, images: int = 5, groups: tuple[str, ...] = ("",) * 5) -> Evaluation:
    """Each image has 100 truth pixels of a class, of which ``hits`` are found and nothing else is: IoU = hits %."""
    one = np.array([hits, [100] * len(hits), hits], np.int64)
    counts = np.repeat(one[None], images, axis=0)
    return Evaluation(np.diag(counts[:, 0].sum(0)), NAMES[:images], groups[:images], counts)


def saved(folder: Path, found: Evaluation | None) -> RunFolder:
    folder.mkdir(parents=True, exist_ok=True)
    save_evaluations(folder / "evaluation.npz", {"val": found, "test": None})
    return RunFolder(folder)
