"""Statistics that a method keeps beside its networks: checkpointed like them, never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """Moving average of one number a class.

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
    def update(self, sums_K: Tensor, count: Tensor, decay: float) -> None:
        """Move to decay·mean + (1 - decay)·sums/count, in place; where ``count``, [K] or [], is 0 it stays."""
        moved_K = self.mean.lerp((sums_K / count.clamp(min=1)).to(self.mean), 1.0 - decay)
        self.mean.copy_(torch.where(count > 0, moved_K, self.mean))
