"""What --init RUN takes from a run, and the command that a run prints for that."""

from __future__ import annotations

import shlex

import pytest
import yaml

from fewmask.recipe import for_its_length, read_recipe
from fewmask.run.again import as_before, init_command


def made(tmp_path, labelled=16, unlabelled=100, **keys):
    """Write a run folder that holds what these commands read; return it and its recipe."""
    recipe = for_its_length(read_recipe(None, {"data.dir": "photos", "method.name": "fixmatch"} | keys))
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"labelled": labelled, "unlabelled": unlabelled}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(recipe.complete()))
    return tmp_path, recipe


def asked(run, **keys):
    return as_before(read_recipe(None, {"data.dir": "photos", "model.init": str(run)} | keys))


def test_network_and_input_are_those_of_the_run(tmp_path):
    keys = {"model.arch": "unet", "model.encoder": "resnet18", "model.output_stride": 16, "data.resize": "60x80"}
    run, recipe = made(tmp_path, **keys)
    taken = asked(run)
    assert taken.model.options == recipe.model.options and taken.data.resize == (60, 80)
    assert (taken.model.arch, taken.model.encoder, taken.model.weights) == ("unet", "resnet18", "none")
    own = asked(run, **{"model.arch": "fpn", "data.resize": "30x40", "model.weights": "imagenet"})
    assert (own.model.arch, own.model.encoder, own.model.weights) == ("fpn", "resnet18", "imagenet")
    assert own.data.resize == (30, 40)


def test_protocol_of_the_run(tmp_path):
    run, _ = made(tmp_path, protocol="camvid")
    assert asked(run).protocol == "camvid" and asked(run, protocol="whole").protocol == "whole"


def test_files_and_no_init_change_nothing(tmp_path):
    for recipe in (
        read_recipe(None, {"data.dir": "p"}),
        read_recipe(None, {"data.dir": "p", "model.init": "a.safetensors"}),
    ):
        assert as_before(recipe) == recipe


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, ""),
        ({"train.steps": 900, "data.crop": "96x128", "seeds": 3}, "--crop 96x128 --steps 900 --seeds 3"),
        ({"method.tau": 0.4, "optim.name": "sgd", "baseline": False}, "--no-baseline method.tau=0.4 optim.name=sgd"),
        ({"data.group_by": "(a|b)_", "data.augment.blur": 0.2}, "--group-by '(a|b)_' data.augment.blur=0.2"),
        ({"data.labelled": 6, "machine.workers": 2, "data.resize": "60x80", "model.arch": "unet"}, ""),
    ],
)
def test_the_command_repeats_what_was_set(tmp_path, keys, words):
    run, recipe = made(tmp_path, **keys)
    command = init_command(recipe, run)
    assert sorted(shlex.split(command)[7:]) == sorted(shlex.split(words))
    assert shlex.split(command)[:7] == ["fewmask", "train", "photos", "--init", str(run), "--method", "fixmatch"]


def test_it_says_the_same_recipe(tmp_path):
    keys = {"train.steps": 900, "data.crop": "96x128", "method.tau": 0.4, "optim.lr": 0.02, "data.batch": 3}
    run, recipe = made(tmp_path, **keys)
    settings = [word for word in shlex.split(init_command(recipe, run))[7:] if "=" in word]
    flags = {"train.steps": 900, "data.crop": "96x128", "data.batch": 3}
    again = for_its_length(read_recipe(None, {"data.dir": "photos", "method.name": "fixmatch"} | flags, settings))
    assert again.complete() == recipe.complete()


def test_steps_that_the_images_chose_are_chosen_anew(tmp_path):
    """600 labelled images: 20 passes of 4 are 3000 steps."""
    run, recipe = made(tmp_path, labelled=600)
    recipe = recipe.replace("train", steps=3000, eval_every=375, save_every=375)
    assert "--steps" not in init_command(recipe, run) and "train." not in init_command(recipe, run)
    assert "--steps 2900" in init_command(recipe.replace("train", steps=2900), run)
