"""The recipe of a round: what it changes of the run's own."""

from __future__ import annotations

import pytest

from fewmask.method import Round, Task
from fewmask.methods import resolve
from fewmask.recipe import read_recipe
from fewmask.run.prepare import recipe_of


@pytest.mark.parametrize(
    ("scale", "choice", "factors", "expected"),
    [
        ((0.5, 2.0), False, (1.0, 1.0), (0.5, 2.0)),
        ((0.5, 2.0), False, (0.8, 1.5), (0.4, 3.0)),
        ((1.0,), True, (1.0, 1.0), (1.0,)),
        ((1.0,), True, (0.5, 1.5), (0.5, 1.5)),
        ((0.5, 1.75, 1.0), True, (1.0, 1.0), (0.5, 1.75, 1.0)),
        ((0.5, 1.75, 1.0), True, (0.8, 2.0), (0.4, 1.0, 3.5)),  # the largest, not the last one
    ],
)
def test_scales(scale, choice, factors, expected):
    keys = {
        "data.dir": ".",
        "method.name": "dars",
        "data.augment.scale": list(scale),
        "data.augment.scale_choice": choice,
        "optim.lr": 0.1,
    }
    recipe = read_recipe(None, keys)
    method = resolve("supervised")(recipe.constants(), Task(2))
    found = recipe_of(recipe, Round("a", method, 1.0, scale=factors, rate=0.5, batch=7))
    assert found.data.augment.scale == pytest.approx(expected)
    assert (found.optim.lr, found.data.batch) == (0.05, 7)
