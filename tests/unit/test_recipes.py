"""Recipes in the repository, and the pages that describe the keys of a recipe."""

import re
from pathlib import Path

import pytest
import yaml

from fewmask.methods import METHODS
from fewmask.recipe import leaves, read_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
assert RECIPES, "no recipes, so nothing would be tested"
ROW = re.compile(r"^\| `([\w.]+)` \| `([^`]+)` \|", re.MULTILINE)


def relative(path):
    return path.relative_to(ROOT).as_posix()


def rows(page):
    """Return key to default of the tables of a page whose rows open with | `key` | `default` |."""
    found = ROW.findall((ROOT / page).read_text(encoding="utf-8"))
    assert len(found) == len({key for key, _ in found}), f"{page} has a key twice"
    return {key: yaml.safe_load(default) for key, default in found}


def defaults(method):
    """Return key to default of a method's own constants."""
    tree = read_recipe(None, {"data.dir": "photos", "method.name": method}).complete()["method"]
    return {key: value for key, value in leaves(tree) if key != "name"}


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_is_complete(path):
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == read_recipe(path, {}).complete()


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_recipe_is_of_the_method_in_its_name(path):
    assert path.stem in METHODS
    assert read_recipe(path, {}).method_name == path.stem


@pytest.mark.parametrize("path", RECIPES, ids=relative)
def test_header_says_command_time_and_score(path):
    header = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert f"--recipe {relative(path)}" in header
    for word in ("# command: fewmask train", "hardware", "time", "mIoU", "paper:", "ours:"):
        assert word in header, word


@pytest.mark.parametrize("path", [p for p in RECIPES if p.parent.parts[-2:] == ("camvid", "16")], ids=relative)
def test_camvid_recipe_is_the_command_with_flags(path):
    flags = {
        "data.labelled": "16", "model.arch": "deeplabv3plus", "model.encoder": "mobilenet_v2",
        "data.resize": "120x160", "data.crop": "96x128", "train.steps": 1500, "method": path.stem,
    }  # fmt: skip
    given = {"data.dir": "elsewhere", "model.weights": "mobilenet_v2.safetensors"}
    assert read_recipe(path, given).complete() == read_recipe(None, given | flags).complete()


def test_page_on_recipes_lists_every_key_with_its_default():
    tree = read_recipe(None, {"data.dir": "photos"}).complete()
    expected = {key: value for key, value in leaves(tree) if key != "data.dir"}
    assert rows("docs/recipes.md") == expected


@pytest.mark.parametrize("method", METHODS)
def test_page_of_a_method_lists_every_constant_with_its_default(method):
    expected = defaults(method)
    if method != "supervised":  # whose page describes the loss that all share
        expected = {key: value for key, value in expected.items() if not key.startswith("sup.")}
    assert rows(f"docs/methods/{method}.md") == expected
