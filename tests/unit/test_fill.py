"""What a recipe leaves open is chosen from the data, and said."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from fewmask.config import dump_yaml
from fewmask.data.index import Item, Pools
from fewmask.method import Task
from fewmask.recipe import SHORT, read_recipe
from fewmask.run.fill import fill, scheduled, tell_of_classes
from fewmask.run.fingerprint import told
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


ITEM = Item("a", Path("a.png"), None)


@pytest.mark.parametrize(
    ("keys", "unlabelled", "sentence"),
    [
        ({}, 3, "training: 2000 steps of 4 labelled and 4 unlabelled crops, adamw at 0.0005, 4 times that for all but"),
        ({"method__name": "supervised"}, 3, "training: 2000 steps of 4 labelled crops, adamw"),
        ({"optim__head_lr_mult": 1, "optim__power": 0, "optim__lr": 0.01}, 0,
         "training: 2000 steps of 4 labelled crops, adamw at 0.01"),
        ({"timed": True}, 0, "training: as many steps as the time allows of 4 labelled crops"),
    ],
)  # fmt: skip
def test_batch_rate_and_schedule_are_said(keys, unlabelled, sentence):
    counts = SimpleNamespace(sizes=np.array([[40, 50]]), rows=lambda items: np.array([0]))
    said: list[str] = []
    timed = keys.pop("timed", False)
    pools = Pools((ITEM,), (ITEM,) * unlabelled)
    fill(asked(machine__devices="cpu", **keys), pools, cast(Any, counts), said.append, timed)
    assert sum(line.startswith(sentence) for line in said) == 1, said
    assert (
        any(line.startswith("steps: 2000 (as few as are ever chosen), 8000 passes over 1 labelled") for line in said)
        is not timed
    )


def test_a_fingerprint_in_a_sentence():
    seen = {
        "labelled": 60, "unlabelled": 3940, "val": 12, "test": 0, "groups": 5, "channels": 4,
        "sizes": {"min": [480, 640], "median": [600, 800], "max": [3000, 4000]},
        "classes": {"soil": 0.9, "weed": 0.0042, "crop": 0.0958, "stone": 0.0}, "machine": {"cores": 2, "cuda": 0},
    }  # fmt: skip
    assert told(seen) == (
        "data: 60 labelled, 3940 unlabelled, 12 val, 0 test; images of 480x640 to 3000x4000, median 600x800, "
        "4 channels; 4 classes, weed the rarest with 0.42 % of the labelled pixels; 5 groups; 2 cores and no GPU"
    )
    alike = seen | {"sizes": dict.fromkeys(("min", "median", "max"), [48, 64]), "groups": 0}
    alike["machine"] = {"cores": 16, "cuda": 2}
    assert "; images of 48x64, 4 channels; " in told(alike) and told(alike).endswith("; no groups; 2 GPUs")


@pytest.mark.parametrize(("method", "classes", "sentence"), [
    ("u2pl", 2, "method.r_low=1: there are only 2 classes"), ("u2pl", 11, None), ("fixmatch", 3, None),
    ("fixmatch", 2, "two classes: no constant of fixmatch is another one for that"),
])  # fmt: skip
def test_few_classes(method, classes, sentence):
    said: list[str] = []
    tell_of_classes(asked(method__name=method), Task(classes), said.append)
    assert said == ([] if sentence is None else [sentence])
