"""DeepLabV2 and the dilated PSPNet, which three-stage self-training and DARS use, on any encoder that can be dilated.

The library's PSPNet stops at the encoder's third stage; the published one runs all stages at an output stride of 8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from fewmask.nets.segmenter import Segmenter
from fewmask.nets.trimmed import trim

STRIDE = 8
"""Of the encoders' last map."""


class _Last(nn.Module):
    """The encoder's last map."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        return features[-1]


class SummedASPP(nn.Module):
    """DeepLabV2's classifier: 3×3 convolutions of four rates to the classes, summed (Chen et al., TPAMI 2018).

    Args:
        channels: of the map.
        classes: K.
        rates: of the convolutions (ASPP-L of the paper).
    """

    def __init__(self, channels: int, classes: int, rates: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, classes, 3, padding=rate, dilation=rate) for rate in rates
        )  # fmt: skip
        for branch in self.branches:
            nn.init.normal_(branch.weight, std=0.01)  # pyright: ignore[reportArgumentType]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, K, h, w]."""
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


class PyramidPooling(nn.Module):
    """PSPNet's module: means over 1, 4, 9 and 36 regions beside the map itself, mixed (Zhao et al., CVPR 2017).

    Args:
        channels: C of the map.
        width: of the output.
        bins: regions a side.
    """

    def __init__(self, channels: int, width: int = 512, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        part = channels // len(bins)
        self.parts = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(n), *_convolution(channels, part, 1)) for n in bins
        )  # fmt: skip
        self.mix = nn.Sequential(*_convolution(channels + part * len(bins), width, 3), nn.Dropout2d(0.1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return [B, width, h, w] for the encoder's maps."""
        x = features[-1]
        means = [F.interpolate(p(x), x.shape[-2:], mode="bilinear", align_corners=False) for p in self.parts]
        return self.mix(torch.cat((x, *means), dim=1))


def _convolution(inputs: int, outputs: int, side: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def _raised(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Upsample(scale_factor=STRIDE, mode="bilinear", align_corners=False))


def _encoder(name: str, channels: int, weights: str | None) -> tuple[nn.Module, int]:
    encoder = get_encoder(name, in_channels=channels, depth=5, weights=weights, output_stride=STRIDE)
    return trim(encoder), encoder.out_channels[-1]


def deeplabv2(encoder: str, classes: int, channels: int, weights: str | None) -> Segmenter:
    """Return DeepLabV2: a dilated encoder and four summed classifiers.

    Args:
        encoder: one that can be dilated.
        classes: K.
        channels: input channels.
        weights: None = drawn; else the library's ImageNet weights.
    """
    net, width = _encoder(encoder, channels, weights)
    return Segmenter(net, _Last(), _raised(SummedASPP(width, classes)), STRIDE)


def pspnet_dilated(encoder: str, classes: int, channels: int, weights: str | None) -> Segmenter:
    """Return PSPNet on a dilated encoder; see ``deeplabv2``."""
    net, width = _encoder(encoder, channels, weights)
    return Segmenter(net, PyramidPooling(width), _raised(nn.Conv2d(512, classes, 1)), STRIDE)


DILATED: dict[str, Callable[[str, int, int, str | None], Segmenter]] = {
    "deeplabv2": deeplabv2, "pspnet_dilated": pspnet_dilated,
}  # fmt: skip
"""Architectures of ours that take an encoder of the library."""
