"""What a step computes, counted: multiplications, operations, and waits for a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_WAITS = frozenset({"_local_scalar_dense", "nonzero", "is_nonzero", "equal"})


@dataclass(frozen=True)
class Counts:
    """What a call did.

    Attributes:
        flops: floating point operations of matrix products and convolutions, forward and backward.
        ops: ATen operations.
        syncs: those among them for whose value the host waits.
    """

    flops: int
    ops: int
    syncs: int


class _Ops(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops = self.syncs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += 1
        self.syncs += func.overloadpacket.__name__ in _WAITS
        return func(*args, **(kwargs or {}))


def counted(run: Callable[[], Any]) -> Counts:
    """Call a function, and return what it did."""
    own: dict[Any, Any] = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=own) as flops, _Ops() as ops:
        run()
    return Counts(flops.get_total_flops(), ops.ops, ops.syncs)


def _convolution_backward(grad: Any, x: Any, weight: Any, *others: Any, out_shape: Any = None, **_: Any) -> int:
    """Two passes like the forward one, without the gradient of the images. torch's own formula forgets groups."""
    wanted = others[-1]
    forward = 2 * grad[0] * math.prod(weight) * math.prod(grad[2:])
    return forward * sum(wanted[:2])
