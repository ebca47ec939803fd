"""Scores of a learner's networks, and what is kept of them for intervals: evaluation.npz."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewmask.data.folds import resampled_with
from fewmask.data.index import Item, Role
from fewmask.engine.evaluate import Pictures, confusion_of, scores
from fewmask.engine.files import write_atomic
from fewmask.engine.infer import PROTOCOLS, Forward
from fewmask.engine.learner import Learner
from fewmask.errors import CheckpointError
from fewmask.run.prepare import Prepared


@dataclass(frozen=True)
class Evaluation:
    """One predictor's results on the images of a role.

    Attributes:
        matrix: confusion matrix int64 [K, K], rows truth.
        names: of the images, [N].
        groups: what each image is resampled together with: its group, or a copy of it; "" = nothing, [N].
        counts: int64 [N, 3, K]: each image's hits, truth pixels and predicted pixels of each class.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    groups: tuple[str, ...]
    counts: np.ndarray

    @property
    def truth(self) -> np.ndarray:
        """Truth pixels of each class in each image, [N, K]: equal for every model that is scored on these masks."""
        return self.counts[:, 1]


class Scorer:
    """Scores predictors of a learner on val and test; every rank takes its share of the images.

    Args:
        learner: with the networks.
        prepared: data and protocol.
        pictures: reads images and masks.
    """

    def __init__(self, learner: Learner, prepared: Prepared, pictures: Pictures) -> None:
        self.learner, self.prepared, self.pictures = learner, prepared, pictures
        self.reported = learner.method.predictors[0]
        self._known: dict[tuple[Role, str], Evaluation] = {}

    def forward(self, predictor: str) -> Forward:
        """Return images → logits of one predictor, all networks in evaluation mode."""
        for net in self.learner.nets.values():
            net.eval()
        return lambda images: self.learner.method.predict(self.learner.nets, predictor, images)

    def evaluate(self, role: Role, predictor: str | None = None) -> Evaluation | None:
        """Return a predictor's results, or None where the role has no images; computed once until ``forget``."""
        name = predictor or self.reported
        if self.prepared.index.items[role] and (role, name) not in self._known:
            self._known[role, name] = self._evaluate(role, name)
        return self._known.get((role, name))

    def _evaluate(self, role: Role, predictor: str) -> Evaluation:
        fabric, index = self.learner.fabric, self.prepared.index
        items = index.items[role]
        mine = items[fabric.global_rank :: fabric.world_size]
        place = {item.name: n for n, item in enumerate(items)}
        counts = torch.zeros(len(items), 3, len(index.classes), dtype=torch.int64)

        def note(item: Item, matrix: Tensor) -> None:
            counts[place[item.name]] = torch.stack((matrix.diagonal(), matrix.sum(1), matrix.sum(0)))

        protocol = PROTOCOLS[self.prepared.recipe.protocol]
        matrix = confusion_of(self.forward(predictor), mine, self.pictures, len(index.classes), protocol, note)
        sums = [self.learner.reduce(t.to(fabric.device)).cpu().numpy() for t in (matrix, counts)]
        units = resampled_with(items, self.prepared.twins)
        return Evaluation(sums[0], tuple(i.name for i in items), units, sums[1])

    def score(self, role: Role, predictor: str | None = None) -> dict[str, Any] | None:
        """Return S of ``docs/metrics.md``, or None where the role has no images."""
        found = self.evaluate(role, predictor)
        return None if found is None else scores(torch.from_numpy(found.matrix), self.prepared.index.classes)

    def validate(self) -> dict[str, Any]:
        """Return S of the reported predictor on val, for networks that have changed since the last call."""
        self.forget()
        score = self.score("val")
        assert score is not None  # the loop asks only where there is a val set
        return score

    def forget(self) -> None:
        """Drop remembered scores: the networks have changed."""
        self._known.clear()


def save_evaluations(path: Path, found: Mapping[Role, Evaluation | None]) -> None:
    """Write evaluation.npz: for each role ROLE_matrix, ROLE_names, ROLE_groups, ROLE_counts."""
    arrays: dict[str, Any] = {}
    for role, one in found.items():
        if one is not None:
            arrays |= {
                f"{role}_matrix": one.matrix, f"{role}_names": np.array(one.names, dtype=np.str_),
                f"{role}_groups": np.array(one.groups, dtype=np.str_), f"{role}_counts": one.counts,
            }  # fmt: skip
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_evaluation(path: Path, role: Role) -> Evaluation | None:
    """Return one role of evaluation.npz; None where it was not scored.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if f"{role}_matrix" not in file:
                return None
            parts = {name: file[f"{role}_{name}"] for name in ("matrix", "names", "groups", "counts")}
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(
            "the run's scores of single images are missing or damaged", where=path,
            todo="remove metrics.json of that run and repeat its train command: it scores again",
        ) from error  # fmt: skip
    return Evaluation(parts["matrix"], tuple(parts["names"].tolist()), tuple(parts["groups"].tolist()), parts["counts"])
