"""What ``predict`` expects of its predictions: calibrated where there are enough validation images, and told."""

from __future__ import annotations

import csv
import json
import shutil

from PIL import Image

from process.helpers import good, run, training


def test_expected_accuracy(own_data, tmp_path, io):
    """Three validation images calibrate nothing; twenty-four do, and the report and predict say so."""
    alone = tmp_path / "few"
    good(run(io, training(own_data, alone, "--method", "supervised")))
    assert not (alone / "model/quality.json").exists()
    ended = good(run(io, ["predict", str(alone), str(own_data / "images/test"), "-o", str(tmp_path / "a")]))
    assert "expected pixel" not in ended.stderr and not (tmp_path / "a/quality.csv").exists()

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
    said = json.loads(good(run(io, [*words, str(tmp_path / "e")])).stdout)["images"]
    assert [f"{one['expected']['pixel_accuracy']:.2f}" for one in said] == [r["expected_pixel_accuracy"] for r in rows]
    ended = good(run(io, [*words, str(tmp_path / "f"), "--scales", "1,2"]))  # other confidences than those learned from
    assert "no accuracy is expected" in ended.stderr and not (tmp_path / "f/quality.csv").exists()
    assert [one["expected"] for one in json.loads(ended.stdout)["images"]] == [None, None]
    (many / "model/quality.json").write_text("{")
    ended = run(io, ["predict", str(many), str(own_data / "images/test"), "-o", str(tmp_path / "c")])
    assert ended.code == 4 and "the calibration is damaged" in ended.error
