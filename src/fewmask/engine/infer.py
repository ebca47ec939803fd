"""Logits for whole images of any size: one forward pass, or a sliding window."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import groupby
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor

from fewmask.config import Config

Forward = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] to logits [B, K, H, W]."""

_AT_ONCE = 8
"""Windows in one forward pass on a GPU: as many as the images of a usual batch of the papers, without gradients."""


class Protocol(Config):
    """What makes two scores comparable: how an image becomes a prediction.

    In this order: resized to ``long_side``, resized to each of ``scales``, padded, mirrored, cut into windows.

    Attributes:
        name: under which results are compared.
        long_side: resize the image, so that its longer side has so many pixels; none = it keeps its size.
        scales: average the predictions of the image in these sizes, relative to the network's input; sides are
            rounded to whole pixels.
        pad: put the image into the middle of so many pixels a side, the rest being 0 after normalisation; a side that
            is longer stays as it is. What is predicted there is cut off again.
        padding: class index that those pixels count as in a score; none = they do not count.
        flip: average with the prediction of the mirrored image.
        window: side of a square sliding window in pixels of the network's input; none = the whole image at once.
        stride: step of the window; none = two thirds of it, rounded up.
        border: "shift" moves the last window back to the edge; "truncate" cuts it off there (UniMatch's code).
        combine: what is averaged: "probabilities" or "logits".
    """

    name: str = "whole"
    long_side: int | None = Field(default=None, ge=8)
    scales: tuple[float, ...] = (1.0,)
    pad: int | None = Field(default=None, ge=8)
    padding: int | None = Field(default=None, ge=0)
    flip: bool = False
    window: int | None = Field(default=None, ge=8)
    stride: int | None = Field(default=None, ge=1)
    border: Literal["shift", "truncate"] = "shift"
    combine: Literal["probabilities", "logits"] = "probabilities"

    @field_validator("scales")
    @classmethod
    def _some(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise ValueError("scales takes one or more positive numbers")
        return scales

    @property
    def averages(self) -> bool:
        """Whether ``image_logits`` gives class probabilities, or sums of them."""
        several = self.window is not None or self.flip or self.scales != (1.0,) or self.long_side is not None
        return several and self.combine == "probabilities"

    @property
    def plain(self) -> bool:
        """Whether a prediction is one forward pass over the image as it is."""
        return self.but(name="whole") == Protocol()

    @property
    def native(self) -> bool:
        """Whether it is defined on images of their own size alone: it resizes them itself, or counts a margin."""
        return self.long_side is not None or self.padding is not None

    def but(self, **values: Any) -> Protocol:
        """Return a copy with other values."""
        return type(self)(**self.model_dump() | values)


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol(),
        Protocol(name="voc-classic"),
        Protocol(name="voc-blended-cps", pad=512, window=512, stride=342, combine="logits"),
        Protocol(name="voc-blended-u2pl", pad=513, padding=0),
        Protocol(name="cityscapes", window=801, stride=534, border="truncate"),
        Protocol(name="cityscapes-cps", window=800, stride=534, combine="logits"),
        Protocol(name="cityscapes-u2pl", window=769, stride=513, combine="logits"),
        Protocol(name="dars-321", long_side=400, pad=321, flip=True, window=321, stride=214),
        Protocol(name="dars-361", window=361, stride=241, flip=True),
        Protocol(name="dars-713", window=713, stride=476, flip=True),
        Protocol(name="ade20k"),
        Protocol(name="camvid"),
    )
}
"""Built-in protocols by name.

From the authors' code, at the commits of docs/parity.md where it is named there:
``voc-classic``: UniMatch and ST++ score VOC images whole, at their own size.
``voc-blended-cps``, ``cityscapes-cps``: TorchSemiSeg, furnace/engine/evaluator.py with C.eval_crop_size 512 and 800 and
C.eval_stride_rate 2/3 of the experiments' config.py; what it sums are logits.
``voc-blended-u2pl``: U2PL's validation during training, which its table has (issue 95): u2pl/dataset/augmentation.py
puts an image into the middle of 513x513 and sets the label of the margin to 0. It would crop larger images; VOC has
none.
``cityscapes-u2pl``: U2PL's eval.py, windows of the crop 769, logits averaged.
``cityscapes``: UniMatch's evaluate.
``dars-*``: DARS's util/validate_full_size.py with base_size 400 of VOC; Cityscapes' 1024 and 2048 are ``data.resize``.
``ade20k``: UniMatch V2's evaluate, mode "original"; it resizes to multiples of 14, for which our networks pad.
``camvid`` is of no paper: whole images of 360x480, like ``whole``, under a name of their own.
"""


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
    """Return logits [B, K, H, W] under a protocol; where it ``averages``, positive sums of class probabilities.

    Args:
        forward: the network in evaluation mode.
        images_BCHW: normalised images of one size.
        protocol: how.
    """
    height, width = images_BCHW.shape[-2:]
    if protocol.long_side is not None:
        share = protocol.long_side / max(height, width)
        return _resized(forward, images_BCHW, protocol.but(long_side=None), share)
    if protocol.scales != (1.0,):
        once = protocol.but(scales=(1.0,))
        each = torch.stack([_resized(forward, images_BCHW, once, scale) for scale in protocol.scales])
        return each.sum(0) if protocol.averages else each.mean(0)
    if protocol.pad is not None:
        canvas, top, left = centred(images_BCHW, protocol.pad)
        found = image_logits(forward, canvas, protocol.but(pad=None))
        return found[..., top : top + height, left : left + width]
    if protocol.flip:
        once = protocol.but(flip=False)
        straight, mirrored = (_scores(forward, x, once) for x in (images_BCHW, images_BCHW.flip(-1)))
        both = straight + mirrored.flip(-1)
        return both if protocol.averages else both / 2
    if protocol.window is None:
        return forward(images_BCHW)
    return _slid(forward, images_BCHW, protocol, protocol.window)


def _slid(forward: Forward, images_BCHW: Tensor, protocol: Protocol, window: int) -> Tensor:
    """Return the sum of the windows' class probabilities, or the mean of their logits.

    On a GPU, which one small window does not fill, neighbouring windows of one size are one batch.
    """
    stride, many = protocol.stride or -(-2 * window // 3), len(images_BCHW)
    height, width = images_BCHW.shape[-2:]
    rows, columns = (windows(length, window, stride, protocol.border) for length in (height, width))
    boxes = [(..., slice(*row), slice(*column)) for row in rows for column in columns]
    at_once = 1 if images_BCHW.device.type == "cpu" else max(1, _AT_ONCE // many)
    total: Tensor | None = None
    count = images_BCHW.new_zeros(height, width)
    for _, alike in groupby(boxes, lambda box: images_BCHW[box].shape):
        todo = list(alike)
        for some in (todo[i : i + at_once] for i in range(0, len(todo), at_once)):
            found = forward(torch.cat([images_BCHW[box] for box in some]))
            found = found.softmax(1) if protocol.averages else found
            if total is None:
                total = found.new_zeros(many, found.shape[1], height, width)
            for box, one in zip(some, found.split(many), strict=True):
                total[box] += one
                count[box] += 1
    assert total is not None  # windows() is never empty
    return total if protocol.averages else total / count


def _scores(forward: Forward, images_BCHW: Tensor, protocol: Protocol) -> Tensor:
    """Return what is averaged: class probabilities that sum to 1, or logits."""
    found = image_logits(forward, images_BCHW, protocol)
    if protocol.combine == "logits":
        return found
    return found / found.sum(1, keepdim=True) if protocol.averages else found.softmax(1)


def _resized(forward: Forward, images_BCHW: Tensor, protocol: Protocol, scale: float) -> Tensor:
    """Return the scores of an image in another size, on its own grid."""
    size = images_BCHW.shape[-2:]
    other = [max(1, round(side * scale)) for side in size]
    if scale != 1:
        images_BCHW = F.interpolate(images_BCHW, other, mode="bilinear", align_corners=False, antialias=scale < 1)
    found = _scores(forward, images_BCHW, protocol).float()
    return found if scale == 1 else F.interpolate(found, size, mode="bilinear", align_corners=False)


def centred(images: Tensor, side: int, value: float = 0) -> tuple[Tensor, int, int]:
    """Return images [..., H, W] in the middle of at least ``side`` pixels a side, and the row and column they begin at.

    Of an odd margin the smaller half stands above and on the left.
    """
    down, right = (max(0, side - length) for length in images.shape[-2:])
    top, left = down // 2, right // 2
    return F.pad(images, (left, right - left, top, down - top), value=value), top, left


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
