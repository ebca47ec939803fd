"""Constants for short runs: where nobody gives others, and never in a recipe that is complete."""

from __future__ import annotations

import pytest

from fewmask.config import dump_yaml
from fewmask.methods import METHODS, resolve
from fewmask.recipe import SHORT, for_its_length, read_recipe

DIR = {"data.dir": "photos"}
HAVE = [name for name in METHODS if resolve(name).short]


def test_the_one_round_methods_of_the_mission_have_some():
    assert {"fixmatch", "mean_teacher", "cps", "ucc", "u2pl"} <= set(HAVE)


@pytest.mark.parametrize("name", HAVE)
def test_they_are_constants_that_differ_from_the_papers(name):
    method = resolve(name)
    config, plain = method.Config.model_validate(dict(method.short)), method.Config()
    assert all(getattr(config, key) != getattr(plain, key) for key in method.short)


def test_below_the_limit_only():
    both = [read_recipe(None, DIR | {"method": "cps", "train.steps": n}) for n in (SHORT - 1, SHORT)]
    short, long = map(for_its_length, both)
    assert short.constants().model_dump() | {"lam": 1.5, "ramp": 0.0} == long.constants().model_dump()
    assert short.constants().model_dump()["lam"] == 0.5


def test_what_somebody_says_counts(tmp_path):
    one = for_its_length(read_recipe(None, DIR | {"method": "u2pl"}, ["method.warmup=0", "method.eta=1.0"]))
    constants = one.constants().model_dump()
    assert (constants["warmup"], constants["eta"], constants["cutmix"]) == (0, 1, 1)
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_yaml(read_recipe(None, DIR | {"method": "u2pl"}).complete()))
    assert for_its_length(read_recipe(file, {})) == read_recipe(file, {})
    published = read_recipe(None, DIR | {"method": "mean_teacher"}, ["method.authors_code=torchsemiseg"])
    assert for_its_length(published) == published
