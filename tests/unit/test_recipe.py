"""Recipes: overrides, sizes, errors that name the key, and what may differ when a run is continued."""

import pytest

from fewmask.data.sizes import parse_size
from fewmask.errors import ConfigError
from fewmask.recipe import read_recipe
from fewmask.run.differences import differences

DIR = {"data.dir": "photos"}


@pytest.mark.parametrize(
    ("text", "size"), [("192", (192, 192)), ("160x192", (160, 192)), ("16X9", (16, 9)), (64, (64, 64))]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "0", "12x", "axb", "1x2x3", "-4", "1.5"])
def test_wrong_sizes(text):
    with pytest.raises(ConfigError, match="not a size"):
        parse_size(text)


def test_settings_win_over_flags_and_flags_over_the_file(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("data: {dir: here}\nmethod: cps\noptim: {lr: 0.1, power: 0.5}\ntrain: {steps: 7}\n")
    recipe = read_recipe(
        file, {"train.steps": 8, "optim.lr": 0.2, "train.seed": None}, ["optim.lr=0.3", "method.lam=2"]
    )
    assert (recipe.data.dir, recipe.train.steps, recipe.optim.lr, recipe.optim.power) == ("here", 8, 0.3, 0.5)
    assert recipe.method_name == "cps" and recipe.constants().lam == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optim.lrr=1"], "unknown key 'optim.lrr'; recipe; did you mean 'lr'"),
        (["method.tauu=0.5"], "unknown key 'method.tauu'; recipe; did you mean 'tau'"),
        (["method.sup.los=ce"], "did you mean 'loss'"),
        (["data.augment.blurr=1"], "did you mean 'blur'"),
        (["optim.lr=-1"], "optim.lr = -1: Input should be greater than 0"),
        (["train.steps=many"], "train.steps"),
        (["protocol=wholee"], "did you mean 'whole'"),
        (["method.name=fixmtch"], "did you mean 'fixmatch'"),
        (["steps"], "'steps' is not key=value"),
        (["optim.lr={"], "is not YAML"),
        (["optim.lr.x=1"], "optim.lr"),
    ],
)
def test_errors_name_the_key(settings, message):
    with pytest.raises(ConfigError) as error:
        read_recipe(None, DIR | {"method": "fixmatch", "optim.lr": 0.1}, settings)
    assert message in str(error.value)


def test_constants_without_a_method_are_refused():
    with pytest.raises(ConfigError, match="need a method"):
        read_recipe(None, DIR, ["method.tau=0.5"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "!!python/object:os.system {}\n"])
def test_files_that_are_no_recipe(tmp_path, text):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        read_recipe(file, DIR)


def test_complete_is_stable_and_reads_back():
    recipe = read_recipe(None, DIR | {"method": "mean_teacher"}, ["method.authors_code=torchsemiseg"])
    once = recipe.complete()
    again = type(recipe).model_validate(once)
    assert again.complete() == once
    assert once["method"]["weight"] == 100 and once["method"]["ema_ramp"] is False


def test_differences_know_what_may_differ():
    asked = read_recipe(None, DIR | {"method": "cps", "machine.devices": "cpu:2", "machine.workers": 3})
    chosen = read_recipe(
        None, DIR | {"method": "cps", "model.arch": "unet", "model.encoder": "resnet18", "data.crop": "96"},
        ["machine.precision=bf16", "machine.channels_last=true"],
    )  # fmt: skip
    assert differences(asked, chosen.complete()) == []
    other = read_recipe(None, DIR | {"method": "cps", "train.steps": 5, "data.resize": "64"}, ["method.lam=2"])
    found = differences(other, chosen.complete())
    assert [line.split(":")[0] for line in found] == ["data.resize", "method.lam", "train.steps"]
