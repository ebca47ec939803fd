"""A segmentation network with a second head on the decoder: features for contrast."""

from __future__ import annotations

from torch import Tensor, nn

from fewmask.nets.segmenter import Extended, probe


class Represented(Extended):
    """A network and its representation head, at the resolution of the decoder's output.

    3×3 convolution to half of the decoder's channels, another, 1×1 to the features; BatchNorm, ReLU and dropout of 10 %
    of the channels after the first two (U2PL, CVPR 2022, section 4.1, and its code).

    Args:
        net: loses nothing; its parts are taken over.
        dim: D.
    """

    def __init__(self, net: nn.Module, dim: int = 256) -> None:
        super().__init__(net)
        self.decoder, self.head = self.plain.decoder, self.plain.head
        width = probe(self.plain, lambda x: self.plain.decode(self.plain.encode(x))).shape[1]
        hidden = max(1, width // 2)
        self.represent = nn.Sequential(*_block(width, hidden), *_block(hidden, hidden), nn.Conv2d(hidden, dim, 1))

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K, H, W] and features [B, D, h, w], both float32."""
        decoded = self.plain.decode(self.plain.encode(images_BCHW))
        return self.plain.classify(decoded, images_BCHW.shape[-2:]), self.represent(decoded).float()


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.Dropout2d(0.1)]
