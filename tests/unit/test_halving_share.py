"""What part of a time the tries of ``--method auto`` take, by hand."""

from __future__ import annotations

import pytest

from fewmask.run.halving import share_of_halving
from fewmask.run.pace import Cost, Pace


def test_share_by_hand() -> None:
    """1 to 5 s a step: an eighth of the steps of all, 15/8 s; a third of 4 and 5, 3 s; the run 5 s, the baseline 1."""
    costs = [Cost(str(n), (Pace(float(n), 0, 0, 0),), (1.0,), (0,)) for n in (1, 4, 2, 5, 3)]
    assert share_of_halving(costs) == pytest.approx(4.875 / (4.875 + 6))
