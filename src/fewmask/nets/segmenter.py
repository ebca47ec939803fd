"""Segmenter: encoder → decoder → head, for images of any size."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Segmenter(nn.Module):
    """A segmentation network with one interface, whatever it is built from.

    Any height and width work: images are padded at the right and the bottom to a multiple of the network's stride and
    the logits cropped back, so no caller needs a multiple-of-32 rule.

    Args:
        encoder: images to features (a list of maps, or whatever its decoder takes).
        decoder: called with the encoder's output.
        head: decoder output to logits at the padded resolution.
        stride: input sizes must be multiples of this.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Module, stride: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head
        self.stride = stride

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Return float32 logits [B, K, H, W] for float images [B, C, H, W]."""
        height, width = images_BCHW.shape[-2:]
        pad_h, pad_w = -height % self.stride, -width % self.stride
        if pad_h or pad_w:
            images_BCHW = F.pad(images_BCHW, (0, pad_w, 0, pad_h))
        features = self.encoder(images_BCHW)
        # DPT's encoders return (feature maps, prefix tokens); every other decoder takes the list of maps
        decoded = self.decoder(*features) if isinstance(features, tuple) else self.decoder(features)
        logits = self.head(decoded)
        return logits[..., :height, :width].float()
