"""Outlines and textures of what lies in a generated scene, as functions of position."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy import ndarray as Array


def _disc(u: Array, v: Array, r: float, form: float) -> Array:
    return np.hypot(u, v) - r


def _box(u: Array, v: Array, r: float, form: float) -> Array:
    a, b = np.abs(u) - r * 0.85, np.abs(v) - r * (0.6 + 0.25 * form)
    return np.hypot(np.maximum(a, 0), np.maximum(b, 0)) + np.minimum(np.maximum(a, b), 0) - 1.0


def _triangle(u: Array, v: Array, r: float, form: float) -> Array:
    slope = 0.55 + 0.12 * form
    side = (np.abs(u) - slope * (v + r)) / np.hypot(1, slope)
    return np.maximum(side, v - 0.75 * r) - 0.5


def _ring(u: Array, v: Array, r: float, form: float) -> Array:
    return np.abs(np.hypot(u, v) - 0.7 * r) - (0.26 + 0.06 * form) * r


def _pebble(u: Array, v: Array, r: float, form: float) -> Array:
    turn = np.arctan2(v, u)
    return np.hypot(u, 1.3 * v) - r * (0.55 + 0.12 * np.cos(2 * turn + 6 * form) + 0.06 * np.cos(3 * turn + 9 * form))


def _twig(u: Array, v: Array, r: float, form: float) -> Array:
    bend = v + (form - 0.5) * u * u / r
    return np.hypot(np.maximum(np.abs(u) - 1.3 * r, 0), bend) - 0.09 * r - 0.6


def _leaf(u: Array, v: Array, r: float, form: float) -> Array:
    shift = (0.5 + 0.5 * form) * r
    return np.hypot(u, np.abs(v) + shift) - np.hypot(r, shift)


def _stripes(s: Array, t: Array) -> Array:
    return np.sin(2 * np.pi * 1.45 * s)


def _checks(s: Array, t: Array) -> Array:
    return 1.6 * np.sin(2 * np.pi * 0.9 * s) * np.sin(2 * np.pi * 0.9 * t)


def _spots(s: Array, t: Array) -> Array:
    a, b = 1.35 * s, 1.35 * t
    return 5 * (0.31 - np.hypot(a - np.round(a), b - np.round(b)))


def _veins(s: Array, t: Array) -> Array:
    return 0.7 * np.exp(-(t * t) / 0.006) - 0.3


def _plain(s: Array, t: Array) -> Array:
    return np.full(s.shape, -1.0)


SHAPES: dict[str, Callable[[Array, Array, float, float], Array]] = {
    "disc": _disc, "box": _box, "triangle": _triangle, "ring": _ring, "pebble": _pebble, "twig": _twig, "leaf": _leaf,
}  # fmt: skip
"""Name to outline: (u, v) in pixels from the centre, radius r in pixels, form in [0, 1) -> signed distance in pixels.

Negative inside; float64 arrays that broadcast.
"""

TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "stripes": _stripes, "checks": _checks, "spots": _spots, "veins": _veins, "plain": _plain,
}  # fmt: skip
"""Name to texture: (s, t) in radii from the centre -> a wave, positive where the second colour goes."""
