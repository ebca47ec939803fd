"""A network of a few thousand weights, for tests and dry runs: seconds, not minutes, and every kind of layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.nets.segmenter import Segmenter


class _Upsample(nn.Module):
    """A 1×1 classifier followed by bilinear upsampling."""

    def __init__(self, channels: int, classes: int, factor: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(channels, classes, 1)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.classify(x), scale_factor=self.factor, mode="bilinear", align_corners=False)


class _Stages(nn.Sequential):
    """One stage, that returns the images too, as encoders of several stages return all of their maps."""

    def forward(self, input: Tensor) -> list[Tensor]:
        return [input, super().forward(input)]


class _OfTheLast(nn.Sequential):
    def forward(self, input: list[Tensor]) -> Tensor:
        return super().forward(input[-1])


def tiny(classes: int, channels: int = 3, width: int = 8) -> Segmenter:
    """Return a stride-2 network with convolutions, BatchNorm and dropout."""
    encoder = _Stages(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
    )  # fmt: skip
    decoder = _OfTheLast(
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
    )  # fmt: skip
    return Segmenter(encoder, decoder, _Upsample(2 * width, classes, 2), stride=2)
