"""What a recipe leaves open is chosen from the data, and said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fewmask.data.index import Pools
from fewmask.recipe import read_recipe
from fewmask.run.fill import fill


@pytest.mark.parametrize(
    ("size", "resize", "crop", "proposed"),
    [
        ((3000, 4000), None, (256, 256), "--resize 448x576"),  # 0.26 megapixels: four crops
        ((600, 800), None, (256, 256), None),
        ((700, 1000), None, (256, 256), "--resize 416x608"),
        ((3000, 4000), "300x400", (256, 256), None),
        ((40, 50), None, (32, 48), None),
    ],
)
def test_crops(size, resize, crop, proposed):
    counts = SimpleNamespace(sizes=np.array([size, size]), rows=lambda items: np.array([0, 1]))
    keys = {"data.dir": ".", "machine.devices": "cpu", "method.name": "supervised", "data.resize": resize}
    said: list[str] = []
    recipe = fill(read_recipe(None, keys), Pools((), ()), cast(Any, counts), said.append)
    assert recipe.data.crop == crop
    found = [text for text in said if "a crop shows" in text]
    assert [proposed in text for text in found] == ([True] if proposed else []), found
    assert any(text.startswith("crop: 256x256, from a median input of") for text in said) == (crop == (256, 256))
