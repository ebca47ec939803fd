"""One encoder under several decoders: what co-training heads share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fewmask.nets.segmenter import Extended, Segmenter, classify, decode


class SharedEncoder(Extended):
    """The first network's encoder with the decoder and head of every given network.

    Args:
        branches: networks of one architecture, initialised differently; those after the first lose their encoder.

    Attributes:
        encoder: shared.
        decoders, heads: one a branch.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__(branches[0])
        parts = [b for b in branches if isinstance(b, Segmenter)]
        assert len(parts) == len(branches), "build makes Segmenters"
        self.decoders = nn.ModuleList(b.decoder for b in parts)
        self.heads = nn.ModuleList(b.head for b in parts)

    def branch(self, number: int) -> Segmenter:
        """Return one branch as a network of its own, which shares its parameters with this one."""
        return Segmenter(self.encoder, self.decoders[number], self.heads[number], self.stride)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return the float32 logits [B, K, H, W] of every branch."""
        features, size = self.plain.encode(images_BCHW), images_BCHW.shape[-2:]
        return [
            classify(head, decode(decoder, features), size)
            for decoder, head in zip(self.decoders, self.heads, strict=True)
        ]
