"""What proves that two sources compute the same: a hash of a few steps, which moves when anything computed does."""

from __future__ import annotations

import pytest
from benchmarks.experiments.few_steps import hash_of

from fewmask.data.scenes import write_scenes
from fewmask.engine.learner import Learner
from fewmask.recipe import Recipe, read_recipe


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), labelled=4, unlabelled=6, val=2, test=0, seed=0)


def recipe(scenes, method: str, **keys) -> Recipe:
    small = {"model.arch": "tiny", "model.encoder": "tiny", "model.weights": "none", "data.crop": "32"}
    plain = {"data.dir": str(scenes), "method.name": method, "train.steps": 4, "train.save_every": 4}
    here = {"machine.devices": "cpu", "machine.precision": "fp32", "baseline": False, "data.batch": 2}
    return read_recipe(None, small | plain | here | {key.replace("__", "."): value for key, value in keys.items()})


@pytest.mark.parametrize("method", ["fixmatch", "self_training"])
def test_the_hash_is_that_of_what_is_computed(method, scenes, tmp_path, monkeypatch):
    found = [hash_of(recipe(scenes, method), tmp_path / str(n)) for n in range(2)]
    assert found[0] == found[1]
    assert hash_of(recipe(scenes, method, optim__lr=2e-3), tmp_path / "rate") != found[0]
    monkeypatch.setattr(Learner, "train_mode", lambda self: [net.eval() for net in self.nets.values()])
    assert hash_of(recipe(scenes, method), tmp_path / "mode") != found[0], "the code is another"
