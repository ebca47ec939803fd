"""Views of an item: geometry drawn once, photometry on top of it, all from keyed draws.

torchvision v2 functionals on ``tv_tensors``, so that images are resampled bilinearly and masks by nearest neighbour in
one call. Library transforms that draw from the global generator are not used: parameters are drawn here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fewmask.batch import IGNORE
from fewmask.config import Config
from fewmask.data.bands import Bands, are_coloured
from fewmask.ops.rng import Draws

_BLUR_CROP = 321  # smallest crop side of the published code, pixels


class Augment(Config):
    """Augmentation constants; the defaults are UniMatch's (CVPR 2023), which most code bases share.

    Attributes:
        scale: bounds of the random scale, drawn uniformly; with ``scale_choice`` the values to choose from.
        scale_choice: choose one of ``scale`` instead (CPS: 0.5 0.75 1 1.25 1.5 1.75).
        flip: probability of a horizontal flip.
        rotate: bound of the angle in degrees, by which half of the images are turned before they are cut; 0 = none.
        jitter: probability of colour jitter.
        brightness, contrast, saturation: factor U(max(0, 1-v), 1+v).
        hue: shift U(-v, v) of the colour circle.
        grey: probability of dropping colour.
        blur: probability of Gaussian blur, sigma U(0.1, 2) pixels; on crops smaller than UniMatch's, whose sides are
            321 pixels or more, as many times less: the same sigma would wipe out what tells small things apart.
        labelled: "strong" gives labelled images the photometry of the strong views too, whatever the method; for
            pictures whose colours vary more than the few masks show. "half" gives it to every second one, drawn, so
            that BatchNorm sees clean images too.
        class_crops: probability that the crop of a labelled image is put over a pixel of a class, each class of its
            mask being equally likely (nnU-Net oversamples the foreground so: Isensee et al., Nature Methods 2021);
            crops at random show a small class rarely.
    """

    scale: tuple[float, ...] = (0.5, 2.0)
    scale_choice: bool = False
    flip: float = Field(default=0.5, ge=0, le=1)
    rotate: float = Field(default=0.0, ge=0, le=180)
    jitter: float = Field(default=0.8, ge=0, le=1)
    brightness: float = Field(default=0.5, ge=0)
    contrast: float = Field(default=0.5, ge=0)
    saturation: float = Field(default=0.5, ge=0)
    hue: float = Field(default=0.25, ge=0, le=0.5)
    grey: float = Field(default=0.2, ge=0, le=1)
    blur: float = Field(default=0.5, ge=0, le=1)
    labelled: Literal["weak", "half", "strong"] = "weak"
    class_crops: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _sensible_scale(self) -> Augment:
        ordered = self.scale_choice or (len(self.scale) == 2 and self.scale[0] <= self.scale[1])
        if not self.scale or min(self.scale) <= 0 or not ordered:
            raise ValueError("scale takes two bounds 0 < low <= high, or with scale_choice any positive values")
        return self


@dataclass(frozen=True)
class Geometry:
    """One draw of the weak geometry, in pixels: resize to (height, width), turn, cut at (top, left), then flip."""

    height: int
    width: int
    top: int
    left: int
    flip: bool
    angle: float = 0.0


def draw_geometry(draws: Draws, height: int, width: int, crop: tuple[int, int], cfg: Augment) -> Geometry:
    """Draw scale, crop position and flip for an image of the given size.

    Args:
        draws: source of randomness, consumed in a fixed order.
        height: of the image.
        width: of the image.
        crop: (height, width) of the result.
        cfg: constants.
    """
    if cfg.scale_choice:
        scale = cfg.scale[draws.integer(0, len(cfg.scale))]
    else:
        scale = draws.uniform(cfg.scale[0], cfg.scale[-1])
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    # an image smaller than the crop is padded at the right and the bottom, so its cut starts at 0
    top, left = draws.integer(0, max(0, h - crop[0]) + 1), draws.integer(0, max(0, w - crop[1]) + 1)
    flip = draws.chance(cfg.flip)
    angle = draws.uniform(-cfg.rotate, cfg.rotate) if cfg.rotate and draws.chance(0.5) else 0.0
    return Geometry(h, w, top, left, flip, angle)


def around_a_class(geometry: Geometry, mask_HW: Tensor, draws: Draws, crop: tuple[int, int]) -> Geometry:
    """Move a crop over a pixel of a class, each class of the mask being equally likely, and each of its pixels.

    The pixel may come to lie anywhere in the crop. Where nothing is labelled, the geometry stays as it is.

    Args:
        geometry: as drawn.
        mask_HW: uint8 class indices of the image as stored.
        draws: source of randomness, consumed in a fixed order.
        crop: (height, width) of the result.
    """
    pixels_K = torch.bincount(mask_HW.flatten(), minlength=IGNORE + 1)[:IGNORE]
    classes = pixels_K.nonzero().flatten().tolist()
    if not classes:
        return geometry
    chosen = classes[draws.integer(0, len(classes))]
    place = int((mask_HW.flatten() == chosen).nonzero()[draws.integer(0, int(pixels_K[chosen]))])
    size, resized = mask_HW.shape, (geometry.height, geometry.width)
    # the first pixel of the resized mask that shows it; relative to the middle, about which images are turned
    first = (-(-p * new // old) for p, old, new in zip(divmod(place, size[1]), size, resized, strict=True))
    y, x = (p + 0.5 - length / 2 for p, length in zip(first, resized, strict=True))
    turn = math.radians(geometry.angle)
    y, x = math.cos(turn) * y - math.sin(turn) * x, math.sin(turn) * y + math.cos(turn) * x
    top, left = (
        min(max(0, int(p + length / 2) - draws.integer(0, side)), max(0, length - side))
        for p, side, length in zip((y, x), crop, resized, strict=True)
    )
    return replace(geometry, top=top, left=left)


def apply_geometry(
    image_CHW: Tensor, mask_HW: Tensor | None, geometry: Geometry, crop: tuple[int, int]
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Resize, cut, pad and flip an image and its mask alike.

    Args:
        image_CHW: uint8.
        mask_HW: uint8 class indices, [H, W] or several of them, [n, H, W]; or None.
        geometry: the draw.
        crop: (height, width) of the result.

    Returns:
        The image uint8 [C, h, w] (0 in the padding), the masks uint8 [..., h, w] (IGNORE in the padding) or None, and
        valid, bool [h, w], False in the padding.
    """
    size = [geometry.height, geometry.width]
    image: Tensor = F.resize(tv_tensors.Image(image_CHW), size, antialias=True)
    mask = None if mask_HW is None else F.resize(tv_tensors.Mask(mask_HW), size)
    inside = torch.ones(1, *size, dtype=torch.uint8)
    if geometry.angle:
        image = F.rotate(image, geometry.angle, InterpolationMode.BILINEAR, fill=[0.0])
        inside = F.rotate(inside, geometry.angle, fill=[0.0])
        mask = None if mask is None else F.rotate(mask, geometry.angle, fill=[float(IGNORE)])
    h, w = min(crop[0], geometry.height), min(crop[1], geometry.width)
    box = (geometry.top, geometry.left, h, w)
    pad = [0, 0, crop[1] - w, crop[0] - h]  # left, top, right, bottom
    image = F.pad(F.crop(image, *box), pad, fill=0)
    valid = F.pad(F.crop(inside, *box), pad, fill=0)[0].bool()
    if mask is not None:
        mask = F.pad(F.crop(mask, *box), pad, fill=IGNORE)
    if geometry.flip:
        image, valid = F.hflip(image), F.hflip(valid)
        mask = None if mask is None else F.hflip(mask)
    plain = None if mask is None else mask.as_subclass(Tensor).contiguous()
    return image.as_subclass(Tensor).contiguous(), plain, valid.contiguous()


def photometry(image_CHW: Tensor, draws: Draws, cfg: Augment) -> Tensor:
    """Return the strong view of a crop: colour jitter, grey, blur (UniMatch's constants by default).

    Works on the crop, after the geometry, so that its cost does not depend on the size of the photograph.

    Args:
        image_CHW: uint8 RGB.
        draws: source of randomness.
        cfg: constants.
    """
    image = image_CHW
    if draws.chance(cfg.jitter):
        steps = (
            lambda x: F.adjust_brightness(x, draws.uniform(max(0.0, 1 - cfg.brightness), 1 + cfg.brightness)),
            lambda x: F.adjust_contrast(x, draws.uniform(max(0.0, 1 - cfg.contrast), 1 + cfg.contrast)),
            lambda x: F.adjust_saturation(x, draws.uniform(max(0.0, 1 - cfg.saturation), 1 + cfg.saturation)),
            lambda x: F.adjust_hue(x, draws.uniform(-cfg.hue, cfg.hue)),
        )
        for i in draws.shuffled(len(steps)):
            image = steps[i](image)
    if draws.chance(cfg.grey):
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if draws.chance(cfg.blur):
        sigma = draws.uniform(0.1, 2.0) * min(1.0, min(image.shape[-2:]) / _BLUR_CROP)
        reach = max(1, round(3 * sigma))
        # reflection needs more pixels than it mirrors
        reach = min(reach, image.shape[-1] - 1, image.shape[-2] - 1)
        if reach > 0:
            image = F.gaussian_blur(image, kernel_size=[2 * reach + 1, 2 * reach + 1], sigma=[sigma, sigma])
    return image


def as_pictures(image_CHW: Tensor, bands: Bands) -> list[Tensor]:
    """Return an image as RGB pictures [3, H, W], for operations that know nothing else.

    Red, green and blue are one picture; every other band is a grey one of its own. The same operation with the same
    draws on each of them moves all bands alike, and makes them brighter or blurred alike; hue and saturation of grey
    pictures stay as they are.

    Args:
        image_CHW: any type.
        bands: its channels.
    """
    if not bands:
        return [image_CHW]
    whole = 3 if are_coloured(bands) else 0
    colours = [image_CHW[:3]] if whole else []
    return colours + [band.expand(3, -1, -1) for band in image_CHW[whole:].split(1)]


def from_pictures(pictures: Sequence[Tensor], bands: Bands) -> Tensor:
    """Return the image of which ``as_pictures`` has made ``pictures``."""
    if not bands:
        return pictures[0]
    colours = [pictures[0]] if are_coloured(bands) else []
    return torch.cat(colours + [picture[:1] for picture in pictures[len(colours) :]])
