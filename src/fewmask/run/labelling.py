"""Pseudo-labels between the rounds of a run: which network labels which images, and where the files lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.config import load_json
from fewmask.data.index import Item, Pools
from fewmask.engine.checkpoint import Store
from fewmask.engine.faults import site
from fewmask.engine.files import write_json
from fewmask.engine.flatten import load_networks
from fewmask.engine.infer import PROTOCOLS
from fewmask.engine.label import confident, write_labels
from fewmask.engine.label_pass import Predict, Share, label_file, stop_together
from fewmask.engine.learner import Learner
from fewmask.engine.signals import StopRequest
from fewmask.errors import CheckpointError, DataError
from fewmask.method import Labelling, Part, Round
from fewmask.ops.metrics import agreement, confusion
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Notes
from fewmask.run.prepare import Prepared
from fewmask.run.score import Scorer
from fewmask.run.training import learner_of, pictures_of


class Labeller:
    """Labels the images that a round asks for, with the networks of the rounds before it.

    A labelling's files lie in ``pseudo/`` of the first round that holds it; later rounds read them there. A ranking
    lies in ``ranking.json`` of the round whose networks were compared.

    Args:
        prepared: data, recipe and folder of the run.
        rounds: all of them.
        steps: of each.
        fabric: launched.
        say: receives one sentence for each decision.
    """

    def __init__(
        self, prepared: Prepared, rounds: Sequence[Round], steps: Sequence[int], fabric: Any, say: Notes
    ) -> None:  # fmt: skip
        self.prepared, self.rounds, self.steps = prepared, rounds, steps
        self.fabric, self.say = fabric, say
        self.number = {r.name: n for n, r in enumerate(rounds)}
        self.first = fabric.global_rank == 0
        self.skip = prepared.recipe.data.on_bad_unlabelled == "skip"

    def folder(self, n: int) -> RunFolder:
        """Return the run folder of a round."""
        return RunFolder(self.prepared.folder).round(n, self.rounds[n].name)

    def milestones(self, n: int) -> tuple[int, ...]:
        """Return the steps of a round after which its networks are kept."""
        return tuple(max(1, round(share * self.steps[n])) for share in self.rounds[n].keep)

    def networks(self, n: int, step: int | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the networks of a finished round, and what names them; the first rank reads them.

        Args:
            n: the round.
            step: one of its milestones; None = its last one.
        """
        found = None
        if self.first:
            store, at = Store(self.folder(n).path, warn=self.say), step or self.steps[n]
            found = store.load(at).networks, {"round": self.rounds[n].name, "step": at, "sha256": store.digest(at)}
        return self.fabric.broadcast(found)

    def reported(self, n: int, networks: dict[str, Tensor]) -> nn.Module:
        """Return the network that a round is known by, without further heads, from its networks."""
        learner = self._learner(n, networks)
        return learner.method.network(learner.nets, learner.method.predictors[0])

    def pools(self, n: int) -> Pools:
        """Return the images that a round trains on, with its pseudo-labels, which are made now if they are missing."""
        pools, label = self.prepared.pools, dict[str, Path]()
        for one in self.rounds[n].labels:
            folder = self.folder(self._first_with(one)).pseudo
            label |= {item.name: label_file(folder, item) for item in self._label(one, folder)}

        def known(items: Sequence[Item]) -> tuple[Item, ...]:
            return tuple(replace(item, pseudo=label[item.name]) for item in items if item.name in label)

        also = any(one.pool == "labelled+unlabelled" for one in self.rounds[n].labels)
        return Pools(known(pools.labelled) if also else pools.labelled, known(pools.unlabelled))

    def _first_with(self, one: Labelling) -> int:
        n = next(n for n, r in enumerate(self.rounds) if one in r.labels)
        fresh = [other for other in self.rounds[n].labels if not any(other in r.labels for r in self.rounds[:n])]
        assert fresh == [one], "a round makes one set of labels; others are those of rounds before"
        return n

    def _label(self, one: Labelling, folder: Path) -> list[Item]:
        """Make one set of labels, or find it, and return its images."""
        pools, by = self.prepared.pools, self.number[one.by]
        items = [*(pools.labelled if one.pool == "labelled+unlabelled" else ()), *pools.unlabelled]
        items = [item.without_mask() for item in items]
        if one.part is not None:
            items = self._part(items, one.part)
        networks, source = self.networks(by)
        recipe = self.prepared.recipe
        protocol = PROTOCOLS[recipe.protocol]
        protocol = protocol.but(scales=one.scales, flip=protocol.flip or one.flip)

        @cache
        def network() -> Predict:  # built for labels that are not there yet
            scorer = self._scorer(by, networks)
            return confident(scorer.forward(scorer.reported), scorer.pictures, protocol, one.select.temperature)

        how = {"views": {"scales": list(one.scales), "flip": protocol.flip}} if one.flip or one.scales != (1.0,) else {}
        with StopRequest() as stop:
            found = write_labels(
                lambda item, least_K=None: network()(item, least_K), items, folder, one.select,
                self.prepared.index.classes, frequency=self.prepared.task.frequency, seed=recipe.train.seed,
                turn=self._first_with(one),
                source=source | how, share=Share.of(self.fabric), say=self.say,
                stop=lambda: stop.name if stop.requested else "", skip=self.skip,
            )  # fmt: skip
        site("round.labelled")
        unread = found.get("unread", {})
        return [item for item in items if item.name not in unread]

    def _scorer(self, n: int, networks: dict[str, Tensor]) -> Scorer:
        """Return what predicts with the networks of a round."""
        learner, maker = self._learner(n, networks), self._maker(n)
        return Scorer(learner, maker, pictures_of(maker, learner))

    def _learner(self, n: int, networks: dict[str, Tensor]) -> Learner:
        # only predicts: a rank whose images are all labelled already never makes it, and the others must not wait
        learner = learner_of(self._maker(n), self.rounds[n].method, self.fabric, trains=False)
        load_networks(learner.nets, networks)
        return learner

    def _maker(self, n: int) -> Prepared:
        return replace(self.prepared, folder=self.folder(n).path)

    def _part(self, items: Sequence[Item], part: Part) -> list[Item]:
        """Return a part of the images, in their order; of a single one the first part has it."""
        stability = self._ranking(items, part.ranker)
        ranked = sorted(items, key=lambda item: -stability[item.name])  # of equal ones the first in the pool
        cut = [math.ceil(share * len(ranked) - 1e-9) for share in (part.low, part.high)]
        chosen = {item.name for item in ranked[cut[0] : cut[1]]}
        return [item for item in items if item.name in chosen]

    def _ranking(self, items: Sequence[Item], ranker: str) -> dict[str, float]:
        """Return how stable each image's prediction was, from ranking.json or by comparing the kept networks."""
        n = self.number[ranker]
        file = self.folder(n).ranking
        assert self.milestones(n), f"round {ranker!r} keeps no networks to rank with"
        steps = [*self.milestones(n), self.steps[n]]
        if len(set(steps)) < len(steps):
            self.say(f"the teacher has {self.steps[n]} steps: too few to rank images by, some networks are the same")
        try:
            kept = [self.networks(n, step) for step in steps]
        except CheckpointError as error:
            raise CheckpointError(
                "a network that images are ranked with is lost", where=error.where,
                todo=f"remove {self.folder(n).path}: that round is trained again",
            ) from error  # fmt: skip
        sources = [source for _, source in kept]
        found = self.fabric.broadcast(_stability(file, sources, items) if self.first and file.is_file() else None)
        if found is not None:
            return found
        scorers = [self._scorer(n, networks) for networks, _ in kept]
        stability = self._compare(items, scorers)
        if self.first:
            write_json(file, {"networks": sources, "stability": stability})
        self.say(f"ranked {len(items)} images by how stable their predictions were, in {file}")
        return stability

    def _compare(self, items: Sequence[Item], scorers: Sequence[Scorer]) -> dict[str, float]:
        share, classes = Share.of(self.fabric), len(self.prepared.index.classes)
        protocol = PROTOCOLS[self.prepared.recipe.protocol]
        predict = [confident(s.forward(s.reported), s.pictures, protocol) for s in scorers]
        micro_N, who = np.zeros(len(items), dtype=np.int64), ""  # integers: their sum over ranks is exact
        with StopRequest() as stop:
            for number, item in list(enumerate(items))[share.rank :: share.world]:
                site("rank.inside")
                try:
                    *early, last = (torch.from_numpy(one(item)[0]) for one in predict)
                except DataError:
                    if not self.skip:
                        raise
                else:  # one that is passed over stands last, and is met again when it is labelled
                    same = [agreement(confusion(one, last, classes)) for one in early]
                    micro_N[number] = round(sum(same) / len(same) * 1e6)
                if stop.requested:
                    who = stop.name
                    break
            stop_together(who, share, "while ranking", kept="the ranking begins again")
        return {item.name: int(micro) / 1e6 for item, micro in zip(items, share.sum(micro_N), strict=True)}


def _stability(file: Path, sources: Sequence[dict[str, Any]], items: Sequence[Item]) -> dict[str, float]:
    """Return item to stability from ranking.json.

    Args:
        file: the ranking.
        sources: the networks that must have been compared.
        items: the images that must have been ranked.

    Raises:
        CheckpointError: it is damaged, or of other networks or images.
    """
    try:
        found = load_json(file.read_text(encoding="utf-8"))
        stability = found["stability"]
        ours = found["networks"] == list(sources) and stability.keys() == {item.name for item in items}
        sound = ours and all(math.isfinite(value) for value in stability.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sound, stability = False, {}
    if not sound:
        raise CheckpointError(
            "the ranking cannot be read, or is of other networks or images", where=file,
            todo="remove it: it is made again",
        )  # fmt: skip
    return stability
