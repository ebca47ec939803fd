"""Logits for whole images of any size: one forward pass, or a sliding window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from fewmask.config import Config

Forward = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] to logits [B, K, H, W]."""


class Protocol(Config):
    """What makes two scores comparable: how an image becomes a prediction.

    Attributes:
        name: under which results are compared.
        window: side of a square sliding window in pixels of the network's input; none = the whole image at once.
        stride: step of the window; none = two thirds of it, rounded up.
        border: "shift" moves the last window back to the edge; "truncate" cuts it off there (UniMatch's code).
        scales: average the predictions of the image in these sizes, relative to the network's input; sides are
            rounded to whole pixels.
        flip: average with the prediction of the mirrored image.
    """

    name: str = "whole"
    window: int | None = Field(default=None, ge=8)
    stride: int | None = Field(default=None, ge=1)
    border: Literal["shift", "truncate"] = "shift"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @field_validator("scales")
    @classmethod
    def _some(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not scales or min(scales) <= 0:
            raise ValueError("scales takes one or more positive numbers")
        return scales

    @property
    def averages(self) -> bool:
        """Whether several predictions are averaged, as probabilities."""
        return self.window is not None or self.flip or self.scales != (1.0,)


PROTOCOLS = {
    "whole": Protocol(),
    "cityscapes": Protocol(name="cityscapes", window=801, stride=534, border="truncate"),
    "dars-361": Protocol(name="dars-361", window=361, stride=241, flip=True),
    "dars-713": Protocol(name="dars-713", window=713, stride=476, flip=True),
}
"""Built-in protocols by name. More come with the papers that define them."""


def windows(length: int, window: int, stride: int, border: str) -> list[tuple[int, int]]:
    """Return the (start, stop) of the windows along one side; together they cover 0..length."""
    if length <= window:
        return [(0, length)]
    out = []
    for start in range(0, length, stride):
        stop = start + window
        if border == "truncate" or stop <= length:
            out.append((start, min(stop, length)))
        else:
            out.append((length - window, length))
        if stop >= length:
            break
    return out


def image_logits(forward: Forward, images_BCHW: Tensor, protocol: Protocol) -> Tensor:
    """Return logits [B, K, H, W] (summed class probabilities, where it averages) under a protocol.

    Args:
        forward: the network in evaluation mode.
        images_BCHW: normalised images of one size.
        protocol: how.
    """
    if protocol.scales != (1.0,):
        once = protocol.model_copy(update={"scales": (1.0,)})
        return torch.stack([_resized(forward, images_BCHW, once, scale) for scale in protocol.scales]).sum(0)
    if protocol.flip:
        once = protocol.model_copy(update={"flip": False})
        straight = image_logits(forward, images_BCHW, once).softmax(1)
        return straight + image_logits(forward, images_BCHW.flip(-1), once).softmax(1).flip(-1)
    if protocol.window is None:
        return forward(images_BCHW)
    stride = protocol.stride or -(-2 * protocol.window // 3)
    height, width = images_BCHW.shape[-2:]
    total: Tensor | None = None
    for top, bottom in windows(height, protocol.window, stride, protocol.border):
        for left, right in windows(width, protocol.window, stride, protocol.border):
            p = forward(images_BCHW[..., top:bottom, left:right]).softmax(1)
            if total is None:
                total = p.new_zeros(p.shape[0], p.shape[1], height, width)
            total[..., top:bottom, left:right] += p
    assert total is not None  # windows() is never empty
    return total


def _resized(forward: Forward, images_BCHW: Tensor, protocol: Protocol, scale: float) -> Tensor:
    """Return the class probabilities of an image in another size, on its own grid."""
    size = images_BCHW.shape[-2:]
    other = [max(1, round(side * scale)) for side in size]
    if scale != 1:
        images_BCHW = F.interpolate(images_BCHW, other, mode="bilinear", align_corners=False, antialias=scale < 1)
    p = as_logits(image_logits(forward, images_BCHW, protocol).float(), protocol).softmax(1)
    return p if scale == 1 else F.interpolate(p, size, mode="bilinear", align_corners=False)


def as_logits(scores_BKHW: Tensor, protocol: Protocol) -> Tensor:
    """Return logits for what ``image_logits`` gave: it has summed probabilities where it averages."""
    if not protocol.averages:
        return scores_BKHW
    return (scores_BKHW / scores_BKHW.sum(1, keepdim=True)).clamp(min=torch.finfo(scores_BKHW.dtype).tiny).log()


def to_grid(logits_BKHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Return class indices int64 [B, H, W] on a grid of the given (height, width): bilinear logits, then argmax."""
    if tuple(logits_BKHW.shape[-2:]) != size:
        logits_BKHW = F.interpolate(logits_BKHW, size, mode="bilinear", align_corners=False)
    return logits_BKHW.argmax(1)


def normalise(image_CHW: Tensor, mean_C: Tensor, std_C: Tensor, device: torch.device) -> Tensor:
    """Return a uint8 image [C, H, W] as a float batch of one, [1, C, H, W], normalised, on ``device``."""
    image = image_CHW.to(device).unsqueeze(0)
    return (image - (mean_C * 255).view(1, -1, 1, 1)) / (std_C * 255).view(1, -1, 1, 1)
