"""What the tests with numbers worked out by hand share: a network that is a table, and batches built by hand.

An image here holds codes: pixel value v stands for row v of the network's table of class probabilities. So a test can
choose the softmax of every pixel, and the gradient of a loss arrives in the table, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fewmask.batch import Items, Slots, ViewKind
from fewmask.method import Step
from fewmask.ops.rng import Draws, Purpose

Grid = Sequence[Sequence[int]]
Rows = Sequence[Sequence[float]]


@contextmanager
def double() -> Iterator[None]:
    """Let new tensors be float64, as the tables' probabilities are; networks promise float32 logits."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class Table(nn.Module):
    """A network whose softmax at a pixel of value v is the given row v.

    Attributes:
        seen: for each call the codes of its images, whether the network was training, whether gradients were on.
    """

    def __init__(self, probabilities: Rows) -> None:
        super().__init__()
        p = torch.tensor(probabilities, dtype=torch.float64)
        assert torch.allclose(p.sum(1), torch.ones(len(p), dtype=torch.float64))
        self.logits = nn.Parameter(p.log())
        self.seen: list[tuple[list, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x[:, 0].long().tolist(), self.training, torch.is_grad_enabled()))
        return self.logits[x[:, 0].long()].permute(0, 3, 1, 2)

    def gradient(self, loss: Tensor) -> list[list[float]]:
        """Return d loss / d logits, a row a code; zeros where the loss does not reach this network."""
        (g,) = torch.autograd.grad(loss, self.logits, retain_graph=True, allow_unused=True)
        return (torch.zeros_like(self.logits) if g is None else g).tolist()


def items(
    *views: Sequence[Grid],
    kinds: Sequence[ViewKind] = ("weak",),
    mask: Sequence[Grid] | None = None,
    valid: Sequence[Grid] | None = None,
    pseudo: Sequence[Grid] | None = None,
    source: Sequence[Grid] | None = None,
) -> Items:
    """Return a batch: each view a list of images, each image a grid of codes; valid defaults to everywhere.

    ``source`` is that of the one geo view.
    """
    images = tuple(torch.tensor(v, dtype=torch.float32).unsqueeze(1) for v in views)
    shape = (len(images[0]), *images[0].shape[2:])
    return Items(
        views=images,
        kinds=tuple(kinds),
        valid=torch.ones(shape, dtype=torch.bool) if valid is None else torch.tensor(valid).bool(),
        index=torch.arange(len(images[0])),
        mask=None if mask is None else torch.tensor(mask),
        pseudo=None if pseudo is None else torch.tensor(pseudo),
        source=() if source is None else (torch.tensor(source),),
    )


def step(t: int = 0, total: int = 100, **counts: int) -> Step:
    """Return step t on one rank; counts: stream name to images a step."""
    slots = {name: Slots(first=0, count=n, key=key, size=n, items=1000) for key, (name, n) in enumerate(counts.items())}
    return Step(t, total, 0, 1, seed=11, rank=0, slots=slots, reduce=lambda x: x)


class Dealt(Draws):
    """A source of random numbers that deals out the given ones, and no more."""

    def __init__(self, numbers: Sequence[float]) -> None:
        self.left = list(numbers)

    def words(self, n: int) -> np.ndarray:
        assert n <= len(self.left), "more numbers were drawn than dealt"
        now, self.left = self.left[:n], self.left[n:]
        return np.array([int(u * 2**53) << 11 for u in now], np.uint64)


@dataclass(frozen=True)
class DealtStep(Step):
    """A step whose streams draw the given numbers.

    Attributes:
        dealt: stream name to the numbers of each of its images.
    """

    dealt: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    def draws(self, stream: str, purpose: Purpose = Purpose.MIX, view: int = 0) -> list[Draws]:
        assert (purpose, view) == (Purpose.MIX, 0)
        return [Dealt(numbers) for numbers in self.dealt[stream]]


def ce(p: Sequence[float], label: int) -> float:
    """Return ℓ_ce of one pixel: minus the logarithm of the label's probability."""
    return -math.log(p[label])


def squared(p: Sequence[float], q: Sequence[float]) -> float:
    """Return ‖p - q‖², summed over the classes."""
    return math.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True))


def top(p: Sequence[float]) -> int:
    """Return the class of the largest probability."""
    return max(range(len(p)), key=lambda c: p[c])


def slope(p: Sequence[float], label: int) -> list[float]:
    """Return d ℓ_ce / d logits of one pixel: p - onehot."""
    return [v - (c == label) for c, v in enumerate(p)]


def total_slope(rows: int, weighted: Sequence[tuple[float, int, Sequence[float]]]) -> list[list[float]]:
    """Return the sum over (weight, code, slope) as a table of `rows` rows."""
    width = len(weighted[0][2])
    table = [[0.0] * width for _ in range(rows)]
    for weight, code, s in weighted:
        for c in range(width):
            table[code][c] += weight * s[c]
    return table
