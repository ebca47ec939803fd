"""How DARS's script turns windows and their mirror images into the confidence of a pixel."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.parity.authors import Checkout
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.dars_code import parsed
from benchmarks.parity.dars_images import UTILS
from benchmarks.parity.inputs import SEED
from fewmask.engine.infer import Forward, Protocol, as_logits, image_logits

WINDOW, CLASSES = 21, 5
STRIDE = 14
"""Two thirds of the window; where it divides what the first window leaves, windows are their own mirror images."""


def rows(checkout: Checkout) -> Iterator[Row]:
    """Their mean over windows and mirror images against ours, on a network that tells left from right."""
    for width, departure in ((WINDOW + 2 * STRIDE, "mean of logits"), (47, "mirrored windows")):
        generator = torch.Generator().manual_seed(SEED)
        image = torch.rand(33, width, 3, generator=generator)
        net = nn.Sequential(nn.Conv2d(3, CLASSES, 5, padding=2))
        for p in net.parameters():
            p.data = torch.randn(p.shape, generator=generator)
        yield compare(
            checkout, "DARS: confidence over windows and mirror images", f"33×{width}, windows of {WINDOW}", None,
            _theirs(checkout, net, image), _ours(net, image, Protocol(window=WINDOW, flip=True)),
            switch="the protocols dars-361, dars-713", departure=departure,
            explained=_of_logits(net, image, each=departure == "mirrored windows"),
            image=[33, width], window=WINDOW, stride=STRIDE, classes=CLASSES, seed=SEED,
        )  # fmt: skip


def _theirs(checkout: Checkout, net: nn.Module, image_HWC: Tensor) -> Tensor:
    """Return the largest softmax of what their script averages, [H, W]."""
    height, width, _ = image_HWC.shape
    with patch.object(Tensor, "cuda", lambda x: x):
        space = parsed(checkout, UTILS).define(
            "net_process", "scale_process", np=np, torch=torch, F=F,
            cv2=SimpleNamespace(resize=lambda x, *_, **__: x, INTER_LINEAR=1),
        )  # fmt: skip
        mean_of_logits = space.scale_process(
            net, image_HWC.numpy(), CLASSES, WINDOW, WINDOW, height, width, [0.0, 0.0, 0.0]
        )
    return torch.from_numpy(mean_of_logits).softmax(2).amax(2)


def _ours(net: Forward, image_HWC: Tensor, protocol: Protocol) -> Tensor:
    """Return the largest probability of what our protocol averages, [H, W]."""
    with torch.no_grad():
        scores = image_logits(net, image_HWC.permute(2, 0, 1).unsqueeze(0), protocol)
    return as_logits(scores, protocol).softmax(1).amax(1)[0].double()


def _of_logits(net: Forward, image_HWC: Tensor, each: bool) -> Tensor:
    """Return the same of ours where it averages logits instead; ``each`` = with the mirror image of every window."""

    def both(images: Tensor) -> Tensor:
        return (net(images) + net(images.flip(-1)).flip(-1)) / 2

    protocol = Protocol(window=WINDOW, flip=not each, combine="logits")
    image = image_HWC.permute(2, 0, 1).unsqueeze(0)
    with torch.no_grad():
        return image_logits(both if each else net, image, protocol).softmax(1).amax(1)[0].double()
