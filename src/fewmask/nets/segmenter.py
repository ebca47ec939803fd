"""Segmenter: encoder → decoder → head, for images of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

T = TypeVar("T")


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
        return self.classify(self.decode(self.encode(images_BCHW)), images_BCHW.shape[-2:])

    def encode(self, images_BCHW: Tensor) -> Any:
        """Return the encoder's output for the padded images."""
        height, width = images_BCHW.shape[-2:]
        pad_h, pad_w = -height % self.stride, -width % self.stride
        return self.encoder(F.pad(images_BCHW, (0, pad_w, 0, pad_h)) if pad_h or pad_w else images_BCHW)

    def decode(self, features: Any) -> Tensor:
        """Return the decoder's output [B, D, h, w] for the encoder's."""
        return decode(self.decoder, features)

    def classify(self, decoded_BDhw: Tensor, size: Sequence[int]) -> Tensor:
        """Return float32 logits [B, K, H, W] at an image's size for the decoder's output."""
        return classify(self.head, decoded_BDhw, size)


def decode(decoder: nn.Module, features: Any) -> Tensor:
    """Return a decoder's output for an encoder's."""
    # DPT's encoders return (feature maps, prefix tokens); every other decoder takes the list of maps
    return decoder(*features) if isinstance(features, tuple) else decoder(features)


def classify(head: nn.Module, decoded_BDhw: Tensor, size: Sequence[int]) -> Tensor:
    """Return a head's logits, float32, without the padding."""
    return head(decoded_BDhw)[..., : size[0], : size[1]].float()


class Extended(nn.Module):
    """A network that has more than one head; ``plain`` is what a network of the usual kind fits.

    Args:
        plain: encoder, decoder and head that the run's architecture could have built alone.
    """

    def __init__(self, plain: nn.Module) -> None:
        super().__init__()
        assert isinstance(plain, Segmenter), "build makes Segmenters"
        self.encoder, self.stride = plain.encoder, plain.stride
        # past nn.Module's register: the same modules under a second name would be trained and saved twice
        self.__dict__["_plain"] = plain

    @property
    def plain(self) -> Segmenter:
        """The network without its further heads; it shares its parameters with this one."""
        return self.__dict__["_plain"]


def plain(net: nn.Module) -> nn.Module:
    """Return a network without its further heads; one that has none as it is."""
    return net.plain if isinstance(net, Extended) else net


def outputs(out: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """Return what a network with or without further heads has returned as a sequence, its own logits first."""
    return (out,) if isinstance(out, Tensor) else out


@torch.no_grad()
def probe(net: Segmenter, what: Callable[[Tensor], T]) -> T:
    """Return what a function makes of a small black image in evaluation mode: shapes, before training."""
    was, side = net.training, 2 * max(net.stride, 16)
    net.eval()
    try:
        first = next(m for m in net.encoder.modules() if isinstance(m, nn.Conv2d))
        return what(torch.zeros(1, first.in_channels, side, side))
    finally:
        net.train(was)
