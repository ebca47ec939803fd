"""Small scenes of toys on a cloth: a generated data set, for the demonstration and for tests.

A class is a shape *and* a texture: a striped ball and a spotted ball have one outline, a striped ball and a striped box
one texture. Colour is a hint and no more: a class prefers a third of the colour circle, which it shares with its
neighbours, with the cloth, and with the clutter (coins, cards, pebbles, twigs, leaves) that belongs to the background
as the cloth's own stripes and dots do. Toys lie in front of each other, are cut by the frame, and are long-tailed: for
each ring there are nearly three striped balls, with more than four times its pixels. Light falls from one side, and the
camera adds noise.

Every scene is a function of (seed, index, size) alone, computed in float64. ``VERSION`` counts the generator's
revisions: measured numbers are only comparable within one.
"""

from __future__ import annotations

import colorsys
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy import ndarray as Array
from PIL import Image

from fewmask.data.files import folder_aside
from fewmask.data.shapes import SHAPES, TEXTURES
from fewmask.errors import ConfigError
from fewmask.ops.rng import Draws, Purpose

VERSION = 1
"""Of the generator; raised by whoever changes a pixel."""

CLASSES = ("background", "striped ball", "spotted ball", "checked box", "striped box", "spotted triangle", "ring")

SHARES = (0.27, 0.21, 0.17, 0.13, 0.12, 0.10)
"""Share of each class but the background among the toys."""

_LIMITS = np.cumsum(SHARES)[:-1]  # of the draw, between one class and the next

MANIFEST = "README.txt"

_FIRST = {"train": 0, "val": 1_000_000, "test": 2_000_000}  # index of a role's first scene
_PALETTE = (0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128, 128, 0, 128, 0, 128, 128)  # PASCAL VOC's colours
_CREAM = np.array([0.95, 0.92, 0.86])


class _Thing(NamedTuple):
    """A thing to be painted.

    Attributes:
        label: class index.
        shape: key of ``SHAPES``.
        texture: key of ``TEXTURES``.
        round: how far its shading is that of a ball (1) rather than of a flat piece (0).
    """

    label: int
    shape: str
    texture: str
    round: float


_TOYS = (
    _Thing(1, "disc", "stripes", 1.0), _Thing(2, "disc", "spots", 1.0), _Thing(3, "box", "checks", 0.2),
    _Thing(4, "box", "stripes", 0.2), _Thing(5, "triangle", "spots", 0.3), _Thing(6, "ring", "plain", 0.5),
)  # fmt: skip
_CLUTTER = (
    _Thing(0, "disc", "plain", 0.2), _Thing(0, "box", "plain", 0.1), _Thing(0, "pebble", "plain", 1.0),
    _Thing(0, "twig", "plain", 0.4), _Thing(0, "leaf", "veins", 0.3),
)  # fmt: skip


def scene(seed: int, index: int, size: tuple[int, int] = (96, 128)) -> tuple[Array, Array]:
    """Return one scene; the same arguments always give the same pixels.

    Args:
        seed: of the data set, 0 <= seed < 2**64.
        index: which scene, 0 <= index < 2**64.
        size: (height, width) in pixels, at least 16 each.

    Returns:
        The image, uint8 [H, W, 3], RGB, and its mask, uint8 [H, W], indices into ``CLASSES``.

    Raises:
        ConfigError: a size below 16.
    """
    if min(size) < 16:
        raise ConfigError(f"scenes of {size[0]}x{size[1]} pixels show nothing", where="size", todo="use 16 or more")
    draws = Draws(seed, Purpose.SCENE, step=index)
    image, mask = _cloth(draws, size), np.zeros(size, np.uint8)
    angle = draws.uniform(0, 2 * np.pi)
    light = np.array([np.cos(angle), np.sin(angle)])  # (x, y) towards the lamp
    things = [_CLUTTER[draws.integer(0, len(_CLUTTER))] for _ in range(draws.integer(2, 6))]
    toys = [_TOYS[int(np.searchsorted(_LIMITS, draws.uniform()))] for _ in range(draws.integer(4, 8))]
    # most of the clutter lies below the toys, and the last piece may lie on them
    for thing in [*things[:-1], *toys, things[-1]]:
        _paint(image, mask, thing, draws, light)
    return _photograph(image, draws, light), mask


def write_scenes(
    out: Path | str, *, labelled: int = 24, unlabelled: int = 160, val: int = 40, test: int = 60,
    size: tuple[int, int] = (96, 128), seed: int = 0,
) -> Path:  # fmt: skip
    """Write a folder of scenes in the default layout, with classes.txt and README.txt; return its path.

    The folder appears complete or not at all. With the same arguments again, nothing is done.

    Args:
        out: the folder; absent, empty, or one that these arguments have made.
        labelled: training images with a mask; the first ones of the training set.
        unlabelled: training images without.
        val: validation images.
        test: test images.
        size: (height, width) in pixels.
        seed: of all scenes.

    Raises:
        ConfigError: ``out`` holds anything else; a count, size or seed out of range.
        WriteError: the disk refused.
    """
    out = Path(out)
    if labelled < 1 or min(unlabelled, val, test) < 0:
        raise ConfigError(
            "scenes need at least one mask, and no negative counts", where="labelled, unlabelled, val, test"
        )
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed {seed} is out of range", where="seed", todo="use 0 to 2**64 - 1")
    counts = {"train": labelled + unlabelled, "val": val, "test": test}
    manifest = _manifest(counts, labelled, size, seed)
    names = [(role, f"{i:04d}") for role, count in counts.items() for i in range(count)]
    if _is_there(out, manifest, names, labelled):
        return out
    with folder_aside(out) as made:
        for role, name in names:
            image, mask = scene(seed, _FIRST[role] + int(name), size)
            _save(Image.fromarray(image), made / "images" / role / f"{name}.png")
            if role != "train" or int(name) < labelled:
                _save(_indexed(mask), made / "masks" / role / f"{name}.png")
        (made / "classes.txt").write_text("".join(f"{c}\n" for c in CLASSES), encoding="utf-8")
        (made / MANIFEST).write_text(manifest, encoding="utf-8")
        if out.is_dir():
            out.rmdir()  # it is empty
        shutil.move(made, out)
    return out


def _is_there(out: Path, manifest: str, names: list[tuple[str, str]], labelled: int) -> bool:
    """Return whether ``out`` holds these scenes already; False if there is nothing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    todo = "choose another folder, or remove this one"
    path = out / MANIFEST
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != manifest:
        raise ConfigError(
            "the folder holds something else than these scenes; nothing is written over", where=out, todo=todo
        )
    wanted = [f"images/{role}/{name}.png" for role, name in names]
    wanted += [f"masks/{role}/{name}.png" for role, name in names if role != "train" or int(name) < labelled]
    missing = [name for name in (*wanted, "classes.txt") if not (out / name).is_file()]
    if missing:
        raise ConfigError(f"{len(missing)} files of the scenes are missing, first {missing[0]!r}", where=out, todo=todo)
    return True


def _manifest(counts: dict[str, int], labelled: int, size: tuple[int, int], seed: int) -> str:
    train, val, test = counts.values()
    return (
        f"Generated scenes of toys on a cloth, version {VERSION}, seed {seed}, {size[0]} x {size[1]} pixels.\n"
        f"{train} training images ({labelled} with a mask), {val} validation and {test} test images.\n\n"
        f"Made by fewmask.data.scenes.write_scenes(..., labelled={labelled}, unlabelled={train - labelled}, "
        f"val={val}, test={test}, size=({size[0]}, {size[1]}), seed={seed}).\n"
        "Masks are paletted PNG; the index of a pixel is the line of classes.txt, counted from 0.\n"
        "No photograph was used; the images are free of any right.\n"
    )


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, format="PNG")


def _indexed(mask_HW: Array) -> Image.Image:
    image = Image.fromarray(mask_HW)
    image.putpalette(_PALETTE)
    return image


def _paint(image: Array, mask: Array, thing: _Thing, draws: Draws, light: Array) -> None:
    """Paint a thing and its shadow into the image, in place, and its label into the mask."""
    height, width = mask.shape
    side = min(height, width)
    r = side * draws.uniform(0.13, 0.23)
    x, y = draws.uniform(-0.02, 1.02) * width, draws.uniform(-0.02, 1.02) * height
    turn, form, shift = draws.uniform(-0.6, 0.6), draws.uniform(), draws.uniforms(2)
    first, second = _colours(draws, thing.label)
    reach = int(1.6 * r) + 4
    top, left = max(0, int(y) - reach), max(0, int(x) - reach)
    bottom, right = max(top, min(height, int(y) + reach)), max(left, min(width, int(x) + reach))
    rows, columns = np.ogrid[top:bottom, left:right]
    dx, dy = columns + 0.5 - x, rows + 0.5 - y

    def local(dx: Array, dy: Array) -> tuple[Array, Array]:
        return np.cos(turn) * dx + np.sin(turn) * dy, np.cos(turn) * dy - np.sin(turn) * dx

    shape = SHAPES[thing.shape]
    fall = 0.14 * r  # how far the shadow reaches beyond the thing
    dark = shape(*local(dx + light[0] * fall, dy + light[1] * fall), r, form)
    u, v = local(dx, dy)
    distance = shape(u, v, r, form)
    wave = TEXTURES[thing.texture](u / r + shift[0], v / r + (shift[1] if thing.texture != "veins" else 0))
    blend = np.clip(0.5 + 1.5 * wave, 0, 1)[..., None]
    towards = (dx * light[0] + dy * light[1]) / r
    rim = 1 - 0.35 * thing.round * np.clip(np.hypot(dx, dy) / r, 0, 1) ** 3
    shade = ((1 + (0.06 + 0.16 * thing.round) * towards) * rim)[..., None]
    colour = ((1 - blend) * first + blend * second) * shade

    window = image[top:bottom, left:right]
    window *= 1 - 0.45 * np.clip(0.5 - dark / (0.25 * r), 0, 1)[..., None]
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    window *= 1 - cover
    window += cover * colour
    mask[top:bottom, left:right][distance < 0] = thing.label


def _colours(draws: Draws, label: int) -> tuple[Array, Array]:
    """Return two colours, RGB in 0..1, that differ in lightness.

    A class prefers three tenths of the colour circle, and the next class lies a sixth further; label 0 prefers none.
    """
    hue, saturation, value = draws.uniform(), draws.uniform(0.2, 0.75), draws.uniform(0.45, 0.95)
    if label:
        hue, saturation = label / 6 + 0.3 * (hue - 0.5), max(saturation, 0.35)
    first = np.array(colorsys.hsv_to_rgb(hue, saturation, value))
    kind, weight = draws.uniform(), draws.uniform(0.7, 1.0)
    if first.mean() > 0.62:
        second = np.array(colorsys.hsv_to_rgb(hue + (0.5 if kind < 0.3 else 0.04), 0.6, 0.42))
    else:
        other = np.array(colorsys.hsv_to_rgb(hue + 0.12 + 0.7 * kind, 0.35, 0.97))
        second = _CREAM if kind < 0.4 else other
    second = weight * second + (1 - weight) * first
    return (first, second) if draws.chance(0.5) else (second, first)


def _cloth(draws: Draws, size: tuple[int, int]) -> Array:
    """Return the ground, float64 [H, W, 3] in 0..1: two near colours in a pattern, with soft clouds and a weave."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width] / min(size)
    turn, period = draws.uniform(0, np.pi), draws.uniform(0.09, 0.3)
    s = (np.cos(turn) * columns + np.sin(turn) * rows) / period + draws.uniform()
    t = (np.cos(turn) * rows - np.sin(turn) * columns) / period + draws.uniform()
    clouds = _smooth_noise(draws, size, 5) + 0.5 * _smooth_noise(draws, size, 11)
    patterns = (
        clouds, np.sin(2 * np.pi * s), 0.5 * (np.sin(2 * np.pi * s) + np.sin(2 * np.pi * t)),
        0.8 * (np.cos(2 * np.pi * s) + np.cos(2 * np.pi * t) - 0.6), np.sin(2 * np.pi * (0.35 * s + 0.9 * clouds)),
    )  # fmt: skip
    blend = np.clip(0.5 + patterns[draws.integer(0, len(patterns))], 0, 1)[..., None]
    first, second = _colours(draws, 0)
    strength = draws.uniform(0.1, 0.45)
    ground = first + strength * blend * (second - first)
    weave = 0.02 * (np.sin(2.1 * np.arange(height))[:, None] * np.sin(2.1 * np.arange(width)))
    return ground * (1 + 0.08 * clouds + weave)[..., None]


def _smooth_noise(draws: Draws, size: tuple[int, int], cells: int) -> Array:
    """Return noise in -1..1 [H, W], interpolated between the knots of a grid."""
    knots = 2 * draws.uniforms((cells + 1) ** 2).reshape(cells + 1, cells + 1) - 1

    def weights(n: int) -> Array:
        at = np.linspace(0, cells, n)
        near = np.clip(1 - np.abs(at[:, None] - np.arange(cells + 1)), 0, 1)
        return near * near * (3 - 2 * near)

    return weights(size[0]) @ knots @ weights(size[1]).T


def _photograph(image: Array, draws: Draws, light: Array) -> Array:
    """Return the image as a camera sees it, uint8: light from one side, exposure, tint, noise."""
    height, width, _ = image.shape
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)[:, None]
    slope, exposure, tint = draws.uniform(0.05, 0.3), draws.uniform(0.8, 1.1), 1 + 0.08 * (2 * draws.uniforms(3) - 1)
    lit = exposure * (1 + slope * (light[0] * x + light[1] * y)) * (1 - 0.08 * (x * x + y * y))
    sigma = draws.uniform(0.01, 0.03)
    # the sum of four uniforms is near enough to a Gaussian, and the same on every machine
    grain = (draws.uniforms(4 * image.size).reshape(4, *image.shape).sum(0) - 2) * np.sqrt(3.0)
    return np.clip((image * lit[..., None] * tint + sigma * grain) * 255 + 0.5, 0, 255).astype(np.uint8)
