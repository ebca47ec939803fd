"""``fewmask curve`` in real processes: nested parts, whole groups, folds, killed and continued, and its report."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import yaml

from process.helpers import FIXMATCH, assert_refused, good, metrics_of, run, training


@pytest.fixture(scope="module")
def four(data, tmp_path_factory):
    """A finished run on four masks and three val images, with a baseline."""
    out = tmp_path_factory.mktemp("four") / "run"
    good(run(out.parent / "io", training(data, out, *FIXMATCH, "--baseline", "--labelled", "4")))
    return out


def labelled(folder):
    return yaml.safe_load((folder / "data.yaml").read_text())["labelled_names"]


def test_parts_are_nested_and_everything_else_is_the_run_s(four, data, tmp_path, io):
    out = tmp_path / "run"
    shutil.copytree(four, out)
    ended = good(run(io, ["curve", str(out), "--draws", "3", "--sizes", "2", "--json"]))
    found = json.loads(ended.stdout)
    assert found == json.loads((out / "curve/curve.json").read_text())
    arm = metrics_of(out)["delivered"]["run"]
    assert found["arm"] == ("fixmatch" if arm == "method" else "supervised")
    everything = labelled(out)
    for draw in range(3):
        half, quarter = (set(labelled(out / f"curve/{n}-{draw}")) for n in (2, 4))
        assert len(quarter) == 1 and len(half) == 2 and quarter < half < set(everything)
        config = yaml.safe_load((out / f"curve/2-{draw}/config.yaml").read_text())
        assert config["train"]["seed"] == draw and config["train"]["steps"] == 12
        assert config["method"]["name"] == found["arm"]
    points = {(p["images"], p["draw"]): p["miou"] for p in found["points"]}
    assert sorted(points) == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (4, 0)]
    for (images, draw), miou in points.items():
        ours = out if images == 4 else out / f"curve/{4 // int(images)}-{draw}"
        told = metrics_of(ours)["val" if images < 4 or arm == "method" else "baseline"]
        assert miou == pytest.approx((told if "miou" in told else told["val"])["miou"], abs=1e-4)
    assert "How many more masks" in (out / "report.html").read_text()
    # finished trainings are not repeated
    assert "training 1 of" not in good(run(io, ["curve", str(out), "--draws", "3", "--sizes", "2"])).stderr


def test_killed_and_continued(four, tmp_path, io):
    one, other = tmp_path / "one", tmp_path / "other"
    shutil.copytree(four, one)
    shutil.copytree(four, other)
    assert run(io, ["curve", str(one), "--sizes", "1"], "step.inside:17").code == -signal.SIGKILL
    assert not (one / "curve/curve.json").exists()
    for out in (one, other):
        good(run(io, ["curve", str(out), "--sizes", "1"]))
    assert (one / "curve/curve.json").read_bytes() == (other / "curve/curve.json").read_bytes()


def test_of_a_cross_fitted_run(data, tmp_path, io):
    """Five masks without val: folds of 2, 2, 1; halves of 3, 3 and 4 are 2, 2 and 2, scored on all five.

    They are told as parts of the five: 2 of 10/3 are 3 of 5.
    """
    shutil.copytree(data, tmp_path / "data")
    for part in ("images", "masks"):
        shutil.rmtree(tmp_path / "data" / part / "val")
    out = tmp_path / "run"
    good(run(io, training(tmp_path / "data", out, "--method", "supervised")))
    found = json.loads(good(run(io, ["curve", str(out), "--sizes", "1", "--draws", "1", "--json"])).stdout)
    folds = yaml.safe_load((out / "data.yaml").read_text())["folds"]
    for k, names in enumerate(folds, start=1):
        part = out / f"curve/2-0-{k}"
        assert len(labelled(part)) == 2 and not set(labelled(part)) & set(names)
        assert yaml.safe_load((part / "data.yaml").read_text())["val"] == len(names)
    assert [p["images"] for p in found["points"]] == [3, 5]
    assert found["points"][1]["miou"] == pytest.approx(metrics_of(out)["val"]["miou"], abs=1e-4)
    assert found["forecast"] is None and found["why_not"] == "fewer than 3 numbers of images were tried"


def test_what_cannot_be(four, data, tmp_path, io):
    assert_refused(run(io, ["curve", str(tmp_path)]), 4, "no finished run")
    shutil.copytree(data, tmp_path / "data")
    out = tmp_path / "run"
    shutil.copytree(four, out)
    config = out / "config.yaml"
    config.write_text(config.read_text().replace(str(data), str(tmp_path / "data")))
    (tmp_path / "data/masks" / f"{labelled(out)[0]}.png").unlink()
    assert_refused(run(io, ["curve", str(out)]), 3, "not those that the run was trained on", "train again")
    good(run(io, training(data, tmp_path / "later", *FIXMATCH, "--init", str(four))))
    assert_refused(run(io, ["curve", str(tmp_path / "later")]), 2, "began with networks that have seen masks")
