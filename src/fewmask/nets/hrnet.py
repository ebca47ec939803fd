"""HRNet with the segmentation head HRNetV2, on the branches of timm's HRNets.

Wang et al., Deep High-Resolution Representation Learning for Visual Recognition, TPAMI 2020 (arXiv:1908.07919),
sections 3.3 (HRNetV2) and 5: the maps of all resolutions, brought to the finest, are concatenated, mixed by a 1×1
convolution and classified. Departures from the authors' segmentation code are numbered in ``docs/architectures.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from fewmask.errors import ConfigError
from fewmask.nets.segmenter import Segmenter

NAME = "hrnet"
"""Of the architecture."""

_STRIDE, _FINEST = 32, 4
"""Of the coarsest branch, which input sizes must divide by, and of the finest, where the head works."""


class HRNetV2Decoder(nn.Module):
    """The branches at the resolution of the finest, concatenated and mixed.

    Args:
        channels: of the branches, finest first. HRNet-W48: 48, 96, 192, 384, together 720.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        width = sum(channels)
        self.branches = len(channels)
        self.mix = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return [B, ΣC, h, w], at stride 4, for maps of which the branches are the last."""
        finest, *coarser = features[-self.branches :]
        size = finest.shape[-2:]
        raised = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in coarser]
        return self.mix(torch.cat((finest, *raised), dim=1))


def hrnets() -> list[str]:
    """Return the encoders that the architecture takes; a tag of timm's weights may follow after a dot."""
    return [f"tu-{name}" for name in timm.list_models("hrnet_*")]


def check_encoder(encoder: str) -> None:
    """Raise ConfigError for an encoder that is no HRNet."""
    if encoder.partition(".")[0] not in hrnets():
        raise ConfigError(
            f"architecture {NAME!r} joins the branches of an HRNet; {encoder!r} is none", where="model.encoder",
            todo=f"choose one of {', '.join(hrnets())}",
        )  # fmt: skip


def hrnet(encoder: str, classes: int, channels: int, weights: str | None) -> Segmenter:
    """Return an HRNet with the head HRNetV2.

    Args:
        encoder: one of ``hrnets()``.
        classes: K.
        channels: input channels.
        weights: None = drawn; else timm's ImageNet weights.
    """
    # by default timm widens the branches for its classifier (feature_location="incre"); the head takes them as they are
    options = {"weights": weights, "feature_location": ""}
    branches = get_encoder(encoder, in_channels=channels, **options)  # image, stem, and the four branches
    widths = branches.out_channels[-4:]
    head = nn.Sequential(
        nn.Conv2d(sum(widths), classes, 1), nn.Upsample(scale_factor=_FINEST, mode="bilinear", align_corners=False)
    )
    return Segmenter(branches, HRNetV2Decoder(widths), head, _STRIDE)
