"""A network as other programs run it: one module from bytes to logits, in operations that every exporter knows."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewmask.nets.pool import MatrixPool, replace_pools
from fewmask.nets.segmenter import Segmenter
from fewmask.nets.trimmed import untrim


class Portable(nn.Module):
    """Images as files hold them to logits on their own grid; in evaluation mode, without gradient.

    Resizing, normalising and padding are part of it. No size is written into the graph, so that it can be exported for
    images of any size.

    Args:
        net: copied.
        mean, std: of the C channels, in 0..1.
        resize: (height, width) of the network's input; None = an image's own size.
    """

    def __init__(
        self, net: Segmenter, mean: Sequence[float], std: Sequence[float], resize: tuple[int, int] | None
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.resize = untrim(copy.deepcopy(net).cpu().float()), resize
        replace_pools(self.net, MatrixPool)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return logits float32 [B, K, H, W] for images uint8 [B, C, H, W]."""
        size, x = images.shape[-2:], images.float()
        if self.resize is not None:  # bytes after each pass, as in the images that the network was trained on
            for shape in ([size[0], self.resize[1]], list(self.resize)):
                x = F.interpolate(x, shape, mode="bilinear", align_corners=False, antialias=True)
                x = x.round().clamp(0, 255)
        x = (x - self.mean) / self.std
        height, width = x.shape[-2:]
        stride = self.net.stride
        whole = [(side + stride - 1) // stride * stride for side in (height, width)]
        # a pad of so many pixels as are missing asks whether there are any, and the answer would stay in the graph
        padded = F.pad(x, (0, stride, 0, stride))[..., : whole[0], : whole[1]]
        logits = self.net.head(self.net.decode(self.net.encoder(padded))).float()
        logits = logits.index_select(2, torch.arange(height)).index_select(3, torch.arange(width))  # as for the pad
        if self.resize is None:
            return logits
        return F.interpolate(logits, size, mode="bilinear", align_corners=False)
