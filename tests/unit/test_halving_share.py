"""What the tries of ``--method auto`` take, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fewmask.errors import ConfigError
from fewmask.recipe import read_recipe
from fewmask.run.halving import costliest, share_of_halving, steps_within, tries_ahead
from fewmask.run.pace import Cost, Pace

COSTS = [Cost(str(n), (Pace(float(n), 0.5, 0, 2),), (1.0,), (0,)) for n in (1, 4, 2, 5, 3)]


def planned(steps: int, val: int = 10, test: int = 4, **keys: Any) -> Any:
    recipe = read_recipe(None, {"data.dir": "x", "train.steps": steps, **keys})
    index = SimpleNamespace(items={"val": [None] * val, "test": [None] * test})
    return SimpleNamespace(recipe=recipe, index=index, folds=())


def test_share_by_hand() -> None:
    """1 to 5 s a step: an eighth of the steps of all, 15/8 s; a third of 4 and 5, 3 s; the run 5 s, the baseline 1."""
    assert share_of_halving(COSTS) == pytest.approx(4.875 / (4.875 + 6))


def test_tries_by_hand() -> None:
    """240 steps: 30 of all five, 15 s a step of each, and 80 of the costliest two, 9 s.

    Seven times 5 s to begin, 10 val images twice and 4 test images twice, .5 s each.
    """
    tries, seconds = tries_ahead(planned(240).recipe, COSTS, planned(240))
    assert tries == 7 and seconds == pytest.approx(30 * 15 + 80 * 9 + 7 * (5 + 20 * 0.5 + 8 * 0.5))


def test_tries_that_would_be_the_same_are_made_once() -> None:
    """60 steps: an eighth of them and a third are fewer than the 20 that every try has."""
    tries, seconds = tries_ahead(planned(60).recipe, COSTS, planned(60))
    assert tries == 5 and seconds == pytest.approx(20 * 15 + 5 * (5 + 10 + 4))


def test_without_a_baseline_none_is_counted() -> None:
    assert [cost.method for cost in costliest(planned(60), COSTS)] == ["1", "5"]
    assert [cost.method for cost in costliest(planned(60, baseline=False), COSTS)] == ["5"]


def test_a_time_that_is_too_short_is_told_as_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"^55 of 100 s, beside trying methods, are enough for 1 steps of 1 and 5;"):
        steps_within(planned(60), 100, COSTS)
