"""A part of many points: those next to given ones, or those that leave no point far from a chosen one."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 65536  # compared at a time, for bounded memory


def nearest(points_ND: Tensor, to_MD: Tensor, count: int) -> Tensor:
    """Return the places of the points with the largest cosine to any of others, int64 [count], best first.

    Of equal ones the first counts.

    Args:
        points_ND: float, of length 1 each.
        to_MD: float, of length 1 each; at least one.
        count: how many, at most N.
    """
    return closest(points_ND, to_MD).sort(descending=True, stable=True).indices[:count]


def k_centre(points_ND: Tensor, to_MD: Tensor, count: int) -> Tensor:
    """Return places of points, int64 [count], each the farthest from all that were chosen before it and from others.

    The greedy k-centre algorithm (Gonzalez 1985, no farther than twice the optimum; Sener and Savarese, ICLR 2018, for
    choosing what to label). Of equally far ones the first counts.

    Args:
        points_ND: float, of length 1 each; distances are cosines.
        to_MD: float, of length 1 each, counted as chosen; at least one.
        count: how many, at most N.
    """
    close_N = closest(points_ND, to_MD)
    chosen = torch.empty(count, dtype=torch.int64)
    for n in range(count):
        i = int(close_N.argmin())
        chosen[n] = i
        close_N = torch.maximum(close_N, points_ND @ points_ND[i])
        close_N[i] = torch.inf  # never twice, whatever the rounding
    return chosen


def closest(points_ND: Tensor, to_MD: Tensor) -> Tensor:
    """Return each point's largest cosine to any of others, [N].

    Args:
        points_ND: float, of length 1 each.
        to_MD: float, of length 1 each; at least one.
    """
    return torch.cat([(part @ to_MD.mT).amax(1) for part in points_ND.split(_ROWS)])
