"""Closed form of the exponential moving average."""

import math


def ema(start: float, values: list[float], decays: list[float]) -> float:
    """Return θ̄ after all steps: Π d_i · θ̄_0 + Σ_i (1 - d_i)·θ_i·Π_{j>i} d_j."""
    last = len(values)
    terms = [(1 - decays[i]) * values[i] * math.prod(decays[i + 1 : last]) for i in range(last)]
    return math.prod(decays) * start + math.fsum(terms)
