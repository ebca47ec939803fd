"""RandAugment and Cutout on uint8 crops that tell where every pixel came from (three-stage training, section III)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fewmask.config import Config
from fewmask.ops.rng import Draws

_GREY = 128


class RandAugmentCutout(Config):
    """The operators A and B: a few of fourteen operations, then squares of grey.

    Geometric operations take the nearest pixel, so that the view holds pixels of the crop and nothing between them, and
    a label map moves exactly as the image does. Pixels below a square keep their label.

    Ranges grow with a magnitude of 1 to 9 tenths (RandAugment, Cubuk et al., NeurIPS 2020): rotation to 30°, shear to
    0.3, translation to 10 pixels; colour, contrast, brightness and sharpness by a factor of 0.1 to 1.9; posterize to 4
    bits; solarize from a value of 256 down.

    Attributes:
        n: operations one after the other, drawn with replacement.
        chance: of each of them.
        cutouts: squares.
        side: of a square, in pixels of the crop; squares that reach over its border are cut off there.
    """

    n: int = Field(default=3, ge=0)
    chance: float = Field(default=0.5, ge=0, le=1)
    cutouts: int = Field(default=3, ge=0)
    side: int = Field(default=32, ge=1)

    def __call__(self, image_CHW: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the view uint8 [3, H, W] of an RGB crop, and each pixel's source int64 [H, W], -1 = outside."""
        height, width = image_CHW.shape[-2:]
        source = torch.arange(height * width).view(height, width)
        names = sorted(PHOTOMETRIC) + sorted(GEOMETRIC)
        for _ in range(self.n):
            name, magnitude = names[draws.integer(0, len(names))], draws.integer(1, 10) / 10
            sign = 1 if draws.chance(0.5) else -1
            if not draws.chance(self.chance):
                continue
            if name in PHOTOMETRIC:
                image_CHW = PHOTOMETRIC[name](image_CHW, magnitude, sign)
            else:
                place = moved(GEOMETRIC[name](magnitude * sign), height, width)
                image_CHW, source = take(image_CHW, place, 0), take(source, place, -1)
        image_CHW = image_CHW.clone()  # the crop may be another view as well
        for _ in range(self.cutouts):
            top, left = (draws.integer(0, size) - self.side // 2 for size in (height, width))
            image_CHW[:, max(0, top) : max(0, top + self.side), max(0, left) : max(0, left + self.side)] = _GREY
        return image_CHW, source


def _enhance(adjust: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float, int], Tensor]:
    return lambda image, magnitude, sign: adjust(image, 1 + 0.9 * magnitude * sign)


PHOTOMETRIC: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "identity": lambda image, magnitude, sign: image,
    "autocontrast": lambda image, magnitude, sign: F.autocontrast(image),
    "equalize": lambda image, magnitude, sign: F.equalize(image),
    "solarize": lambda image, magnitude, sign: F.solarize(image, 256 * (1 - magnitude)),
    "posterize": lambda image, magnitude, sign: F.posterize(image, 8 - round(4 * magnitude)),
    "colour": _enhance(F.adjust_saturation),
    "contrast": _enhance(F.adjust_contrast),
    "brightness": _enhance(F.adjust_brightness),
    "sharpness": _enhance(F.adjust_sharpness),
}
"""(image, magnitude 0..1, sign) to image."""

Affine = tuple[float, tuple[float, float], tuple[float, float]]

GEOMETRIC: dict[str, Callable[[float], Affine]] = {
    "rotate": lambda m: (30 * m, (0, 0), (0, 0)),
    "shear_x": lambda m: (0, (0, 0), (math.degrees(math.atan(0.3 * m)), 0)),
    "shear_y": lambda m: (0, (0, 0), (0, math.degrees(math.atan(0.3 * m)))),
    "translate_x": lambda m: (0, (round(10 * m), 0), (0, 0)),
    "translate_y": lambda m: (0, (0, round(10 * m)), (0, 0)),
}
"""Signed magnitude to (angle in degrees, translation in pixels, shear in degrees)."""


def moved(affine: Affine, height: int, width: int) -> Tensor:
    """Return where each pixel of a moved image comes from, int64 [H, W], row·W + column; -1 = from outside."""
    angle, translation, shear = affine
    # float32 counts the pixels of any crop below 16 megapixels
    place = torch.arange(height * width, dtype=torch.float32).view(1, height, width)
    out = F.affine(
        place, angle=angle, translate=list(translation), scale=1.0, shear=list(shear),
        interpolation=InterpolationMode.NEAREST, fill=[-1.0],
    )  # fmt: skip
    return out[0].round().long()


def take(values: Tensor, place_HW: Tensor, outside: int) -> Tensor:
    """Return values [..., H, W] from where ``place_HW`` says; ``outside`` where that is -1."""
    found = values.flatten(-2)[..., place_HW.clamp(min=0).flatten()].view(*values.shape[:-2], *place_HW.shape)
    return torch.where(place_HW >= 0, found, outside).to(values.dtype)
