"""One encoder under several decoders: what co-training heads share."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fewmask.nets.segmenter import Segmenter


class SharedEncoder(nn.Module):
    """The first network's encoder with the decoder and head of every given network.

    Args:
        branches: networks of one architecture, initialised differently; those after the first lose their encoder.

    Attributes:
        encoder: shared.
        decoders, heads: one a branch.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        parts = [b for b in branches if isinstance(b, Segmenter)]
        assert len(parts) == len(branches), "build makes Segmenters"
        self.encoder = parts[0].encoder
        self.decoders = nn.ModuleList(b.decoder for b in parts)
        self.heads = nn.ModuleList(b.head for b in parts)
        self.stride = parts[0].stride
        # past nn.Module's register: the same modules under a second name would be trained and saved twice
        self.__dict__["_branches"] = tuple(self.branch(number) for number in range(len(branches)))

    @property
    def plain(self) -> Segmenter:
        """The first branch: what a network of the usual kind fits."""
        return self.branch(0)

    def branch(self, number: int) -> Segmenter:
        """Return one branch as a network of its own, which shares its parameters with this one."""
        return Segmenter(self.encoder, self.decoders[number], self.heads[number], self.stride)

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Return the float32 logits [B, K, H, W] of every branch."""
        branches: tuple[Segmenter, ...] = self.__dict__["_branches"]
        features = branches[0].encode(images_BCHW)
        return [b.classify(b.decode(features), images_BCHW.shape[-2:]) for b in branches]
