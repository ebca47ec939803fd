"""``fewmask export``: a file that other programs run, with the same masks as ``fewmask predict``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from process.helpers import assert_refused, content, good, run


@pytest.fixture(scope="module")
def trained(unbroken):
    return unbroken("supervised")


@pytest.mark.parametrize(("form", "name"), [("onnx", "model.onnx"), ("torch-export", "model.pt2")])
def test_the_example_predicts_the_same(form, name, trained, data, tmp_path, io):
    """In a process that cannot import fewmask, on an image of another size than all of training."""
    out, image = tmp_path / "there" / name, tmp_path / "one.png"
    before = content(trained)
    ended = good(run(io, ["export", str(trained), "--format", form, "-o", str(out), "--json"]))
    assert content(trained) == before, "a run is not written to"
    found = json.loads(ended.stdout)
    assert found["file"] == str(out) and found["images"] == 3 and found["size"] is None
    assert found["max_difference"] < 1e-4 and found["differing_pixels"] == 0
    assert "on 3 images logits differ by" in ended.stderr and "images of any size" in ended.stderr

    pixels = np.random.default_rng(0).integers(0, 256, (45, 77, 3), np.uint8)
    Image.fromarray(pixels).save(image)
    good(run(io, ["predict", str(trained), str(image), "-o", str(tmp_path / "masks")]))
    hidden = tmp_path / "hidden"
    (hidden / "fewmask").mkdir(parents=True)
    (hidden / "fewmask" / "__init__.py").write_text("raise ImportError('not here')")
    example = subprocess.run(
        [sys.executable, found["example"], str(image), str(tmp_path / "mask.png")], cwd=hidden, text=True,
        capture_output=True, env={"PYTHONPATH": str(hidden), "PATH": "/usr/bin"}, check=True,
    )  # fmt: skip
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert (mask == np.asarray(Image.open(tmp_path / "masks" / "one.png"))).all()
    assert set(np.unique(mask)) <= {5, 0, 9}, "the ids of the user's masks"
    share = {line.split(":")[0]: float(line.split()[1].rstrip("%")) for line in example.stdout.splitlines()}
    assert share == pytest.approx(
        {n: 100 * (mask == i).mean() for n, i in (("sky", 5), ("sea", 0), ("sand", 9))}, abs=0.06
    )
    again = run(io, ["export", str(trained), "--format", form, "-o", str(out)])
    assert_refused(again, 2, "the file exists", name)


def test_the_example_refuses_what_predict_refuses(trained, tmp_path, io):
    """16 bits, inks and transparent pixels would become a mask of something else."""
    good(run(io, ["export", str(trained), "-o", str(tmp_path / "m.onnx")]))
    pixels = np.random.default_rng(0).integers(0, 255, (9, 8, 4), np.uint8)
    pictures = {
        "deep.png": Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "clear.png": Image.fromarray(pixels),
        "inks.jpg": Image.fromarray(pixels, mode="CMYK"), "grey.png": Image.fromarray(pixels[..., 0]),
        "opaque.png": Image.fromarray(pixels[..., :3]).convert("RGBA"),
        "paletted.png": Image.fromarray(pixels[..., :3]).convert("P"),
    }  # fmt: skip
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        command = [sys.executable, str(tmp_path / "m_example.py"), str(tmp_path / name), str(tmp_path / "mask.png")]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        predicted = run(io, ["predict", str(trained), str(tmp_path / name), "-o", str(tmp_path / f"out-{name}")])
        assert (ended.returncode == 0) == (predicted.code == 0) == (name in ("grey.png", "opaque.png", "paletted.png"))
        assert predicted.code == 0 or "convert it to RGB" in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_two_formats_of_one_name(trained, tmp_path, io):
    """Each has an example of its own beside it."""
    for form, name in (("onnx", "model.onnx"), ("torch-export", "model.pt2")):
        good(run(io, ["export", str(trained), "--format", form, "-o", str(tmp_path / name)]))
    examples = {path.name: path.read_text() for path in tmp_path.glob("*_example.py")}
    assert sorted(examples) == ["model_example.py", "model_pt2_example.py"]
    assert "model.onnx" in examples["model_example.py"] and "model.pt2" in examples["model_pt2_example.py"]
    assert all(f"python {name} " in text for name, text in examples.items())


def test_one_size(trained, tmp_path, io):
    out = tmp_path / "model.pt2"
    words = ["export", str(trained), "--format", "torch-export", "--size", "20x24", "-o", str(out), "--json"]
    assert json.loads(good(run(io, words)).stdout)["size"] == [20, 24]


def test_the_data_are_gone(trained, own_data, data, tmp_path, io):
    """A run copied to another machine: images are asked for, and any will do."""
    moved = shutil.copytree(trained, tmp_path / "run")
    for file in (moved / "config.yaml", moved / "data.yaml"):
        file.write_text(file.read_text().replace(str(data), str(tmp_path / "gone")))
    out = tmp_path / "model.onnx"
    refused = run(io, ["export", str(moved), "-o", str(out)])
    assert_refused(refused, 3, "the run's data are not there to compare on", "gone", "give --images")
    assert not out.exists()
    good(run(io, ["export", str(moved), "-o", str(out), "--images", str(own_data / "images" / "val")]))
    assert out.exists()


def test_no_run(tmp_path, io):
    assert_refused(run(io, ["export", str(tmp_path), "-o", str(tmp_path / "m.onnx")]), 4, "no delivered model here")
