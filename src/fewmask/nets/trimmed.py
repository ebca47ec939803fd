"""Convolutions without the work that cannot matter: equal results, less time on small maps and on CPUs.

An atrous convolution whose rate reaches past the map (ASPP's rates 12, 24, 36 on the map of a small crop) multiplies
padding by its outer taps. On CPUs, strided depthwise convolutions in bf16 take a reference kernel, twenty times slower
than the fp32 one, and so do atrous depthwise ones backwards: these become plain ones on the sub-grids of the map.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T", bound=nn.Module)


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
        if depthwise and input.device.type == "cpu":
            return self._on_subgrids(input, weight)
        return F.conv2d(input, weight, self.bias, 1, (above, left), self.dilation, self.groups)

    def _on_subgrids(self, input: Tensor, weight: Tensor) -> Tensor:
        """Convolve every d-th pixel on its own, with rate 1: an atrous convolution connects no others.

        Channels come last on the way, so that a pixel moves as one block.
        """
        (b, c, height, width), (d, e) = input.shape, self.dilation
        input = F.pad(input, (0, -width % e, 0, -height % d))  # zeros, as the padding that stood there
        h, w = input.shape[2] // d, input.shape[3] // e
        grids = input.permute(0, 2, 3, 1).reshape(b, h, d, w, e, c).permute(2, 4, 0, 1, 3, 5).reshape(-1, h, w, c)
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        out = F.conv2d(grids.permute(0, 3, 1, 2), weight, self.bias, 1, padding, 1, self.groups)
        out = out.permute(0, 2, 3, 1).reshape(d, e, b, h, w, c).permute(2, 3, 0, 4, 1, 5)
        return out.reshape(b, h * d, w * e, c)[:, :height, :width].permute(0, 3, 1, 2)

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


def untrim(net: T) -> T:
    """Turn what ``trim`` has turned back into ``nn.Conv2d``, in place, for graphs that hold no size of a map."""
    for module in net.modules():
        if isinstance(module, TrimmedConv2d):
            module.__class__ = nn.Conv2d  # pyright: ignore[reportAttributeAccessIssue]
    return net
