"""Adaptive average pooling as products with matrices: for exporters, and for a backward pass with a fixed order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class MatrixPool(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as products with matrices made from the size of the map, which no exporter refuses."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return the means of the cells, [B, C, *size]."""
        rows, columns = (_cells(n, x_BChw.shape[2 + axis], x_BChw) for axis, n in enumerate(self.size))
        return rows @ x_BChw @ columns.T


class SteadyPool(MatrixPool):
    """The same, by matrices only where a gradient is wanted: torch's backward pass adds in no fixed order on CUDA.

    Without gradient it is ``nn.AdaptiveAvgPool2d`` bit for bit, so that a delivered model scores as it did in its run.
    """

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Return the means of the cells, [B, C, *size]."""
        if x_BChw.requires_grad and torch.is_grad_enabled():
            return super().forward(x_BChw)
        return nn.functional.adaptive_avg_pool2d(x_BChw, self.size)


def replace_pools(net: nn.Module, by: Callable[[tuple[int, int]], nn.Module], single: bool = True) -> nn.Module:
    """Replace every adaptive average pooling inside a network, in place, and return the network.

    Args:
        net: changed.
        by: (rows, columns) of cells to what stands there then.
        single: those of one cell too, which are a plain mean.
    """
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.AdaptiveAvgPool2d or type(child) is SteadyPool:
                size = child.size if isinstance(child, SteadyPool) else child.output_size
                sides = size if isinstance(size, tuple) else (size, size)
                assert all(isinstance(side, int) for side in sides), "no network here keeps a side of the map"
                if single or sides != (1, 1):
                    setattr(module, name, by(sides))  # pyright: ignore[reportArgumentType]
    return net


def _cells(cells: int, length: int, like: Tensor) -> Tensor:
    """Return the weight of every pixel in every cell, [cells, length]; cell i covers ⌊i·l/n⌋ to ⌈(i + 1)·l/n⌉."""
    i = torch.arange(cells, device=like.device).unsqueeze(1)
    pixel = torch.arange(length, device=like.device)
    inside = ((pixel >= i * length // cells) & (pixel < ((i + 1) * length + cells - 1) // cells)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
