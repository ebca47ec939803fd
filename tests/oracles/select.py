"""Slow oracle of pseudo-label selection: sorted Python lists, from the paper (DARS, Eq. 4 and Algorithm 1)."""

from __future__ import annotations

import math


def thresholds(
    pixels: list[tuple[int, float]], rule: str, percent: int, labelled: list[int]
) -> tuple[list[float], list[int]]:
    """Return the least confidence that stays of each class, and how many pixels are wanted of it.

    Args:
        pixels: (predicted class, confidence) of every pixel of the set.
        rule: st, cbst, da or dars.
        percent: 100·α.
        labelled: labelled pixels of each class.
    """
    out, wanted = [], []
    for j in range(len(labelled)):
        mine = sorted((c for label, c in pixels if rule == "st" or label == j), reverse=True)
        if rule in ("st", "cbst"):
            n = percent * len(mine) // 100
        else:
            n = percent * len(pixels) * labelled[j] // (100 * sum(labelled))  # Eq. 4
        if n == 0:
            least = math.inf
        elif not mine:
            least = 0.0
        else:
            least = mine[min(n, len(mine)) - 1]
        out.append(least)
        wanted.append(n)
    return out, wanted


def kept(pixels: list[tuple[int, float]], keys: list[int], rule: str, percent: int, labelled: list[int]) -> list[bool]:
    """Return which pixels stay; of too many candidates those with the smallest keys."""
    least, wanted = thresholds(pixels, rule, percent, labelled)
    stay = [c >= least[label] for label, c in pixels]
    if rule == "dars":
        for j, n in enumerate(wanted):
            mine = sorted((keys[i], i) for i, (label, _) in enumerate(pixels) if stay[i] and label == j)
            for _, i in mine[n:]:
                stay[i] = False
    return stay


def divergence(share: list[float], counts: list[int]) -> float:
    """Return Σ r log(r / q) where every class has pixels."""
    return sum(r * math.log(r / (n / sum(counts))) for r, n in zip(share, counts, strict=True) if r > 0)
