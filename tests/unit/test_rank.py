"""fewmask.ops.rank, by hand."""

from __future__ import annotations

import math

import torch

from fewmask.ops.rank import by_worth_and_distance


def at(*degrees: float) -> torch.Tensor:
    """Return points of the unit circle."""
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees], dtype=torch.float64)


def far(degrees: float) -> float:
    return (1 - math.cos(math.radians(degrees))) / 2


def test_by_hand() -> None:
    """Points at 30, 90 and 180 degrees, one labelled at 0; worths 1, 1, .4.

    Distances are .067, .5 and 1; values .067, .5 and .4. Then 30 is 60 from the second: still .067; 180 is 90 from it:
    .5, times .4 = .2. At last 30: its distance is still that to 0.
    """
    worth = torch.tensor([1.0, 1.0, 0.4], dtype=torch.float64)
    order, distance = by_worth_and_distance(at(30, 90, 180), worth, at(0), 3)
    assert order.tolist() == [1, 2, 0]
    torch.testing.assert_close(distance.double(), torch.tensor([far(90), far(90), far(30)]).double())


def test_without_worth_it_is_k_centre() -> None:
    points = at(10, 50, 100, 170, 171, 260)
    order, _ = by_worth_and_distance(points, torch.ones(6, dtype=torch.float64), at(0), 4)
    assert order.tolist() == [4, 5, 2, 1]  # 171 is the farthest from 0; 260 from both; 100 is 71 from 171; 50 is 50


def test_kin_is_not_taken_beside_it() -> None:
    order, _ = by_worth_and_distance(at(90, 95, 180), torch.ones(3, dtype=torch.float64), at(0), 3, [[1], [0], []])
    assert order.tolist() == [2, 0], "90 is farther from 180 than 95; 95 is its kin, and nothing else is left"


def test_nothing_labelled() -> None:
    """Then every distance is 1 at first: the worth decides."""
    order, distance = by_worth_and_distance(at(0, 90), torch.tensor([1.0, 2.0]).double(), at(), 1)
    assert order.tolist() == [1] and distance.tolist() == [1.0]
