"""Memory banks: ring buffers on the device, checkpointed with the networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ClassBanks(nn.Module):
    """The newest features of each class, first in first out.

    A step's cost does not depend on the length: nothing is moved, and only what is pushed or drawn is touched.

    Args:
        classes: K.
        length: L, features a class.
        dim: D.

    Attributes:
        features: float32 [K, L, D].
        pushed: int64 [K], features that a class has been given so far.
    """

    features: Tensor
    pushed: Tensor

    def __init__(self, classes: int, length: int, dim: int) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("features", torch.zeros(classes, length, dim))
        self.register_buffer("pushed", torch.zeros(classes, dtype=torch.int64))

    @property
    def held(self) -> Tensor:
        """How many features each class holds, int64 [K]."""
        return self.pushed.clamp(max=self.length)

    def newest(self, age_KN: Tensor) -> Tensor:
        """Return features by age, [K, N, D]: 0 is the one pushed last; ages from ``held`` on hold nothing.

        Args:
            age_KN: int64 [K, N].
        """
        place_KN = (self.pushed.unsqueeze(1) - 1 - age_KN) % self.length
        return self.features[torch.arange(len(self.pushed), device=place_KN.device).unsqueeze(1), place_KN]

    def products(self, age_KMN: Tensor, other_KMD: Tensor) -> Tensor:
        """Return the scalar product of features with vectors, [K, M, N]; gradients flow to the vectors.

        On a CPU class by class: the features of one fit into its cache between reading and multiplying, those of all
        would go to memory and back.

        Args:
            age_KMN: int64, which features; see ``newest``.
            other_KMD: float, M vectors a class, each with N features.
        """
        if self.features.device.type != "cpu":
            features = self.newest(age_KMN.flatten(1)).unflatten(1, age_KMN.shape[1:])
            return (features @ other_KMD.unsqueeze(-1)).squeeze(-1)
        place_KX = ((self.pushed.view(-1, 1, 1) - 1 - age_KMN) % self.length).flatten(1)
        each = zip(self.features, place_KX, other_KMD, strict=True)
        rows = ((f.index_select(0, place).unflatten(0, age_KMN.shape[1:]), other) for f, place, other in each)
        return torch.stack([(row @ other.unsqueeze(-1)).squeeze(-1) for row, other in rows])

    @torch.no_grad()
    def push(self, features_KPD: Tensor, real_KP: Tensor) -> None:
        """Append the features that are real, in their order; the oldest make room.

        Without a copy to the host: what is not real is written as a repetition of a place that keeps its content.

        Args:
            features_KPD: of more than L real ones a class the last L count.
            real_KP: bool.
        """
        rank_KP = real_KP.long().cumsum(1)
        real_KP = real_KP & (rank_KP > rank_KP[:, -1:] - self.length)
        classes = torch.arange(len(self.pushed), device=real_KP.device).unsqueeze(1)
        order_KP = torch.where(real_KP, real_KP.long().cumsum(1) - 1, 0)
        place_KP = (self.pushed.unsqueeze(1) + order_KP) % self.length
        first_K1 = real_KP.long().argmax(1, keepdim=True)  # the row that stands in for those that are not real
        new, kept = features_KPD.to(self.features), self.features[classes, place_KP[:, :1]]
        stand_in = torch.where(real_KP.any(1)[:, None, None], new[classes, first_K1], kept)
        self.features[classes, place_KP] = torch.where(real_KP.unsqueeze(-1), new, stand_in)
        self.pushed += real_KP.sum(1)
