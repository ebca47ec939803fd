"""Trimmed convolutions equal the plain ones, in values and in gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fewmask.nets.trimmed import TrimmedConv2d, trim


def _both(conv: nn.Conv2d, x: torch.Tensor, dtype: torch.dtype | None = None) -> list[list[torch.Tensor]]:
    out = []
    for net in (conv, trim(copy.deepcopy(nn.Sequential(conv)))[0]):
        image = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            y = net(image)
        y.float().square().sum().backward()
        grads = [image.grad, *(p.grad for p in net.parameters())]
        out.append([y, *(g for g in grads if g is not None)])
    assert type(net) is TrimmedConv2d
    return out


@pytest.mark.parametrize("size", [(1, 1), (4, 5), (6, 8), (13, 12)])
@pytest.mark.parametrize("rate", [2, 6, 12])
@pytest.mark.parametrize("kernel", [3, 5, (1, 3)])
@pytest.mark.parametrize("depthwise", [True, False])
def test_equals_the_plain_convolution(size, rate, kernel, depthwise):
    torch.manual_seed(0)
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    conv = nn.Conv2d(
        4, 4, kernel, padding=[rate * (k // 2) for k in sides], dilation=rate, groups=4 if depthwise else 1
    )
    for plain, trimmed in zip(*_both(conv, torch.randn(2, 4, *size)), strict=True):
        torch.testing.assert_close(trimmed, plain, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("conv", [
    nn.Conv2d(8, 8, 3, padding=12, dilation=12, groups=8, bias=False),
    nn.Conv2d(8, 4, 3, padding=12, dilation=12),
    nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),
])  # fmt: skip
def test_autocast_gives_bf16_of_the_same_values(conv):
    torch.manual_seed(0)
    plain, trimmed = _both(conv, torch.randn(2, 8, 6, 8), torch.bfloat16)
    assert trimmed[0].dtype == plain[0].dtype == torch.bfloat16
    for a, b in zip(plain, trimmed, strict=True):
        assert (a.float() - b.float()).norm() <= 0.02 * a.float().norm()


def test_leaves_what_it_does_not_know():
    kept = [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=2),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same", dilation=2),
    ]
    assert all(type(m) is nn.Conv2d for m in trim(nn.Sequential(*kept)))


def test_names_of_the_weights_stay():
    conv = nn.Sequential(nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4))
    before = conv.state_dict().keys()
    assert trim(conv).state_dict().keys() == before
