"""A second classifier on the encoder's last map but one: deep supervision, as PSPNet is trained (Zhao et al., 2017)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.nets.branch import last_maps, maps_of
from fewmask.nets.segmenter import Extended


class Auxiliary(Extended):
    """A network and an auxiliary classifier; what is delivered is the network without it.

    3×3 convolution to a quarter of the map's channels, BatchNorm, ReLU, dropout of 10 % of the channels, 1×1 to the
    classes, raised bilinearly.

    Args:
        net: loses nothing.
        classes: K.

    Raises:
        ConfigError: the encoder returns one map and not one of each stage.
    """

    def __init__(self, net: nn.Module, classes: int) -> None:
        super().__init__(net)
        self.decoder, self.head = self.plain.decoder, self.plain.head
        channels = last_maps(self.plain)[0].shape[1]
        hidden = max(1, channels // 4)
        self.auxiliary = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
            nn.Dropout2d(0.1), nn.Conv2d(hidden, classes, 1),
        )  # fmt: skip

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return the float32 logits [B, K, H, W] of the network and of the auxiliary classifier."""
        net, size = self.plain, images_BCHW.shape[-2:]
        features = net.encode(images_BCHW)
        padded = [s + -s % net.stride for s in size]
        side = F.interpolate(
            self.auxiliary(maps_of(features)[-2]).float(), padded, mode="bilinear", align_corners=False
        )
        return [net.classify(net.decode(features), size), side[..., : size[0], : size[1]]]
