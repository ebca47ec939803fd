"""``fewmask bench``: ratios within one process. How large they are is not tested: machines are shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fewmask.bench import KINDS, bench, compare, growth, kernels, names_of, resuming
from fewmask.bench.turns import in_turn, slope
from fewmask.cli.bench import Kind
from fewmask.cli.bench import bench as command
from fewmask.errors import ConfigError
from fewmask.methods import METHODS
from process.helpers import good, run

TINY = ("model.arch=tiny", "model.encoder=tiny", "data.crop=16", "machine.devices=cpu")


def measured(kind: str, *methods: str, data: Path | None = None, rounds: int = 3, settings: tuple[str, ...] = ()):
    return bench(kind, data, methods, (*TINY, *settings), rounds, lambda text: None)


def is_range(figure: dict[str, float]) -> bool:
    return 0 < figure["low"] <= figure["median"] <= figure["high"]


def test_steps_beside_supervised_ones():
    """A supervised step is 3 passes of B labelled images; FixMatch has 7, CPS 12 (spec: performance)."""
    found = measured("step", "fixmatch", "cps")
    assert [row["method"] for row in found["rows"]] == ["supervised", "fixmatch", "cps"]
    supervised, fixmatch, cps = found["rows"]
    assert supervised["R"] == {"median": 1, "low": 1, "high": 1} and supervised["L"] == supervised["G"] == 1
    assert fixmatch["L"] == pytest.approx(7 / 3, rel=0.02) and cps["L"] == pytest.approx(4, rel=0.02)
    for row in found["rows"]:
        assert is_range(row["R"]) and is_range(row["N"])
        assert row["G"] == pytest.approx(row["R"]["median"] / row["L"], rel=1e-3)
        assert row["seconds"]["median"] > 0 and row["peak_memory_mb"] is None
    assert supervised["ops"] < fixmatch["ops"] < cps["ops"]
    assert cps["state_mb"] == pytest.approx(2 * supervised["state_mb"], abs=0.1)
    assert found["setting"]["crop"] == (16, 16) and found["setting"]["data"] == "generated scenes"
    assert found["environment"]["cores"]


def test_the_floor_is_the_networks_and_nothing_else():
    """Its multiplications are those of a step, to half a percent: a padded floor would hide what a method adds.

    A feature that was pushed, drawn or selected is none of a network's: U2PL's contrast multiplies features of the
    bank, so that its floor has less.
    """
    every = [name for name in METHODS if name != "supervised"]
    rows = {row["method"]: row for row in measured("step", *every, rounds=1)["rows"]}
    assert set(rows) == set(METHODS)
    for name, row in rows.items():
        assert is_range(row["N"]), name
        if name == "u2pl":
            assert row["floor_flops"] < 0.995
        else:
            assert row["floor_flops"] == pytest.approx(1, abs=0.005), name


def test_a_method_of_rounds_counts_as_the_mean_of_its_trainings():
    """DARS: a supervised round, and one of as many unlabelled images beside the labelled ones (two passes)."""
    _, dars = measured("step", "dars", rounds=1)["rows"]
    assert dars["L"] == pytest.approx((1 + 2) / 2, rel=0.05)


def test_reading_of_a_folder(data):
    found = measured("data", "fixmatch", data=data, rounds=2)
    supervised, fixmatch = found["rows"]
    assert (supervised["views"], fixmatch["views"]) == (2, 6), "2 labelled; 2 unlabelled, weak and strong"
    for row in found["rows"]:
        assert all(is_range(row[what]) for what in ("images_per_second", "images_per_second_first", "core_ms"))
    assert found["setting"]["classes"] == 3 and found["setting"]["data"] == str(data)


def test_the_command(tmp_path, io):
    """A table for people, an object for machines, and ratios to an earlier one."""
    file = tmp_path / "base.json"
    words = ["bench", "step", *TINY, "--methods", "fixmatch", "--rounds", "2"]
    ended = good(run(io, [*words, "--json", str(file)]))
    assert "R = beside a supervised one" in ended.stdout and "fixmatch" in ended.stdout
    base = json.loads(file.read_text())
    assert set(base) == {"environment", "kind", "setting", "rows"} and base["kind"] == "step"
    ended = good(run(io, [*words, "--json", "-", "--compare", str(file)]))
    said = json.loads(ended.stdout)
    assert {(one["name"], one["what"]) for one in said["compared"]} == {
        (method, what) for method in ("supervised", "fixmatch") for what in ("N", "R", "L", "ops")
    }  # fmt: skip
    assert all(one["ratio"] == 1 for one in said["compared"] if one["what"] in ("L", "ops"))
    ended = run(io, [*words[:2], *words[2:-2], "data.batch=3", "--rounds", "2", "--compare", str(file)])
    assert ended.code == 2 and "another setting was timed there" in ended.error
    ended = run(io, ["bench", "step", "--methods", "fixmach"])
    assert ended.code == 2 and "did you mean 'fixmatch'" in ended.error
    assert run(io, ["bench", "speed"]).code == 2


def test_the_command_prints_a_table_of_every_kind(monkeypatch, capsys):
    """What the columns show is there, whatever was timed."""
    assert {kind.value for kind in Kind} == set(KINDS) | {"leaderboard"}
    small(monkeypatch)
    monkeypatch.setitem(KINDS, "kernels", lambda s: kernels.rows(1, s.say, s.fabric.device, 0.05))
    for kind in set(KINDS) - {"step"}:
        command(Kind(kind), [*TINY], methods="fixmatch", rounds=1)
        table = capsys.readouterr().out
        assert "┃" in table and "nan" not in table, kind


def test_kernels_give_what_the_obvious_forms_give():
    rows = kernels.rows(2, lambda text: None, torch.device("cpu"), scale=0.1)
    assert [row["name"] for row in rows if not row["equal"]] == []
    assert len(rows) == 7 and all(is_range(row["V"]) for row in rows)


def test_labelling_beside_predicting():
    rows = measured("select", rounds=1)["rows"]
    assert [row["name"] for row in rows] == ["none", "st", "cbst", "da", "dars"]
    assert all(is_range(row["P"]) for row in rows)


def test_scoring_beside_its_passes():
    """Sixteen images fit one pass; mirrored two; a window of half a side, stride two thirds of it, 3 x 3."""
    rows = {row["name"]: row for row in measured("evaluate", rounds=1)["rows"]}
    assert {name: row["passes"] for name, row in rows.items()} == {"whole": 1, "flip": 2, "window": 9}
    assert all(is_range(row["E"]) for row in rows.values())


def test_going_back_gives_the_same_step_again(monkeypatch):
    rows = measured("resume", "cps", "dars", rounds=2)["rows"]
    assert [(row["method"], row["equal"]) for row in rows] == [("supervised", True), ("cps", True), ("dars", True)]
    assert all(is_range(row["save"]) and is_range(row["load"]) for row in rows)
    monkeypatch.setattr(resuming, "_restore", lambda arm, store: None)
    assert [row["equal"] for row in measured("resume", rounds=1)["rows"]][0] is False, "it looks"


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, sizes in {"_BANKS": (32, 64), "_LABELLED": (2, 4), "_CLASSES": (2, 5), "_SIDES": (16, 32)}.items():
        monkeypatch.setattr(growth, name, sizes)


def test_growth(monkeypatch):
    small(monkeypatch)
    rows: list[dict[str, Any]] = measured("scale", "fixmatch", rounds=1)["rows"]
    assert [(row["name"], row["over"], row["sizes"]) for row in rows][-2:] == [
        ("step of fixmatch", "classes", [2, 5]), ("step of fixmatch", "pixels", [256, 1024])
    ]  # fmt: skip
    assert len(rows) == 3 + 2 * 2 and all(len(row["seconds"]) == len(row["sizes"]) for row in rows)
    for row in rows:
        if row["over"] == "classes":
            assert len(set(row["ops"])) == 1, "operations a step do not grow with the classes"


def test_leaderboard(data, tmp_path, io):
    """Each method is trained once, supervised training is the others' baseline; the same command trains nothing."""
    words = ["train.steps=2", "train.eval_every=2", "data.batch=2", "data.unlabelled_batch=2", *TINY, "--seeds", "2"]
    words = ["bench", "leaderboard", *words, "model.weights=none", "--data", str(data), "--methods", "fixmatch"]
    words += ["--out", str(tmp_path / "runs")]
    ended = good(run(io, [*words, "--json", "-"]))
    found = json.loads(ended.stdout)
    rows = {row["method"]: row for row in found["rows"]}
    assert set(rows) == {"supervised", "fixmatch"} and found["kind"] == "leaderboard"
    assert [row["val"] for row in found["rows"]] == sorted((row["val"] for row in found["rows"]), reverse=True)
    assert rows["supervised"]["gain"] is None and rows["fixmatch"]["gain"]["covers"]
    assert all(row["seeds"] == [0, 1] and row["steps"] == 2 and row["val_sd"] is not None for row in found["rows"])
    stored = json.loads((tmp_path / "runs/fixmatch/metrics.json").read_text())
    assert rows["fixmatch"]["val"] == stored["val"]["miou"]
    assert not list((tmp_path / "runs/fixmatch").rglob("baseline/metrics.json")), "it is that of the supervised runs"
    again = good(run(io, words))
    assert again.stderr.count("is already finished") == 2 and "fixmatch" in again.stdout


def test_slope_and_turns_by_hand():
    assert slope([1, 10, 100], [3, 3, 3]) == 0 and slope([1, 2, 4, 8], [5, 10, 20, 40]) == 1
    assert slope([10, 1000], [1, 10]) == 0.5
    calls: list[str] = []
    spent = in_turn({name: lambda n=name: calls.append(n) for name in "ab"}, 3, lambda text: None)
    assert "".join(calls) == "baabba" and {name: len(each) for name, each in spent.items()} == {"a": 3, "b": 3}


def test_comparison_by_hand(tmp_path: Path):
    row = {"method": "cps", "N": None, "R": {"median": 4.0, "low": 3.0, "high": 5.0}, "L": 4.0, "ops": 100}
    then = {"kind": "step", "setting": {"crop": (16, 16)}, "rows": [row, {**row, "method": "gone"}]}
    (tmp_path / "a.json").write_text(json.dumps(then))
    now = {**then, "rows": [{**row, "R": {"median": 5.0, "low": 3.0, "high": 5.0}}, {**row, "method": "new"}]}
    assert compare(now, tmp_path / "a.json") == [
        {"name": "cps", "what": "R", "then": 4.0, "now": 5.0, "ratio": 1.25},
        {"name": "cps", "what": "L", "then": 4.0, "now": 4.0, "ratio": 1.0},
        {"name": "cps", "what": "ops", "then": 100, "now": 100, "ratio": 1.0},
    ]
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(ConfigError, match="is no file of fewmask bench"):
        compare(now, tmp_path / "b.json")


def test_names():
    assert names_of(None) == [] and names_of("cps,ucc") == ["cps", "ucc"] and "u2pl" in names_of("all")
