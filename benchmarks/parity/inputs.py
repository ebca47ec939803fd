"""The tensors on which both sides compute: networks that are tables of logits, and batches of codes.

An image holds at each pixel the number of an image; a network returns there the logits that this image has at this
pixel. So mixing works as it does on photographs, every logit is a leaf, and its gradient does not depend on how the
images were grouped into forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fewmask.batch import IGNORE, Items, Slots
from fewmask.method import Step, Task

SEED = 20261120


@dataclass(frozen=True)
class Setting:
    """What one comparison is made on.

    Attributes:
        batch: images of every stream.
        classes: K.
        dtype: of logits and images.
        padding: whether images have a padded margin; without it every pixel is valid.
        void: share of the labelled pixels that are void.
        scale: standard deviation of the logits.
    """

    batch: int
    classes: int
    dtype: torch.dtype
    height: int = 33
    width: int = 47
    padding: bool = True
    void: float = 0.1
    scale: float = 3.0
    seed: int = SEED

    @cached_property
    def generator(self) -> torch.Generator:
        """The source of this setting's inputs; ``dataclasses.replace`` starts it anew."""
        return torch.Generator().manual_seed(self.seed)

    @property
    def task(self) -> Task:
        return Task(classes=self.classes)

    def network(self, images: int, modes_differ: bool = False) -> Table:
        """Return a table for images numbered 0..images-1."""
        shape = (images, self.classes, self.height, self.width)

        def draw() -> Tensor:
            return (torch.randn(shape, generator=self.generator, dtype=torch.float64) * self.scale).to(self.dtype)

        return Table(draw(), draw() if modes_differ else None)

    def codes(self, first: int) -> Tensor:
        """Return one image a number: first, first + 1, ..., [B, 1, H, W]."""
        numbers = torch.arange(first, first + self.batch, dtype=self.dtype)
        return numbers.view(-1, 1, 1, 1).expand(-1, 1, self.height, self.width).contiguous()

    def valid(self) -> Tensor:
        """Return bool [B, H, W]: each image but the first has a padded margin at the right and below."""
        valid = torch.ones(self.batch, self.height, self.width, dtype=torch.bool)
        for i in range(1, self.batch if self.padding else 0):
            rows = int(torch.randint(self.height // 2, self.height, (1,), generator=self.generator))
            columns = int(torch.randint(self.width // 2, self.width, (1,), generator=self.generator))
            valid[i, rows:] = False
            valid[i, :, columns:] = False
        return valid

    def labels(self, logits_BKHW: Tensor, valid_BHW: Tensor) -> Tensor:
        """Return int64 [B, H, W], the logits' classes under noise, so that the true class is often probable."""
        noise = torch.randn(logits_BKHW.shape, generator=self.generator, dtype=torch.float64) * self.scale / 2
        void = torch.rand(valid_BHW.shape, generator=self.generator) < self.void
        return (logits_BKHW.detach() + noise).argmax(1).masked_fill(void | ~valid_BHW, IGNORE)

    def step(self, t: int = 0, total: int = 100, **streams: int) -> Step:
        """Return step t on one rank; streams in the method's order."""
        slots = {
            name: Slots(first=0, count=n, key=key, size=n, items=1000) for key, (name, n) in enumerate(streams.items())
        }
        return Step(t, total, 0, 1, seed=self.seed, rank=0, slots=slots, reduce=lambda x: x)


class Table(nn.Module):
    """A network: codes [B, 1, H, W] -> logits [B, K, H, W]; in evaluation mode those of another table, if given."""

    def __init__(self, logits_NKHW: Tensor, in_eval_NKHW: Tensor | None = None) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits_NKHW)
        self.in_eval = in_eval_NKHW

    def forward(self, x: Tensor) -> Tensor:
        table = self.logits if self.training or self.in_eval is None else self.in_eval
        _, _, height, width = x.shape
        rows, columns = torch.arange(height).view(1, -1, 1), torch.arange(width).view(1, 1, -1)
        return table.permute(0, 2, 3, 1)[x[:, 0].long(), rows, columns].permute(0, 3, 1, 2)


def labelled(images: Tensor, labels: Tensor, valid: Tensor) -> Items:
    return Items((images,), ("weak",), valid, torch.arange(len(images)), labels)


def unlabelled(valid: Tensor, weak: Tensor, strong: Tensor | None = None) -> Items:
    views, kinds = ((weak,), ("weak",)) if strong is None else ((weak, strong), ("weak", "strong"))
    return Items(views, kinds, valid, torch.arange(len(weak)))
