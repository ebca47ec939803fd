"""Scores of a learner's networks on val and test."""

from __future__ import annotations

from typing import Any

import torch

from fewmask.data.folds import resampled_with
from fewmask.data.index import Role
from fewmask.engine.evaluate import Pictures, scores
from fewmask.engine.infer import PROTOCOLS, Forward
from fewmask.engine.learner import Learner
from fewmask.run.evaluation import Evaluation, counted
from fewmask.run.prepare import Prepared


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
        protocol = PROTOCOLS[self.prepared.recipe.protocol]
        both = counted(self.forward(predictor), items, self.pictures, len(index.classes), protocol, mine)
        sums = [self.learner.reduce(t.to(fabric.device)).cpu().numpy() for t in both]
        units = resampled_with(items, self.prepared.twins)
        return Evaluation(sums[0], tuple(i.name for i in items), tuple(i.group for i in items), sums[1], units)

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
