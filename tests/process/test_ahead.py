"""What a training says before it begins: a plan in the folder it will take, and the time of longer runs."""

from __future__ import annotations

import json
from pathlib import Path

import fewmask
from process.helpers import good, run, training


def without_out(data: Path, *more: str) -> list[str]:
    return [word for word in training(data, Path("x"), "--method", "supervised", *more) if word not in ("--out", "x")]


def test_a_plan_without_out_lies_where_the_run_will(data, tmp_path, io, monkeypatch):
    """It is written, the same command without --plan takes that folder, and comparisons do not stumble over it."""
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "runs" / f"{data.name}-supervised-001"
    ended = good(run(io, without_out(data, "--plan")))
    plan = json.loads(ended.stdout)
    assert plan == json.loads((first / "plan.json").read_text())
    assert [p.name for p in first.iterdir()] == ["plan.json"]
    assert f"plan: runs/{first.name}/plan.json" in ended.stderr
    assert (plan["method"], plan["arch"], plan["encoder"], plan["steps"]) == ("supervised", "tiny", "tiny", 12)
    assert plan["weights"] == {"source": "none", "licence": None} and plan["baseline"] is False
    assert plan["disk_mb"] == plan["expected"]["disk_mb"]
    assert plan["hours"] == round(plan["expected"]["seconds"] / 3600, 3)
    assert json.loads(good(run(io, without_out(data, "--plan"))).stdout)["steps"] == 12
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [first.name], "a plan of a plan's place is no second one"

    good(run(io, without_out(data)))
    assert (first / "metrics.json").is_file() and [p.name for p in (tmp_path / "runs").iterdir()] == [first.name]
    assert json.loads((first / "plan.json").read_text())["time"] is None
    good(run(io, without_out(data, "--plan")))
    second = first.with_name(f"{data.name}-supervised-002")
    assert [p.name for p in second.iterdir()] == ["plan.json"]
    assert len(json.loads(good(run(io, ["compare", str(first), str(second), "--json"])).stdout)["groups"]) == 1


def test_a_long_run_says_what_it_will_take(data, tmp_path, monkeypatch):
    """Timing takes part in nothing: with and without it every logged number and every weight is the same."""
    keys = {
        "method": "fixmatch", "baseline": True, "model__arch": "tiny", "model__weights": "none", "data__crop": 12,
        "data__batch": 2, "data__unlabelled_batch": 2, "train__steps": 12, "train__eval_every": 4,
        "train__log_every": 1, "machine__precision": "fp32", "machine__devices": "cpu", "machine__workers": 0,
    }  # fmt: skip
    told: dict[str, list[str]] = {"short": [], "long": []}
    for name, worth in (("short", 13), ("long", 12)):
        monkeypatch.setattr("fewmask.run.ahead._WORTH", worth)
        fewmask.train(data, tmp_path / name / "run", say=told[name].append, **keys)  # a baseline beside is reused
    assert not any("expected: " in text for text in told["short"])
    (said,) = [text for text in told["long"] if text.startswith("expected: ")]
    assert "MB of checkpoints" in said and "supervised" in said and "fixmatch" in said
    assert told["long"].index(said) < next(n for n, text in enumerate(told["long"]) if "training 1 of 2" in text)
    assert any(text == "weights: none, the encoder is drawn" for text in told["long"])
    plans = {name: json.loads((tmp_path / name / "run/plan.json").read_text()) for name in told}
    assert plans["short"] == {
        "time": None, "steps": 12, "weights": {"source": "none", "licence": None}, "expected": None
    }  # fmt: skip
    assert [t["method"] for t in plans["long"]["expected"]["trainings"]] == ["supervised", "fixmatch"]
    logs = [[json.loads(line) for line in (tmp_path / n / "run/metrics.jsonl").read_text().splitlines()] for n in told]
    for line in (*logs[0], *logs[1]):
        line.pop("data_wait", None)
    assert logs[0] == logs[1] and len(logs[0]) == 15
    weights = [(tmp_path / name / "run/model/model.safetensors").read_bytes() for name in told]
    assert weights[0] == weights[1]


def test_a_run_that_goes_on_is_not_timed_again(data, tmp_path, monkeypatch):
    """Only a new run says it, and a baseline that exists already is no part of it."""
    monkeypatch.setattr("fewmask.run.ahead._WORTH", 1)
    keys = {
        "model__arch": "tiny", "model__weights": "none", "data__crop": 12, "data__batch": 2,
        "data__unlabelled_batch": 2, "train__steps": 4, "machine__precision": "fp32", "machine__devices": "cpu",
        "machine__workers": 0,
    }  # fmt: skip
    told: list[str] = []
    first = fewmask.train(data, tmp_path / "a", say=told.append, method="supervised", baseline=False, **keys)
    assert sum(text.startswith("expected: ") for text in told) == 1
    told.clear()
    fewmask.train(data, tmp_path / "a", say=told.append, method="supervised", baseline=False, **keys)
    assert not any(text.startswith("expected: ") for text in told)
    fewmask.train(data, tmp_path / "b", say=told.append, method="fixmatch", baseline=str(first.path), **keys)
    (said,) = [text for text in told if text.startswith("expected: ")]
    assert "fixmatch" in said and "supervised" not in said
