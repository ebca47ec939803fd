"""Statistics that a method keeps beside its networks: checkpointed like them, never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """Moving average of the share that each class has.

    Args:
        start: its value before the first update, length K.

    Attributes:
        mean: float32 [K].
    """

    mean: Tensor

    def __init__(self, start: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(start, dtype=torch.float32))

    @classmethod
    def of(cls, nets: Mapping[str, nn.Module], name: str) -> RunningMean:
        """Return the one of that name among a method's networks."""
        found = nets[name]
        assert isinstance(found, cls)
        return found

    @torch.no_grad()
    def update(self, sum_K: Tensor, decay: float) -> None:
        """Move to decay·mean + (1 - decay)·share, in place; share = sum / Σ sum, and no move where that is 0."""
        total = sum_K.sum()
        share_K = torch.where(total > 0, sum_K / total, self.mean.to(sum_K))
        self.mean.lerp_(share_K.to(self.mean), 1.0 - decay)
