"""Strong views of single methods: pools of operations on uint8 crops, drawn by key. Geometry stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from fewmask.config import Config
from fewmask.ops.rng import Draws

Range = tuple[float, float]


class NineOps(Config):
    """UCC's pool (CVPR 2022, Figure 2): N of nine operations, drawn with replacement, each with a magnitude of its own.

    The paper gives neither N nor the ranges ("a pre-defined range"); these are ours, such that a viewer still knows
    what is where. An instance is a strong view: called with a crop and its draws.

    Attributes:
        n: N, how many operations one after the other.
        jitter: brightness, contrast, saturation U(1-v, 1+v); hue U(-v/2, v/2).
        dropout: share of the cells that coarse dropout blackens; cells are a tenth of the shorter side.
        jpeg: quality.
        solarize: values from this on are inverted.
        salt_pepper: share of pixels that become white or black.
        noise: deviation of the Gaussian noise, of 255.
    """

    n: int = Field(default=2, ge=0, le=9)
    jitter: float = Field(default=0.5, ge=0, le=1)
    dropout: Range = (0.05, 0.25)
    jpeg: Range = (15, 75)
    solarize: Range = (96, 224)
    salt_pepper: Range = (0.01, 0.08)
    noise: Range = (4, 24)

    @model_validator(mode="after")
    def _sensible_ranges(self) -> NineOps:
        bounds = {"dropout": (0, 1), "jpeg": (1, 100), "solarize": (0, 256), "salt_pepper": (0, 1), "noise": (0, 255)}
        for name, (least, most) in bounds.items():
            low, high = getattr(self, name)
            if not least <= low <= high <= most:
                raise ValueError(f"{name} takes two bounds {least} <= low <= high <= {most}, not {low} and {high}")
        return self

    def __call__(self, image_CHW: Tensor, draws: Draws) -> Tensor:
        """Return the strong view of a uint8 RGB crop [3, H, W]."""
        ops = self.operations()
        for name in [list(ops)[draws.integer(0, len(ops))] for _ in range(self.n)]:
            image_CHW = ops[name](image_CHW, draws)
        return image_CHW

    def operations(self) -> dict[str, Callable[[Tensor, Draws], Tensor]]:
        """Return the pool by name, in the paper's order."""
        return {
            "channel_shuffle": lambda x, d: x[d.shuffled(3)],
            "color_jitter": self._jitter,
            "invert_channel": self._invert,
            "coarse_dropout": self._dropout,
            "jpeg_compression": self._jpeg,
            "solarize": lambda x, d: F.solarize(x, int(d.uniform(*self.solarize))),
            "salt_pepper": self._salt_pepper,
            "noise_gau": self._noise,
            "equalize": lambda x, d: F.equalize(x),
        }

    def _jitter(self, image: Tensor, draws: Draws) -> Tensor:
        low, high = 1 - self.jitter, 1 + self.jitter
        for adjust in (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation):
            image = adjust(image, draws.uniform(low, high))
        return F.adjust_hue(image, draws.uniform(-self.jitter / 2, self.jitter / 2))

    def _invert(self, image: Tensor, draws: Draws) -> Tensor:
        channel = torch.arange(3) == draws.integer(0, 3)
        return torch.where(channel.view(3, 1, 1), F.invert(image), image)

    def _jpeg(self, image: Tensor, draws: Draws) -> Tensor:
        # Pillow's: torchvision's own will be removed, and warns
        with BytesIO() as file:
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=int(draws.uniform(*self.jpeg)))
            with Image.open(file, formats=["JPEG"]) as coded:
                return torch.from_numpy(np.array(coded)).permute(2, 0, 1).contiguous()

    def _dropout(self, image: Tensor, draws: Draws) -> Tensor:
        height, width = image.shape[-2:]
        cell = max(1, min(height, width) // 10)
        rows, columns = -(-height // cell), -(-width // cell)
        dropped = _pixels(draws).random((rows, columns)) < draws.uniform(*self.dropout)
        mask = np.kron(dropped, np.ones((cell, cell), dtype=bool))[:height, :width]
        return image.masked_fill(torch.from_numpy(mask), 0)

    def _salt_pepper(self, image: Tensor, draws: Draws) -> Tensor:
        u = torch.from_numpy(_pixels(draws).random(tuple(image.shape[-2:])))
        share = draws.uniform(*self.salt_pepper)
        return image.masked_fill(u < share / 2, 255).masked_fill((u >= share / 2) & (u < share), 0)

    def _noise(self, image: Tensor, draws: Draws) -> Tensor:
        noise = torch.from_numpy(_pixels(draws).standard_normal(tuple(image.shape), dtype=np.float32))
        return (image + draws.uniform(*self.noise) * noise).round().clamp(0, 255).to(torch.uint8)


def _pixels(draws: Draws) -> np.random.Generator:
    """Return a generator for one number a pixel, keyed by the next draws."""
    return np.random.Generator(np.random.Philox(key=draws.words(2)))
