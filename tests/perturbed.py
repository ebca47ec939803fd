"""What the tests of NineOps share: draws, pictures, one operation alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewmask.data.perturb import NineOps
from fewmask.ops.rng import Draws, Purpose

NAMES = [
    "channel_shuffle", "color_jitter", "invert_channel", "coarse_dropout", "jpeg_compression", "solarize",
    "salt_pepper", "noise_gau", "equalize",
]  # fmt: skip
SIZES = [(12, 12), (12, 31), (40, 13), (64, 64), (1, 1), (9, 200)]


def draws(slot: int, view: int = 1) -> Draws:
    return Draws(5, Purpose.PHOTOMETRY, 3, slot, view)


def picture(height: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    """Noise around a smooth pattern, every channel another; all values occur."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.arange(height).view(-1, 1), torch.arange(width)
    smooth = torch.stack([(3 * y + x) % 256, (x * y) % 256, (5 * x + 2 * y) % 256])
    return ((smooth + torch.randint(0, 40, smooth.shape, generator=g)) % 256).to(torch.uint8)


def flat(value: int, height: int = 200, width: int = 300) -> Tensor:
    return torch.full((3, height, width), value, dtype=torch.uint8)


def apply(name: str, image: Tensor, slot: int = 0, cfg: NineOps | None = None) -> Tensor:
    return (cfg or NineOps()).operations()[name](image, draws(slot))


def near(count: float, p: float, n: int, errors: float = 3.0) -> bool:
    return abs(count - n * p) <= errors * math.sqrt(n * p * (1 - p))
