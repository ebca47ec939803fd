"""What the tests of FixMatch by hand share: tables of softmaxes, a batch of two 2x2 images, and a step of losses."""

from __future__ import annotations

import torch

from fewmask.batch import Batch
from fewmask.method import Task
from fewmask.methods.fixmatch import FixMatch
from hand import Table, ce, items, step

# rows 0-1: labelled; 2-5: weak views, of falling confidence; 6-8: strong views
S = [
    (0.6, 0.3, 0.1),
    (0.2, 0.5, 0.3),
    (0.97, 0.02, 0.01),
    (0.02, 0.96, 0.02),
    (0.05, 0.05, 0.9),
    (0.4, 0.35, 0.25),
    (0.5, 0.2, 0.3),
    (0.1, 0.15, 0.75),
    (0.3, 0.6, 0.1),
]
# of the moving average: other labels, other confidences
T = [S[0], S[1], (0.01, 0.01, 0.98), (0.5, 0.3, 0.2), (0.02, 0.97, 0.01), (0.99, 0.005, 0.005), *S[6:]]

LABELLED, MASK = [[0, 1], [1, 0]], [[0, 1], [2, 255]]
SUP = (ce(S[0], 0) + ce(S[1], 1) + ce(S[1], 2)) / 3
WEAK, STRONG = [[2, 3], [4, 5]], [[6, 7], [8, 6]]


def method(**config: object) -> FixMatch:
    return FixMatch(FixMatch.Config.model_validate(config), Task(3))


def small(valid: list | None = None) -> Batch:
    u = items([WEAK], [STRONG], kinds=("weak", "strong"), valid=None if valid is None else [valid])
    return {"l": items([LABELLED], mask=[MASK]), "u": u}


def run(m: FixMatch, batch: Batch, **nets: Table) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    memo: dict[str, torch.Tensor] = {}
    out = m.losses(nets or {"student": Table(S)}, batch, step(3, 100, l=1, u=len(batch["u"])), memo)
    assert set(out) == set(m.flow) == {"sup", "unsup"} and all(v.shape == () for v in out.values())
    return out, memo
