"""Scores on an image's own grid, a band of rows at a time: all of them at once are the largest thing in memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def rows_on_grid(scores_BKHW: Tensor, size: tuple[int, int], most: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (row, scores [B, K, rows, W]) from the top to the bottom of a grid, bilinear where the scores have another.

    Args:
        scores_BKHW: on the network's grid.
        size: (height, width) of the grid that is wanted.
        most: numbers that a band may hold; it has one row at least.
    """
    height, width = size
    rows = max(1, most // (scores_BKHW.shape[0] * scores_BKHW.shape[1] * width))
    for row in range(0, height, rows):
        end = min(row + rows, height)
        if tuple(scores_BKHW.shape[-2:]) == size:
            yield row, scores_BKHW[:, :, row:end]
        elif end - row == height:
            yield row, F.interpolate(scores_BKHW, size, mode="bilinear", align_corners=False)
        else:
            part = _rows(scores_BKHW, row, end, height)
            yield row, F.interpolate(part, (end - row, width), mode="bilinear", align_corners=False)


def _rows(scores_BKHW: Tensor, row: int, end: int, height: int) -> Tensor:
    """Return the rows from ``row`` to ``end`` of the scores resized to so many; columns stay."""
    own, device = scores_BKHW.shape[-2], scores_BKHW.device
    # torch's own rounding of places: a ratio in single precision, then multiplied and added in one operation
    ratio = torch.tensor(own / height, dtype=torch.float32).double()
    at = ((torch.arange(row, end) + 0.5).double() * ratio - 0.5).float().clamp(min=0)
    above = at.long().clamp(max=own - 1)
    below = (above + 1).clamp(max=own - 1)
    share = (at - above)[:, None].to(device, scores_BKHW.dtype)
    first, second = (scores_BKHW.index_select(2, rows.to(device)) for rows in (above, below))
    return torch.lerp(first, second, share)
