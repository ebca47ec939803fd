"""Several seeds: means, spread and gain, the one that is delivered, and all of it killed and continued."""

from __future__ import annotations

import json
import math
import signal
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import fewmask
from fewmask.ops.interval import paired_gain
from process.helpers import (
    CLASSES,
    FIXMATCH,
    SEEDS,
    assert_refused,
    assert_same,
    evaluation,
    good,
    metrics_of,
    model_bytes,
    outcome,
    run,
    training,
)


def test_several_seeds(three, compared):
    out, told = three
    runs = [out / "seeds" / str(seed) for seed in SEEDS]
    each, summary = [metrics_of(folder) for folder in runs], metrics_of(out)
    assert sorted(p.name for p in (out / "seeds").iterdir()) == ["0", "1", "2"]
    assert [m["seed"] for m in each] == [0, 1, 2] == summary["seeds"] and summary["seed"] == 0
    # the baseline of seed 0 was there already, and the method's seed 0 is the run of one seed
    assert f"baseline: {compared / 'baseline'}, trained before" in told and "training 5 of 5" in told
    assert [(folder / "baseline").exists() for folder in runs] == [False, True, True]
    assert outcome(runs[0])["metrics.jsonl"] == outcome(compared)["metrics.jsonl"] != outcome(runs[1])["metrics.jsonl"]

    values = [m["val"]["miou"] for m in each]
    assert len(set(values)) > 1
    for role in ("val", "test"):
        miou = [m[role]["miou"] for m in each]
        mean = (miou[0] + miou[1] + miou[2]) / 3
        assert summary[role]["miou"] == pytest.approx(mean)
        sd = math.sqrt(sum((v - mean) ** 2 for v in miou) / 2)
        assert summary["spread"][role] == pytest.approx(sd, abs=1e-4)
        for name in CLASSES:
            assert summary[role]["iou"][name] == pytest.approx(sum(m[role]["iou"][name] for m in each) / 3)
        best, theirs = (sum(m[key][role]["miou"] for m in each) / 3 for key in ("best", "baseline"))
        assert summary["best"][role]["miou"] == pytest.approx(best)
        assert summary["baseline"][role]["miou"] == pytest.approx(theirs)
    assert summary["seconds"] == pytest.approx(sum(m["seconds"] for m in each), abs=0.11)

    gain = summary["gain"]
    assert gain["miou"] == pytest.approx(sum(m["gain"]["miou"] for m in each) / 3, abs=1e-3)
    assert gain["covers"] == ["images", "seeds"]
    assert gain["verdict"] == ("helped" if gain["low"] > 0 else "hurt" if gain["high"] < 0 else "not shown")
    # of runs that are paired by seed
    theirs = [folder / m["baseline_run"] for folder, m in zip(runs, each, strict=True)]
    counts = [np.stack([evaluation(folder)["val_counts"] for folder in arm]) for arm in (runs, theirs)]
    expected = paired_gain(*counts, [""] * 3)
    assert expected is not None and len({str(c) for c in counts[1]}) == 3, "another pairing would show"
    assert [gain["low"], gain["high"]] == pytest.approx([expected.miou.low, expected.miou.high], abs=1e-4)
    # and wider than what three seeds alone say: t(2) · sd / √3
    gains = [m["gain"]["miou"] for m in each]
    half = 4.302653 * math.sqrt(sum((g - gain["miou"]) ** 2 for g in gains) / 2) / math.sqrt(3)
    assert gain["low"] < gain["miou"] - half + 1e-3 and gain["high"] > gain["miou"] + half - 1e-3


def test_the_mean_has_an_interval_over_images_and_seeds(three):
    out, runs = three[0], [three[0] / "seeds" / str(seed) for seed in SEEDS]
    metrics, each = metrics_of(out), [metrics_of(run)["val"]["miou"] for run in runs]
    found, mean = metrics["interval"]["val"], metrics["val"]["miou"]
    assert found["covers"] == ["images", "seeds"]
    # wider than what three seeds alone say: t(2) · sd / √3
    half = 4.302653 * math.sqrt(sum((score - mean) ** 2 for score in each) / 2) / math.sqrt(3)
    assert found["low"] < mean - half + 1e-3 and found["high"] > mean + half - 1e-3


def test_the_best_seed_is_delivered(three, compared, data, tmp_path, io):
    out, _ = three
    each = [metrics_of(out / "seeds" / str(seed))["delivered"] for seed in SEEDS]
    winner = max(SEEDS, key=lambda seed: each[seed]["val"])
    assert metrics_of(out)["delivered"] == each[winner] | {"seed": winner}
    assert model_bytes(out) == model_bytes(out / "seeds" / str(winner))
    found = json.loads(good(run(io, ["evaluate", str(out), "--json"])).stdout)
    assert found["miou"] == each[winner]["val"] == fewmask.load(out).score
    image = data / "images/test/00.jpg"
    good(run(io, ["predict", str(out), str(image), "-o", str(tmp_path / "masks")]))
    with Image.open(tmp_path / "masks/00.png") as mask, Image.open(image) as picture:
        assert mask.size == picture.size
    steps = (out / "NEXT_STEPS.txt").read_text()
    assert f"fewmask predict {out} " in steps and "seeds" not in steps.replace(str(out), "")


def test_several_seeds_have_no_last_model(three, io):
    out, _ = three
    for which in ("last", "best", "baseline"):
        ended = run(io, ["evaluate", str(out), "--which", which])
        assert ended.code == 2 and str(out / "seeds" / "0") in ended.error, ended.stderr
    good(run(io, ["evaluate", str(out / "seeds/0"), "--which", "last", "--json"]))


def test_several_seeds_killed(three, data, tmp_path, io):
    """With six trainings, since no baseline lies beside it; the figures are those of the five."""
    out = tmp_path / "runs" / "run"
    command = training(data, out, *FIXMATCH, "--seeds", "3")
    for fault in ("step.inside:30", "step.inside:38"):  # in the baseline of seed 1; past that, in the method of seed 2
        ended = run(io, command, fault)
        assert ended.code == -signal.SIGKILL, ended.stderr
        assert not (out / "metrics.json").exists()
    assert (out / "seeds/2/checkpoints").is_dir() and not (out / "seeds/2/metrics.json").exists()
    ended = run(io, [*command, "method.lam=2"])
    assert ended.code == 4 and "method.lam" in ended.error
    good(run(io, command))
    assert without_time(metrics_of(out)) == without_time(metrics_of(three[0]))
    assert model_bytes(out) == model_bytes(three[0])
    for seed in SEEDS[1:]:
        here, there = (folder / "seeds" / str(seed) for folder in (out, three[0]))
        assert_same(outcome(here), outcome(there))
        assert_same(outcome(here / "baseline"), outcome(there / "baseline"))
    # killed after the last training and before the summary
    summary = metrics_of(out)
    (out / "metrics.json").unlink()
    good(run(io, command))
    assert metrics_of(out) == summary
    assert "is already finished" in good(run(io, command)).stderr


def without_time(metrics: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in metrics.items() if k not in ("seconds", "images_per_second", "peak_memory_mb")}


def test_seeds_of_a_supervised_run(data, tmp_path, io):
    """Two seeds from 3 on: means and a spread, and nothing to compare."""
    out = tmp_path / "run"
    good(run(io, training(data, out, "--method", "supervised", "--seeds", "2", "--seed", "3", "--steps", "4")))
    summary = metrics_of(out)
    values = [metrics_of(out / "seeds" / str(seed))["val"]["miou"] for seed in (3, 4)]
    assert summary["seeds"] == [3, 4] and summary["gain"] is summary["baseline"] is None
    assert summary["val"]["miou"] == pytest.approx(sum(values) / 2)
    assert summary["spread"]["val"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2), abs=1e-4)
    assert yaml.safe_load((out / "config.yaml").read_text())["seeds"] == 2

    # it is the baseline of a method's seeds: each of its own, named or found
    words = [*FIXMATCH, "--seeds", "2", "--seed", "3", "--steps", "4"]
    named, found = tmp_path / "named", tmp_path / "found"
    good(run(io, training(data, named, *words, "--baseline", str(out))))
    told = good(run(io, training(data, found, *words, "--baseline"))).stderr
    for seed, value in zip((3, 4), values, strict=True):
        assert f"baseline: {out / 'seeds' / str(seed)}, trained before" in told
        for method in (named, found):
            own = method / "seeds" / str(seed)
            assert not (own / "baseline").exists() and metrics_of(own)["baseline"]["val"]["miou"] == value
    refused = run(io, training(data, tmp_path / "other", *words, "--seed", "7", "--baseline", str(out)))
    assert_refused(refused, 2, "it is a run of the seeds [3, 4], not of 7")
