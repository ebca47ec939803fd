"""Which points to take next: those of large worth that lie far from all that were taken before."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 65536  # compared at a time, for bounded memory


def distance(points_ND: Tensor, to_MD: Tensor) -> Tensor:
    """Return each point's (1 - cosine) / 2 to the nearest of others, [N]; 1 where there are none.

    Args:
        points_ND: float, of length 1 each.
        to_MD: float, of length 1 each.
    """
    if not len(to_MD):
        return torch.ones(len(points_ND), dtype=points_ND.dtype)
    return torch.cat([(1 - (part @ to_MD.mT).amax(1)) / 2 for part in points_ND.split(_ROWS)]).clamp(min=0)


def by_worth_and_distance(
    points_ND: Tensor, worth_N: Tensor, to_MD: Tensor, count: int, kin: list[list[int]] | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return places of points, int64 [count], and their distance to all before them, in the order in which they count.

    Greedy: each is the one with the largest worth · distance to what was taken before, the k-centre rule (Sener and
    Savarese, ICLR 2018) weighted by what a label is worth. Of equal ones the first counts.

    Args:
        points_ND: float, of length 1 each; distances are (1 - cosine) / 2.
        worth_N: float, at least 0.
        to_MD: float, of length 1 each, taken before; may be empty.
        count: how many, at most N; fewer come back where every other point has kin among those taken.
        kin: for each point the places of others that need not be taken beside it.
    """
    far_N = distance(points_ND, to_MD)
    free_N = torch.ones(len(points_ND), dtype=torch.bool)
    chosen, distances = list[int](), list[float]()
    for _ in range(count):
        value_N = torch.where(free_N, worth_N * far_N, -1.0)
        i = int(value_N.argmax())
        if not free_N[i]:
            break
        chosen.append(i)
        distances.append(float(far_N[i]))
        free_N[[i, *(kin[i] if kin else [])]] = False
        far_N = torch.minimum(far_N, ((1 - points_ND @ points_ND[i]) / 2).clamp(min=0))
    return torch.tensor(chosen, dtype=torch.int64), torch.tensor(distances)
