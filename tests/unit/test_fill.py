"""What a recipe leaves open is chosen from the data, and said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fewmask.config import dump_yaml
from fewmask.data.index import Item, Pools
from fewmask.recipe import SHORT, read_recipe
from fewmask.run.fill import fill, scheduled
from fewmask.run.folder import RunFolder
from fewmask.run.plan import settle


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


def asked(**keys):
    return read_recipe(None, {"data.dir": "photos"} | {key.replace("__", "."): value for key, value in keys.items()})


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "cuda", "keys", "steps", "every"),
    [
        (60, 3940, False, {}, 2000, 250),
        (400, 0, False, {}, 2000, 250),  # 20 x 400 / 4
        (401, 0, False, {}, 2500, 312),  # 2005: the next 500
        (1000, 0, False, {}, 5000, 625),
        (1000, 0, False, {"data__batch": 8}, 2500, 312),
        (10**6, 0, False, {}, 8000, 1000),
        (60, 3940, True, {}, 10_000, 1250),  # 10 x 3940 / 4 = 9850
        (60, 3940, True, {"data__unlabelled_batch": 8}, 5000, 625),
        (60, 3940, True, {"method__name": "supervised"}, 2000, 250),
        (60, 10**6, True, {}, 16_000, 2000),
        (1000, 0, False, {"train__steps": 1500}, 1500, 250),
        (1000, 0, False, {"train__steps": 2000}, 2000, 250),
    ],
)
def test_steps(labelled, unlabelled, cuda, keys, steps, every):
    train = scheduled(asked(**keys), labelled, unlabelled, cuda).train
    assert (train.steps, train.eval_every, train.save_every) == (steps, every, every)
    assert steps < SHORT, "the constants are those of short runs"


def test_what_is_given_stays():
    train = scheduled(asked(train__eval_every=100), 1000, 0, False).train
    assert (train.steps, train.eval_every, train.save_every) == (5000, 100, 625)


@pytest.mark.parametrize("timed", [True, False])
def test_steps_are_said_unless_a_time_chooses_them(timed, tmp_path):
    counts = SimpleNamespace(sizes=np.array([[64, 64]]), rows=lambda items: np.array([0]))
    items = tuple(Item(f"{n}", tmp_path / f"{n}.png", None) for n in range(600))
    said: list[str] = []
    recipe = fill(asked(machine__devices="cpu"), Pools(items, ()), cast(Any, counts), said.append, timed)
    assert recipe.train.steps == (2000 if timed else 3000)
    assert ("steps: 3000, 20 passes over 600 labelled images" in said) is not timed


def test_a_run_goes_on_with_the_steps_it_chose(tmp_path):
    """On a GPU it chose 10,000; whoever gives steps, or has other images, has another run."""
    folder = RunFolder(tmp_path)
    begun = scheduled(asked(), 60, 3940, True)
    folder.config.write_text(dump_yaml(begun.complete()))
    folder.data.write_text(dump_yaml({"labelled": 60, "unlabelled": 3940}))
    assert settle(asked(), folder, None).train == begun.train
    assert settle(asked(train__steps=2000), folder, None).train.steps == 2000
    folder.data.write_text(dump_yaml({"labelled": 60, "unlabelled": "no number"}))
    assert settle(asked(), folder, None).train.steps == 2000
