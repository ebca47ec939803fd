"""Schedules: each a pure function of the step, so that resume needs no scheduler state."""

from __future__ import annotations

import math


def sigmoid_ramp(t: int, length: int) -> float:
    """Return exp(-5·(1 - t/length)²), rising from 0.0067 to 1 over ``length`` steps (Laine and Aila, ICLR 2017)."""
    return 1.0 if t >= length else math.exp(-5.0 * (1.0 - t / length) ** 2)


def poly(t: int, total: int, power: float = 0.9) -> float:
    """Return (1 - t/total)^power: the learning-rate factor of every paper here."""
    return (1.0 - min(t, total) / total) ** power


def warmup(t: int, length: int) -> float:
    """Return (t+1)/length up to 1: a linear learning-rate warm-up that does not start at 0."""
    return min(1.0, (t + 1) / length) if length else 1.0


def ema_decay(t: int, decay: float) -> float:
    """Return min(1 - 1/(t+1), decay): a copy at step 0, a plain average at first, then the given decay."""
    return min(1.0 - 1.0 / (t + 1), decay)
