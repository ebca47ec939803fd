"""fewmask.ops.rank, by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fewmask.ops.rank import by_covered_worth, nearest_to


def at(*degrees: float) -> torch.Tensor:
    """Return points of the unit circle."""
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=torch.float64)


def far(degrees: float) -> float:
    return (1 - math.cos(math.radians(degrees))) / 2


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.float64)


def test_by_hand() -> None:
    """Points at 30, 90 and 180 degrees, one labelled at 0; worths 1, 1, .4, together 2.4.

    Distances to a label are .067, .5 and 1. The second brings itself (.5) and the third (from 1 to .5, times .4)
    closer: .7/2.4. The first brings itself (.067), the second (from .5 to .25) and the third (from 1 to .933, times
    .4): .34/2.4; the third only itself, .4/2.4. Then the third: .5 · .4 / 2.4, and last the first: .067/2.4.
    """
    worth = torch.tensor([1.0, 1.0, 0.4], dtype=torch.float64)
    order, covers, distance = by_covered_worth(at(30, 90, 180), worth, at(0), 3)
    assert order.tolist() == [1, 2, 0]
    torch.testing.assert_close(covers.double(), torch.tensor([0.7, 0.2, far(30)]).double() / 2.4)
    torch.testing.assert_close(distance.double(), torch.tensor([far(90), far(90), far(30)]).double())


def test_the_middle_of_many_comes_before_an_outlier() -> None:
    order, _, _ = by_covered_worth(at(86, 88, 90, 92, 94, 270), ones(6), at(0), 2)
    assert order.tolist() == [2, 5]


def test_worth_decides_where_it_is_large() -> None:
    worth = torch.tensor([0.01, 0.01, 0.01, 0.01, 0.01, 1.0], dtype=torch.float64)
    order, _, _ = by_covered_worth(at(86, 88, 90, 92, 94, 270), worth, at(0), 2)
    assert order.tolist() == [5, 2]


def test_kin_is_not_taken_beside_it() -> None:
    order, _, _ = by_covered_worth(at(90, 95, 180), ones(3), at(0), 3, [[1], [0], []])
    assert order.tolist() == [1, 2], "95 covers itself, 90 and a part of 180; 90 is its kin"


def test_nothing_labelled() -> None:
    """Then every distance is 1 at first."""
    order, covers, distance = by_covered_worth(at(0, 90), torch.tensor([1.0, 2.0]).double(), at(), 1)
    assert order.tolist() == [1] and distance.tolist() == [1.0]
    assert covers.tolist() == pytest.approx([(2 * 1 + 1 * 0.5) / 3])


def test_worth_of_nothing_and_more_than_there_are() -> None:
    order, covers, _ = by_covered_worth(at(0, 90), torch.zeros(2).double(), at(180), 5)
    assert order.tolist() == [0, 1] and covers.tolist() == [0, 0]


def test_summed_over_some() -> None:
    """Only the point at 180 counts: the nearest to it comes first."""
    order, covers, _ = by_covered_worth(at(30, 170, 180), ones(3), at(0), 1, among=torch.tensor([2]))
    assert order.tolist() == [2] and covers.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_put_off_is_what_would_have_been_computed(seed: int) -> None:
    """Gains that are not recomputed in every round lead to the order of those that are."""
    generator = torch.Generator().manual_seed(seed)
    points = F.normalize(torch.randn(60, 4, generator=generator, dtype=torch.float64), dim=1)
    worth, before = torch.rand(60, generator=generator, dtype=torch.float64), points[:3]
    taken, plain = list(range(3)), list[int]()
    for _ in range(20):
        near = ((1 - points @ points[taken].T) / 2).amin(1)
        gains = ((near[None] - (1 - points @ points.T) / 2).clamp(min=0) @ worth).tolist()
        plain.append(max((i for i in range(60) if i not in plain), key=gains.__getitem__))
        taken.append(plain[-1])
    assert by_covered_worth(points, worth, before, 20)[0].tolist() == plain


def test_whom_a_point_stands_for() -> None:
    assert nearest_to(at(0, 10, 50, 60, 100, 110), at(60, 110), at(5)).tolist() == [2, 2]
    assert nearest_to(at(0, 10), at(0), at()).tolist() == [2] and nearest_to(at(0), at(), at()).tolist() == []
