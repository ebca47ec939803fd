"""A network for small images and no pretrained weights: it learns from scratch in minutes on two cores.

The large encoders of segmentation_models_pytorch go to stride 32 and have millions of weights, which a thousand steps
from scratch cannot move far. This one stays at stride 4, and dilation lets it see 119 pixels around.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.nets.segmenter import Segmenter


def _convolution(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a 3×3 convolution with BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Residual(nn.Module):
    """Two dilated convolutions around a shortcut (He et al., CVPR 2016)."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels, dilation=dilation)
        self.second = _convolution(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class _Encoder(nn.Module):
    """Images to features at stride 2 and at stride 4."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(_convolution(channels, width // 2, stride=2), nn.ReLU(inplace=True))
        self.coarse = nn.Sequential(
            _convolution(width // 2, width, stride=2), nn.ReLU(inplace=True),
            _Residual(width, 1), _Residual(width, 2), _Residual(width, 4),
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        fine = self.fine(x)
        return [fine, self.coarse(fine)]


class _Decoder(nn.Module):
    """Both features to one map at stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fuse = _convolution(width // 2 + width, width // 2)
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, features: list[Tensor]) -> Tensor:
        fine, coarse = features
        coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
        return self.dropout(F.relu(self.fuse(torch.cat((fine, coarse), dim=1))))


class _Head(nn.Module):
    """A 1×1 classifier followed by bilinear upsampling."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.classify(x), scale_factor=2, mode="bilinear", align_corners=False)


def small(classes: int, channels: int = 3, width: int = 48) -> Segmenter:
    """Return a dilated residual network of about 0.15 million weights, stride 4."""
    return Segmenter(_Encoder(channels, width), _Decoder(width), _Head(width // 2, classes), stride=4)
