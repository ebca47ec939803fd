"""``fewmask bench``: ratios of steps and of reading within one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewmask.errors import ConfigError
from fewmask.run.bench import bench, compare, names_of
from process.helpers import good, run

TINY = ("model.arch=tiny", "model.encoder=tiny", "data.crop=16", "machine.devices=cpu")


def measured(kind, *methods, data=None, rounds=3, settings=()):
    return bench(kind, data, methods, (*TINY, *settings), rounds, lambda text: None)


def test_steps_beside_supervised_ones():
    """A supervised step is 3 passes of B labelled images; FixMatch has 7, CPS 12 (spec: performance)."""
    found = measured("step", "fixmatch", "cps")
    assert [row["method"] for row in found["rows"]] == ["supervised", "fixmatch", "cps"]
    supervised, fixmatch, cps = found["rows"]
    assert supervised["R"] == {"median": 1, "low": 1, "high": 1} and supervised["L"] == supervised["G"] == 1
    assert fixmatch["L"] == pytest.approx(7 / 3, rel=0.02) and cps["L"] == pytest.approx(4, rel=0.02)
    for row in found["rows"]:
        assert 0 < row["R"]["low"] <= row["R"]["median"] <= row["R"]["high"]
        assert row["G"] == pytest.approx(row["R"]["median"] / row["L"], rel=1e-3)
        assert row["seconds"]["median"] > 0 and row["peak_memory_mb"] is None and row["N"] is None
    assert supervised["ops"] < fixmatch["ops"] < cps["ops"]
    assert cps["state_mb"] == pytest.approx(2 * supervised["state_mb"], abs=0.1)
    assert found["setting"]["crop"] == (16, 16) and found["setting"]["data"] == "generated scenes"
    assert found["environment"]["cores"]


def test_a_method_of_rounds_counts_as_the_mean_of_its_trainings():
    """DARS: a supervised round, and others of as many unlabelled images beside the labelled ones (two passes)."""
    _, dars = measured("step", "dars", rounds=1)["rows"]
    shares = [1 / 3, 1 / 3, 1 / 3]
    assert dars["L"] == pytest.approx(sum(s * work for s, work in zip(shares, (1, 2, 2), strict=True)), rel=0.05)


def test_reading_of_a_folder(data):
    found = measured("data", "fixmatch", data=data, rounds=2)
    supervised, fixmatch = found["rows"]
    assert (supervised["views"], fixmatch["views"]) == (2, 6), "2 labelled; 2 unlabelled, weak and strong"
    for row in found["rows"]:
        for what in ("images_per_second", "images_per_second_first", "core_ms"):
            assert 0 < row[what]["low"] <= row[what]["median"] <= row[what]["high"]
    assert found["setting"]["classes"] == 3 and found["setting"]["data"] == str(data)


def test_the_command(tmp_path, io):
    """A table for people, an object for machines, and ratios to an earlier one."""
    file = tmp_path / "base.json"
    words = ["bench", "step", *TINY, "--methods", "fixmatch", "--rounds", "2"]
    ended = good(run(io, [*words, "--json", str(file)]))
    assert "a step beside a supervised one" in ended.stdout and "fixmatch" in ended.stdout
    base = json.loads(file.read_text())
    assert set(base) == {"environment", "kind", "setting", "rows"} and base["kind"] == "step"
    ended = good(run(io, [*words, "--json", "-", "--compare", str(file)]))
    said = json.loads(ended.stdout)
    assert {(one["method"], one["what"]) for one in said["compared"]} == {
        (method, what) for method in ("supervised", "fixmatch") for what in ("R", "L", "ops")
    }  # fmt: skip
    assert all(one["ratio"] == 1 for one in said["compared"] if one["what"] in ("L", "ops"))
    ended = run(io, [*words[:2], *words[2:-2], "data.batch=3", "--rounds", "2", "--compare", str(file)])
    assert ended.code == 2 and "another setting was timed there" in ended.error
    ended = run(io, ["bench", "step", "--methods", "fixmach"])
    assert ended.code == 2 and "did you mean 'fixmatch'" in ended.error
    assert run(io, ["bench", "kernels"]).code == 2


def test_comparison_by_hand(tmp_path: Path):
    row = {"method": "cps", "N": None, "R": {"median": 4.0, "low": 3.0, "high": 5.0}, "L": 4.0, "ops": 100}
    then = {"kind": "step", "setting": {"crop": (16, 16)}, "rows": [row, {**row, "method": "gone"}]}
    (tmp_path / "a.json").write_text(json.dumps(then))
    now = {**then, "rows": [{**row, "R": {"median": 5.0, "low": 3.0, "high": 5.0}}, {**row, "method": "new"}]}
    assert compare(now, tmp_path / "a.json") == [
        {"method": "cps", "what": "R", "then": 4.0, "now": 5.0, "ratio": 1.25},
        {"method": "cps", "what": "L", "then": 4.0, "now": 4.0, "ratio": 1.0},
        {"method": "cps", "what": "ops", "then": 100, "now": 100, "ratio": 1.0},
    ]
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(ConfigError, match="is no file of fewmask bench"):
        compare(now, tmp_path / "b.json")


def test_names():
    assert names_of(None) == [] and names_of("cps,ucc") == ["cps", "ucc"] and "u2pl" in names_of("all")
