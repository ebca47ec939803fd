"""Convolutions without the work that cannot matter: equal results, less time on small maps and on CPUs.

An atrous convolution whose rate reaches past the map (ASPP's rates 12, 24, 36 on the map of a small crop) multiplies
padding by its outer taps. Strided depthwise convolutions in bf16 take a reference kernel on CPUs, twenty times slower
than the fp32 one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TrimmedConv2d(nn.Conv2d):
    """A convolution that leaves out the taps which can only meet padding; weights and results are ``nn.Conv2d``'s.

    Not constructed: ``trim`` turns the convolutions of a network that can gain into it.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of [B, C, h, w]."""
        depthwise = self.groups == self.in_channels == self.out_channels
        if self.stride != (1, 1):
            return self._strided(input)
        (rows, above), (columns, left) = (self._taps(axis, input.shape[2 + axis]) for axis in (0, 1))
        weight = self.weight[:, :, rows, columns]
        if depthwise and weight.shape[2:] == (1, 1):
            dtype = torch.get_autocast_dtype(input.device.type) if _autocasts(input) else input.dtype
            scaled = input.to(dtype) * weight.to(dtype).view(1, -1, 1, 1)
            return scaled if self.bias is None else scaled + self.bias.to(dtype).view(1, -1, 1, 1)
        return F.conv2d(input, weight, self.bias, 1, (above, left), self.dilation, self.groups)

    def _taps(self, axis: int, size: int) -> tuple[slice, int]:
        """Return the taps of one axis that reach a map of ``size``, and the padding that they need."""
        rate, middle = self.dilation[axis], self.kernel_size[axis] // 2
        reach = min(middle, (size - 1) // rate)
        return slice(middle - reach, middle + reach + 1), reach * rate

    def _strided(self, input: Tensor) -> Tensor:
        if input.device.type != "cpu" or not _autocasts(input):
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            out = super().forward(input.float().contiguous(memory_format=torch.channels_last))
        return out.to(torch.get_autocast_dtype("cpu"))


def _autocasts(input: Tensor) -> bool:
    return torch.is_autocast_enabled(input.device.type)


def trim(net: nn.Module) -> nn.Module:
    """Turn the convolutions of ``net`` that can gain into ``TrimmedConv2d``, in place; names and weights stay.

    Args:
        net: any network; returned.
    """
    for module in net.modules():
        if type(module) is not nn.Conv2d or module.padding_mode != "zeros" or isinstance(module.padding, str):
            continue
        same = all(
            k % 2 and p == r * (k // 2)
            for k, p, r in zip(module.kernel_size, module.padding, module.dilation, strict=True)
        )
        atrous = same and module.stride == (1, 1) and max(module.dilation) > 1
        strided = module.stride != (1, 1) and module.groups == module.in_channels > 1
        if atrous or strided:
            module.__class__ = TrimmedConv2d
    return net
