"""A second task on a segmentation network: a branch that shares its first blocks (three-stage training, Table VII)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.errors import ConfigError
from fewmask.nets.segmenter import Extended, Segmenter, classify, decode, probe


class BranchedStage(Extended):
    """A network f with a branch ĝ: a last encoder stage of its own, of half the width, and a decoder of its own.

    With blocks conv1 ... conv5, ASPP this is the branch from block N - 2: it shares conv1 to conv4. The fresh stage has
    the stride and the dilation of the encoder's last one; a 1×1 convolution brings its maps back to the encoder's
    width, so that every decoder fits. The branch from block N - 1, with nothing but a decoder of its own, is
    ``SharedEncoder``. HRNet's maps are all of its last stage: there the branch replaces the coarsest one.

    Args:
        net: f; loses nothing.
        other: a network of the same architecture: its decoder and head are the branch's.

    Raises:
        ConfigError: the encoder returns no list of maps, so that it has no last stage.
    """

    def __init__(self, net: nn.Module, other: nn.Module) -> None:
        super().__init__(net)
        assert isinstance(other, Segmenter), "build makes Segmenters"
        self.decoder, self.head = self.plain.decoder, self.plain.head
        before, last = last_maps(self.plain)
        stride = max(1, before.shape[-1] // last.shape[-1])
        self.stage = _Stage(before.shape[1], last.shape[1], stride, _last_dilation(self.plain.encoder))
        self.branch_decoder, self.branch_head = other.decoder, other.head

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return the float32 logits [B, K, H, W] of the network and of its branch."""
        net = self.plain
        features, size = net.encode(images_BCHW), images_BCHW.shape[-2:]
        maps = maps_of(features)
        own = _with_maps(features, [*maps[:-1], self.stage(maps[-2])])
        return [
            net.classify(net.decode(features), size),
            classify(self.branch_head, decode(self.branch_decoder, own), size),
        ]


class _Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolution around a shortcut (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        middle = max(1, outputs // 4)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, stride, dilation, dilation, bias=False), nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class _Stage(nn.Sequential):
    """Three bottlenecks of half the width, and a 1×1 convolution to the full one."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int) -> None:
        half = max(1, outputs // 2)
        super().__init__(
            _Bottleneck(inputs, half, stride, dilation), _Bottleneck(half, half, 1, dilation),
            _Bottleneck(half, half, 1, dilation),
            nn.Conv2d(half, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True),
        )  # fmt: skip


def _last_dilation(encoder: nn.Module) -> int:
    """Return the rate of an encoder's last convolution that looks at more than one pixel; 1 where none does."""
    rates = [max(m.dilation) for m in encoder.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return rates[-1] if rates else 1


def maps_of(features: Any) -> Sequence[Tensor]:
    """Return an encoder's maps; DPT's encoders return (maps, prefix tokens)."""
    return features[0] if isinstance(features, tuple) else features


def _with_maps(features: Any, maps: list[Tensor]) -> Any:
    return (maps, *features[1:]) if isinstance(features, tuple) else maps


def last_maps(net: Segmenter) -> tuple[Tensor, Tensor]:
    """Return the two last maps of a small image.

    Raises:
        ConfigError: the encoder returns no list of maps.
    """
    maps = maps_of(probe(net, net.encode))
    if isinstance(maps, Tensor) or len(maps) < 2:
        raise ConfigError(
            "this encoder returns one map and not one of each stage, so that its last stage cannot be left out",
            where="model.arch", todo="use another architecture",
        )  # fmt: skip
    return maps[-2], maps[-1]
