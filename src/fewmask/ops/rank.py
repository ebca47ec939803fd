"""Which points to take next: those that bring most of what is worth it close to something taken."""

from __future__ import annotations

import torch
from torch import Tensor

from fewmask.ops.coreset import closest

_ROWS = 4096  # compared at a time, for bounded memory


def distance(points_ND: Tensor, to_MD: Tensor) -> Tensor:
    """Return each point's (1 - cosine) / 2 to the nearest of others, [N]; 1 where there are none.

    Args:
        points_ND: float, of length 1 each.
        to_MD: float, of length 1 each.
    """
    if not len(to_MD):
        return torch.ones(len(points_ND), dtype=points_ND.dtype)
    return ((1 - closest(points_ND, to_MD)) / 2).clamp(0, 1)


def nearest_to(points_ND: Tensor, chosen_CD: Tensor, to_MD: Tensor) -> Tensor:
    """Return for each of some chosen points how many points are nearer to it than to the others, int64 [C].

    Args:
        points_ND: float, of length 1 each.
        chosen_CD: the same; of equally near ones the first counts.
        to_MD: the same; points that are as near to one of these are not counted.
    """
    if not len(chosen_CD):
        return torch.zeros(0, dtype=torch.int64)
    close_N, place_N = (points_ND @ chosen_CD.mT).max(1)
    ours_N = close_N > (closest(points_ND, to_MD) if len(to_MD) else -torch.inf)
    return torch.bincount(place_N[ours_N], minlength=len(chosen_CD))


def by_covered_worth(
    points_ND: Tensor, worth_N: Tensor, to_MD: Tensor, count: int, kin: list[list[int]] | None = None,
    among: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return places of points, int64 [count], what each covers and its distance to all before it, in their order.

    Greedy: each is the point i with the largest gain Σ_j w_j max(0, d_j - d_ij) / Σ_j w_j, where d_ij is the distance
    of two points, d_j that to the nearest point taken before, and w_j the worth of a point: weighted facility location
    (Wei, Iyer and Bilmes, "Submodularity in data subset selection and active learning", ICML 2015). It takes what is
    like many points of worth, and an outlier only where much of the worth lies in outliers. Gains only fall as points
    are taken, so that one which is recomputed and still the largest is the largest (Minoux 1978). Of equal ones the
    first counts.

    Args:
        points_ND: float, of length 1 each; distances are (1 - cosine) / 2.
        worth_N: float, at least 0.
        to_MD: float, of length 1 each, taken before; may be empty.
        count: how many, at most N; fewer come back where every other point has kin among those taken.
        kin: for each point the places of others that need not be taken beside it.
        among: places of the points that are summed over; None = all of them.
    """
    covered_SD = points_ND if among is None else points_ND[among]
    worth_S = (worth_N if among is None else worth_N[among]).to(points_ND.dtype)
    share_S = worth_S / worth_S.sum().clamp(min=1e-12)
    far_S, far_N = distance(covered_SD, to_MD), distance(points_ND, to_MD)

    def gains(some_MD: Tensor) -> Tensor:
        return (far_S - (1 - some_MD @ covered_SD.mT) / 2).clamp(min=0) @ share_S

    gain_N = torch.cat([gains(part) for part in points_ND.split(_ROWS)])
    chosen, covers, distances = list[int](), list[float](), list[float]()
    fresh_N = torch.ones(len(points_ND), dtype=torch.bool)
    while len(chosen) < min(count, len(points_ND)):
        i = int(gain_N.argmax())
        if gain_N[i] < 0:  # nothing is left
            break
        if not fresh_N[i]:
            gain_N[i], fresh_N[i] = gains(points_ND[i : i + 1])[0], True
            continue
        chosen.append(i)
        covers.append(float(gain_N[i]))
        distances.append(float(far_N[i]))
        gain_N[[i, *(kin[i] if kin else [])]] = -1.0
        fresh_N[:] = False
        far_S = torch.minimum(far_S, ((1 - covered_SD @ points_ND[i]) / 2).clamp(min=0))
        far_N = torch.minimum(far_N, ((1 - points_ND @ points_ND[i]) / 2).clamp(min=0))
    return torch.tensor(chosen, dtype=torch.int64), torch.tensor(covers), torch.tensor(distances)
