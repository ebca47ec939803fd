"""Scores over a set of images, on the grid of their original masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewmask.data.index import Item
from fewmask.engine.faults import site
from fewmask.engine.infer import Forward, Protocol, centred, image_logits, normalise, to_grid
from fewmask.ops.metrics import confusion, iou, mean_iou, pixel_accuracy

_PIXELS = 8 * 128 * 192  # of network input in one forward pass, unless one image has more


@dataclass(frozen=True)
class Pictures:
    """How image files become network inputs.

    Attributes:
        image: item to its uint8 image [C, H, W] at the network's input size.
        mask: item to its uint8 mask [H, W] at the original size.
        mean: channel means in 0..1.
        std: channel deviations in 0..1.
        device: of the network.
        context: entered around every forward pass (autocast).
    """

    image: Callable[[Item], Tensor]
    mask: Callable[[Item], Tensor]
    mean: Tensor
    std: Tensor
    device: torch.device
    context: Callable[[], AbstractContextManager[Any]]


@torch.no_grad()
def confusion_of(
    forward: Forward, items: Sequence[Item], pictures: Pictures, classes: int, protocol: Protocol,
    each: Callable[[Item, Tensor], None] | None = None,
) -> Tensor:  # fmt: skip
    """Return the summed confusion matrix int64 [K, K] of the items, on the CPU.

    Args:
        forward: the network in evaluation mode.
        items: images with masks, of any sizes.
        pictures: reads them.
        classes: K.
        protocol: how an image becomes a prediction.
        each: called with every item and its own matrix.
    """
    total = torch.zeros(classes, classes, dtype=torch.int64)
    for batch in _alike(items, pictures):
        images = torch.cat([normalise(i, pictures.mean, pictures.std, pictures.device) for _, i, _ in batch])
        truths = torch.stack([truth for _, _, truth in batch])
        how = protocol
        if protocol.padding is not None:  # the margin is part of what is scored
            assert protocol.pad is not None and images.shape[-2:] == truths.shape[-2:], "a recipe has no resize with it"
            images, how = centred(images, protocol.pad)[0], protocol.but(pad=None)
            truths = centred(truths, protocol.pad, protocol.padding)[0]
        with pictures.context():
            logits = image_logits(forward, images, how)
        predicted = to_grid(logits.float(), (truths.shape[-2], truths.shape[-1]))
        for (item, _, _), truth, prediction in zip(batch, truths, predicted, strict=True):
            matrix = confusion(prediction, truth.to(pictures.device), classes).cpu()
            if each is not None:
                each(item, matrix)
            total += matrix
    return total


def _alike(items: Sequence[Item], pictures: Pictures) -> Iterator[list[tuple[Item, Tensor, Tensor]]]:
    """Yield neighbours of one size as (item, image, mask), a few at a time: small images leave a device idle."""
    batch: list[tuple[Item, Tensor, Tensor]] = []
    for item in items:
        site("validate.inside")
        image, truth = pictures.image(item), pictures.mask(item)
        pixels = image.shape[-2] * image.shape[-1]
        fits = batch and image.shape == batch[0][1].shape and truth.shape == batch[0][2].shape
        if batch and not (fits and (len(batch) + 1) * pixels <= _PIXELS):
            yield batch
            batch = []
        batch.append((item, image, truth))
    if batch:
        yield batch


def scores(matrix_KK: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Return {"miou", "iou": {class: number or None}, "pixel_accuracy"}, in percent; None = not measured."""
    return {
        "miou": mean_iou(matrix_KK),
        "iou": dict(zip(names, iou(matrix_KK), strict=True)),
        "pixel_accuracy": pixel_accuracy(matrix_KK),
    }
