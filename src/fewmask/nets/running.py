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
    def update(self, value_K: Tensor, decay: float, known: Tensor) -> None:
        """Move to decay·mean + (1 - decay)·value, in place, where ``known``, bool [K] or [], and nowhere else."""
        moved_K = self.mean.lerp(value_K.to(self.mean), 1.0 - decay)
        self.mean.copy_(torch.where(known, moved_K, self.mean))
