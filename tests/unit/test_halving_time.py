"""What the tries of ``--method auto`` take, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fewmask.errors import ConfigError
from fewmask.recipe import read_recipe
from fewmask.run.halving import costliest, steps_within, tries_ahead
from fewmask.run.pace import Cost, Pace
from fewmask.run.plan import expected

COSTS = [Cost(str(n), (Pace(float(n), 0.5, 0, 2),), (1.0,), (0,)) for n in (1, 4, 2, 5, 3)]


def planned(steps: int, val: int = 10, test: int = 4, **keys: Any) -> Any:
    recipe = read_recipe(None, {"data.dir": "x", "train.steps": steps, **keys})
    index = SimpleNamespace(items={"val": [None] * val, "test": [None] * test})
    return SimpleNamespace(recipe=recipe, index=index, folds=())


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


def test_the_tries_and_the_run_fill_a_time() -> None:
    """An hour: with some ten steps more, tries, baseline and training would take longer than that."""
    steps = steps_within(planned(60), 3600, COSTS)
    assert steps % 10 == 0
    for more, least, most in ((0, 3450, 3600), (20, 3600, 3800)):
        recipe = fitted_to(steps + more)
        tried = tries_ahead(recipe, COSTS, planned(60))[1]
        assert least < expected(recipe, costliest(planned(60), COSTS), planned(60), 7, tried)["seconds"] <= most


def fitted_to(steps: int) -> Any:
    """Return the recipe as a time leaves it: eight scores."""
    return planned(steps).recipe.replace("train", eval_every=-(-steps // 8))


def test_the_least_steps_of_a_try_count() -> None:
    """470 s: the tries alone have 20 steps of 15 s and 5·19 s beside these, 395; the run and its baseline 20 of 6 s."""
    with pytest.raises(ConfigError, match=r"^470 s are enough for \d steps of 1 and 5 beside trying methods; 20 take"):
        steps_within(planned(60), 470, COSTS)
