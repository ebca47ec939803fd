"""The format of a run: timed, or as a run beside it has timed the same network on the same machine."""

import json

import pytest

from fewmask.config import dump_yaml
from fewmask.engine.precision import Format
from fewmask.recipe import read_recipe
from fewmask.run import layout
from fewmask.run.environment import environment
from fewmask.run.layout import choose_layout

BF16 = Format("bf16", True, "bf16 with channels_last: 2.0 times as fast as plain fp32 here")
KEYS = {
    "data.dir": ".", "data.crop": "12", "data.batch": 2, "model.arch": "tiny", "model.encoder": "tiny",
    "model.weights": "none", "machine.devices": "cpu", "method.name": "supervised",
}  # fmt: skip


@pytest.fixture
def asked(monkeypatch):
    """Return a function that chooses as a run of so many steps would; timings find bf16 to be the fastest."""
    monkeypatch.setattr(
        layout, "choose", lambda wanted, *_: BF16 if wanted == "auto" else Format(wanted, False, "as asked")
    )

    def choose(beside, classes=3, **keys):
        recipe = read_recipe(None, KEYS | {key.replace("__", "."): value for key, value in keys.items()})
        return choose_layout(recipe, classes, 3, beside)[0]

    return choose


@pytest.fixture
def beside(asked, tmp_path):
    """A folder of runs with one that has timed plain fp32 to be the fastest."""
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    timed = asked(tmp_path / "none").timed
    assert timed is not None and timed["batch"] == [2, 3, 12, 12]
    (run / "metrics.json").write_text('{"method": "supervised"}')
    (run / "environment.json").write_text(json.dumps(environment() | {"timed": timed}))
    keys = KEYS | {"machine.precision": "fp32", "machine.channels_last": False}
    (run / "config.yaml").write_text(dump_yaml(read_recipe(None, keys).complete()))
    return run.parent


def edit(beside, **changes):
    file = beside / "a" / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_a_run_beside_has_timed_is_taken_over(asked, beside):
    found = asked(beside)
    assert (found.precision, found.channels_last) == ("fp32", False)
    assert str(beside / "a") in found.why and found.timed == asked(beside / "none").timed
    assert asked(beside, method__name="fixmatch", train__steps=77, data__dir="elsewhere").precision == "fp32"


SMALL = {"model.arch": "small", "model.encoder": "small"}


@pytest.mark.parametrize(("keys", "classes"), [({"data.crop": "16"}, 3), ({"data.batch": 4}, 3), (SMALL, 3), ({}, 4)])
def test_another_network_is_timed(asked, beside, keys, classes):
    found = asked(beside, classes, **{key.replace(".", "__"): value for key, value in keys.items()})
    assert found.precision == "bf16" and found.why == BF16.why


@pytest.mark.parametrize(
    "changes", [{"cores": 999}, {"cuda": "another"}, {"packages": {}}, {"timed": None}, {"timed": []}], ids=str
)
def test_another_machine_is_timed(asked, beside, changes):
    edit(beside, **changes)
    assert asked(beside).precision == "bf16"


@pytest.mark.parametrize("file", ["environment.json", "config.yaml"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff{", b"{}"])
def test_a_run_that_cannot_be_read_is_none_to_go_by(asked, beside, file, content):
    (beside / "a" / file).write_bytes(content)
    assert asked(beside).precision == "bf16"


def test_what_was_asked_for_stands(asked, beside):
    found = asked(beside, machine__precision="bf16")
    assert found.why == "as asked" and found.timed is None
