"""What ``predict`` expects of its predictions: calibrated where there are enough validation images, and told."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from PIL import Image

from process.helpers import good, run, training


def test_expected_accuracy(own_data, tmp_path, io):
    """Three validation images calibrate nothing; twenty-four do, and the report and predict say so."""
    alone = tmp_path / "few"
    good(run(io, training(own_data, alone, "--method", "supervised")))
    assert not (alone / "model/quality.json").exists()
    ended = good(run(io, ["predict", str(alone), str(own_data / "images/test"), "-o", str(tmp_path / "a")]))
    assert "expected pixel" not in ended.stderr and "no accuracy is expected" in ended.stderr
    assert not list((tmp_path / "a").glob("quality*"))

    for kind in ("images", "masks"):
        for n in range(21):
            for file in (own_data / kind / "val").glob(f"0{n % 3}.*"):
                shutil.copy(file, file.with_stem(f"more{n}"))
    for n in range(21):  # other pixels: the same ones in two roles would be a leak
        (file,) = (own_data / "images/val").glob(f"more{n}.*")
        image = Image.open(file).convert("RGB").point(lambda v, n=n: (v + 9 * n) % 256)
        image.save(file.with_suffix(".png"))
        file.unlink()
    many = tmp_path / "many"
    good(run(io, training(own_data, many, "--method", "supervised")))
    found = json.loads((many / "model/quality.json").read_text())
    assert found["images"] == 24 and "How good a new prediction will be" in (many / "report.html").read_text()
    ended = good(run(io, ["predict", str(many), str(own_data / "images/test"), "-o", str(tmp_path / "b")]))
    assert "expected pixel accuracy" in ended.stderr
    with (tmp_path / "b/quality.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["00", "01"]
    assert all(0 <= float(r["low"]) <= float(r["expected_pixel_accuracy"]) <= float(r["high"]) <= 100 for r in rows)
    words = ["predict", str(many), str(own_data / "images/test"), "--json", "-o"]
    whole = json.loads(good(run(io, [*words, str(tmp_path / "e")])).stdout)
    said, together = whole["images"], whole["expected"]
    assert together == json.loads((tmp_path / "e/quality-summary.json").read_text()) and together["images"] == 2
    assert together["expected_pixel_accuracy"] == pytest.approx(
        sum(one["expected"]["pixel_accuracy"] for one in said) / 2
    )
    assert f"{together['expected_pixel_accuracy']:.1f}% on average (learned from 24 images" in ended.stderr
    assert f"{together['below']['images']} of 2 below" in ended.stderr
    assert f"least sure: {min(said, key=lambda one: one['confidence'])['name']} (" in ended.stderr
    assert [f"{one['expected']['pixel_accuracy']:.2f}" for one in said] == [r["expected_pixel_accuracy"] for r in rows]
    ended = good(run(io, [*words, str(tmp_path / "f"), "--scales", "1,2"]))  # other confidences than those learned from
    assert "no accuracy is expected" in ended.stderr and not list((tmp_path / "f").glob("quality*"))
    whole = json.loads(ended.stdout)
    assert whole["expected"] is None and [one["expected"] for one in whole["images"]] == [None, None]
    (many / "model/quality.json").write_text("{")
    ended = run(io, ["predict", str(many), str(own_data / "images/test"), "-o", str(tmp_path / "c")])
    assert ended.code == 4 and "the calibration is damaged" in ended.error
