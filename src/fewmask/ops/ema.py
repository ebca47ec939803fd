"""Exponential moving average of a network (Tarvainen and Valpola, NeurIPS 2017)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def ema_copy(student: nn.Module) -> nn.Module:
    """Return a copy of ``student`` that no gradient reaches."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, buffers: bool = True) -> None:
    """Move ``teacher`` towards ``student``: θ' ← decay·θ' + (1-decay)·θ, in place.

    Args:
        teacher: changed.
        student: same structure.
        decay: 0 copies.
        buffers: average the floating buffers (BatchNorm statistics) too and copy the others; False leaves them to the
            teacher's own forward passes.
    """
    old: list[Tensor] = list(teacher.parameters())
    new: list[Tensor] = list(student.parameters())
    if buffers:
        for mine, its in zip(teacher.buffers(), student.buffers(), strict=True):
            if mine.is_floating_point():
                old.append(mine)
                new.append(its)
            else:
                mine.copy_(its)
    new = [n.to(o.dtype) for n, o in zip(new, old, strict=True)]  # no copies where the dtypes agree
    # one call for all tensors: a launch each would cost more than the arithmetic
    torch._foreach_lerp_(old, new, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]
