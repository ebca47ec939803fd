"""What the tests of U2PL by hand share: networks as tables of probabilities and features, and 2x2 images.

Teacher and student are read by code. Codes 0-3 are the labelled image with y = 0, 1, 2 and void, codes 4-7 the
unlabelled one. K = 3, so that r_l = min(3, K - 1) = 2 and r_h = min(20, K) = 3.

    code  p teacher      H      at α = .2        in
    0     .6  .3  .1     .898   y = 0            A_0, N_1 (O(1) = 1 < 2)
    1     .5  .2  .3     1.03   y = 1, p = .2    N_0 (O = 0), N_2 (O = 1); no anchor, for .2 is not above δ_p = .3
    2     .1  .2  .7     .802   y = 2            A_2, N_1
    3     .2  .5  .3     1.03   void             nothing
    4     .9  .05 .05    .394   reliable, ŷ = 0  A_0
    5     .05 .8  .15    .613   reliable, ŷ = 1  A_1
    6     .2  .2  .6     .950   reliable, ŷ = 2  A_2
    7     .4  .3  .3     1.09   unreliable       N_2 (of the equal 1 and 2, 1 stands first: O(2) = 2)

γ is the 80 % quantile of four: 2.4 places up, .950 + .4·(1.09 - .950). The features are such that all anchors of a
class have one direction, and so have all its negatives; L_c does not depend on what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fewmask.batch import Batch
from fewmask.method import Step, Task
from fewmask.methods.u2pl import U2PL
from fewmask.nets.bank import ClassBanks
from fewmask.nets.running import RunningMean
from hand import Rows, Table, double, items, step

T: list[tuple[float, ...]] = [
    (0.6, 0.3, 0.1),
    (0.5, 0.2, 0.3),
    (0.1, 0.2, 0.7),
    (0.2, 0.5, 0.3),
    (0.9, 0.05, 0.05),
    (0.05, 0.8, 0.15),
    (0.2, 0.2, 0.6),
    (0.4, 0.3, 0.3),
]
S: list[tuple[float, ...]] = [
    (0.5, 0.3, 0.2),
    (0.25, 0.35, 0.4),
    (0.3, 0.1, 0.6),
    (0.1, 0.1, 0.8),
    (0.55, 0.25, 0.2),
    (0.3, 0.45, 0.25),
    (0.15, 0.5, 0.35),
    (0.2, 0.3, 0.5),
]
# features of teacher and student; the centres are (1, 1), (3, 4) and (1, -1), as directions (1, 1)/√2, (.6, .8), ...
Z_T: list[tuple[float, float]] = [(2, 0), (0, 1), (1, 0), (9, 9), (0, 2), (3, 4), (1, -2), (0, 5)]
Z_S: list[tuple[float, float]] = [(1, 0), (7, 3), (0, -1), (5, 5), (3, 0), (0, 2), (0, -4), (2, 9)]
ROWS = len(T)
LABELLED, MASK, WEAK = [[0, 1], [2, 3]], [[0, 1], [2, 255]], [[4, 5], [6, 7]]
# cosine of the anchors of each class with their centre, and with their negatives
POSITIVE = (math.sqrt(0.5), 0.8, math.sqrt(0.5))
NEGATIVE = (0.0, 0.0, -1.0)


def H(p: Sequence[float]) -> float:
    """Return the entropy, Eq. 5."""
    return -math.fsum(v * math.log(v) for v in p)


def nce(positive: float, negative: float, draws: int, tau: float) -> float:
    """Return one summand of Eq. 4 with so many equal negatives."""
    return -math.log(math.exp(positive / tau) / (math.exp(positive / tau) + draws * math.exp(negative / tau)))


class Featured(nn.Module):
    """A table of probabilities and one of features: (logits, features on a grid of every n-th pixel)."""

    def __init__(self, probabilities: Rows, features: Rows, every: int = 1) -> None:
        super().__init__()
        self.table, self.every = Table(probabilities), every
        self.features = nn.Parameter(torch.tensor(features, dtype=torch.float64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        codes = x[:, 0, :: self.every, :: self.every].long()
        return self.table(x), self.features[codes].permute(0, 3, 1, 2)

    def gradient(self, loss: Tensor) -> list[list[float]]:
        """Return d loss / d features, a row a code."""
        (g,) = torch.autograd.grad(loss, self.features, retain_graph=True, allow_unused=True)
        return (torch.zeros_like(self.features) if g is None else g).tolist()


def method(classes: int = 3, **config: object) -> U2PL:
    """Return U2PL without mixing, unless the config says otherwise."""
    return U2PL(U2PL.Config.model_validate({"cutmix": 0.0, "dim": 2, "bank": 16} | config), Task(classes))


def networks(
    m: U2PL, s: Rows = S, t: Rows = T, z_s: Rows = Z_S, z_t: Rows = Z_T, every: int = 1, sigma: Sequence[float] = ()
) -> dict:
    """Return student, teacher, banks and σ (0 unless given) as the method's constants ask for them."""
    confidence = {"confidence": RunningMean(sigma or [0.0] * m.task.classes)} if m.config.augment == "ael" else {}
    if not m.config.lam_c:
        return {"student": Table(s), "teacher": Table(t).requires_grad_(False)} | confidence
    nets: dict[str, nn.Module] = {"student": Featured(s, z_s, every), "teacher": Featured(t, z_t, every)}
    nets.update(confidence)
    if m.config.bank:
        with double():
            nets["bank"] = ClassBanks(m.task.classes, m.config.bank, len(z_t[0]))
    return nets


def batch(
    weak: Sequence = (WEAK,), mask: Sequence = (MASK,), lab: Sequence = (LABELLED,), valid: object = None
) -> Batch:
    """Return labelled and unlabelled images; the default is the module's table."""
    return {"l": items(lab, mask=mask), "u": items(weak, valid=valid)}  # pyright: ignore[reportArgumentType]


def at(t: int = 0, total: int = 100, epoch: int = 0, epochs: int = 1, images: int = 1) -> Step:
    """Return the step."""
    return replace(step(t, total, l=images, u=images), epoch=epoch, epochs=epochs)


def run(m: U2PL, b: Batch | None = None, nets: dict | None = None, now: Step | None = None) -> tuple[dict, dict]:
    """Return the terms, each a scalar that is attached to the graph, and the memo."""
    memo: dict[str, Tensor] = {}
    b = batch() if b is None else b
    with double():
        out = m.losses(nets or networks(m), b, now or at(images=len(b["u"])), memo)
    assert set(out) == set(m.flow) and all(v.shape == () and v.requires_grad for v in out.values())
    assert not any(v.requires_grad for v in memo.values())
    return out, memo
