"""Exports of Label Studio, and their run lengths: what is read, and how what is broken or hostile is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fewmask.data.layouts import read_folder
from fewmask.data.layouts.brush import decode_brush, encode_brush
from fewmask.data.masks import read_mask
from fewmask.errors import DataError
from fixtures_layouts import refuse


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", ["empty", "full", "left", "noise", "large"])
def test_run_lengths_there_and_back(kind):
    """Runs of any length, more than one packet holds included. The other direction: label_studio.zip."""
    mask = np.zeros((300, 250) if kind == "large" else (7, 11), bool)
    if kind == "full" or kind == "large":
        mask[:] = True
    elif kind == "left":
        mask[:, :4] = True
    elif kind == "noise":
        mask = np.random.default_rng(0).random((40, 30)) < 0.5
    stream = encode_brush(mask)
    assert all(0 <= number <= 255 for number in stream)
    assert (decode_brush(bytes(stream), *mask.shape) == mask).all()


def test_literal_values():
    """A packet of values that are not repeated: 2 pixels, the second one covered, of 8 bits a value."""
    fields = [(8, 32), (7, 5), (2, 4), (3, 4), (7, 4), (15, 4), (0, 1), (0, 2), (7, 3)]
    fields += [(v, 8) for v in (0, 0, 0, 0, 9, 9, 9, 9)]
    bits = "".join(f"{value:0{size}b}" for value, size in fields)
    stream = bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))
    assert decode_brush(stream, 1, 2).tolist() == [[False, True]]


@pytest.mark.parametrize("cut", [0, 3, 6, 8, -1])
def test_a_stream_that_is_cut_off(cut):
    whole = bytes(encode_brush(np.random.default_rng(0).random((9, 9)) < 0.5))
    with pytest.raises(ValueError, match="cut off"):
        decode_brush(whole[:cut], 9, 9)


def test_a_stream_that_leads_out_of_the_image():
    with pytest.raises(ValueError, match="308 values in an image of 3x2"):
        decode_brush(bytes(encode_brush(np.ones((7, 11), bool))), 2, 3)
    stream = bytearray(encode_brush(np.ones((7, 11), bool)))
    stream[:4] = (4 * 2).to_bytes(4, "big")  # two pixels, and the run of 77
    with pytest.raises(ValueError, match="lead out of the image"):
        decode_brush(bytes(stream), 1, 2)


# --- exports ------------------------------------------------------------------------------------------------------


def brush(mask, label="crop", **more):
    height, width = mask.shape
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    return {"type": "brushlabels", "original_width": width, "original_height": height, "value": value, **more}


def polygon(points, label="weed"):
    value = {"points": points, "polygonlabels": [label]}
    return {"type": "polygonlabels", "original_width": 16, "original_height": 12, "value": value}


def task(name, *results, **more):
    return {"id": 1, "data": {"image": name}, "annotations": [{"result": list(results)}], **more}


def folder(root, *tasks, images=("a.jpg", "b.jpg")):
    (root / "pictures").mkdir(parents=True)
    for name in images:
        Image.new("RGB", (16, 12), (90, 120, 60)).save(root / "pictures" / name)
    (root / "project.json").write_text(json.dumps(tasks))
    return root


TOP = np.zeros((12, 16), bool)
TOP[:4] = True


@pytest.mark.parametrize(
    "name", ["/data/upload/7/0a1b2c3d-a.jpg", "/data/local-files/?d=pictures/a.jpg", "s3://bucket/pictures/a.jpg",
             "a.jpg", "http://host/data/a.jpg", "C:\\pictures\\a.jpg"],
)  # fmt: skip
def test_where_the_image_was(name, tmp_path):
    """Brushes and polygons of one image; the one without a task is unlabelled."""
    half = polygon([[0, 50], [100, 50], [100, 100], [0, 100]])
    index = read_folder(folder(tmp_path / "data", task(name, brush(TOP), half)), val_fraction=0)
    assert index.layout == "label studio" and index.classes == ("background", "crop", "weed")
    (item,) = index.labelled
    assert item.name == "pictures/a" and [i.mask for i in index.items["train"] if i != item] == [None]
    assert item.mask is not None
    assert read_mask(item.mask, index.code)[:, 0].tolist() == [1] * 4 + [0] * 2 + [2] * 6


def test_what_was_not_annotated(tmp_path):
    """Skipped and empty tasks are unlabelled, and predictions are no annotations."""
    skipped = task("a.jpg") | {"annotations": [{"was_cancelled": True, "result": [brush(TOP)]}]}
    guessed = task("b.jpg", predictions=[{"result": [brush(TOP)]}])
    refuse(folder(tmp_path / "data", skipped, guessed), DataError, "annotates no image")


def test_one_of_two_annotators(tmp_path):
    """The one marked as ground truth; without a mark it is not guessed."""
    two = task("a.jpg") | {"annotations": [{"result": [brush(TOP)]}, {"result": [brush(~TOP)], "ground_truth": True}]}
    index = read_folder(folder(tmp_path / "marked", two), val_fraction=0)
    mask = index.labelled[0].mask
    assert mask is not None and (read_mask(mask, index.code) == ~TOP).all()
    del two["annotations"][1]["ground_truth"]
    refuse(folder(tmp_path / "open", two), DataError, "task 1 has 2 annotations.*ground truth")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"type": "rectanglelabels", "value": {"x": 1, "rectanglelabels": ["crop"]}, "original_width": 16,
          "original_height": 12}, "rectanglelabels.*not which pixels"),
        (brush(TOP, image_rotation=90), "was turned in Label Studio"),
        (brush(TOP[:, :9]), None),
        (brush(TOP) | {"original_height": 10**9}, "said to be"),
        (brush(TOP) | {"value": {"rle": [1, 999], "brushlabels": ["crop"]}}, "cannot be read"),
        (brush(TOP) | {"value": {"rle": ["x"], "brushlabels": ["crop"]}}, "cannot be read"),
        (brush(TOP) | {"value": {"rle": [255] * 30, "brushlabels": ["crop"]}}, "no shape that can be drawn"),
        (brush(TOP) | {"value": {"rle": encode_brush(TOP), "brushlabels": ["crop", "weed"]}}, "has 2 labels"),
        (polygon([[0, 0], ["x", 1]]), "no shape that can be drawn|cannot be read"),
        (polygon([[0, 0], [10**9, 1], [3, 3]]), "no shape that can be drawn"),
        ({"type": "brushlabels", "value": {"rle": [1], "brushlabels": ["crop"]}}, "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_broken_is_refused(result, message, tmp_path):
    root = folder(tmp_path / "data", task("a.jpg", result))
    if message is None:  # a mask of another size than the image's: the scan's business
        assert read_folder(root, val_fraction=0).labelled
        return
    refuse(root, DataError, message)


def test_results_that_say_nothing_of_pixels(tmp_path):
    choice = {"type": "choices", "value": {"choices": ["sharp"]}, "from_name": "q", "to_name": "image"}
    index = read_folder(folder(tmp_path, task("a.jpg", choice, brush(TOP)), task("b.jpg", choice)), val_fraction=0)
    assert [i.name for i in index.labelled] == ["pictures/a"] and index.classes == ("background", "crop")


def test_paths_of_local_storage_are_quoted(tmp_path):
    place = "/data/local-files/?d=pictures/my%20photo%23%C3%A4.jpg"
    index = read_folder(folder(tmp_path, task(place, brush(TOP)), images=("my photo#ä.jpg",)), val_fraction=0)
    assert [i.name for i in index.labelled] == ["pictures/my photo#ä"]


def test_images_that_are_not_here(tmp_path):
    gone = task("nowhere.jpg", brush(TOP))
    refuse(folder(tmp_path / "all", gone), DataError, "none of 1 annotated images is here, such as 'nowhere.jpg'")
    index = read_folder(folder(tmp_path / "one", gone, task("a.jpg", brush(TOP))), val_fraction=0)
    assert "1 annotated images are not here, first 'nowhere.jpg'" in index.notes
    twice = [task("a.jpg", brush(TOP)), task("x/a.jpg", brush(TOP))]
    refuse(folder(tmp_path / "twice", *twice), DataError, "'pictures/a' is annotated in two tasks")


def test_guesses_that_nobody_submitted(tmp_path):
    """What ``suggest --to labelstudio`` writes is exported again as it was."""
    guess = {**task("a.jpg", brush(TOP)), "annotations": [], "predictions": [{"result": [brush(TOP)]}]}
    refuse(folder(tmp_path / "data", guess), DataError, "holds 1 predictions, and nobody has submitted an annotation")


def test_tasks_that_were_submitted_empty(tmp_path):
    index = read_folder(folder(tmp_path / "data", task("a.jpg", brush(TOP)), task("b.jpg")), val_fraction=0)
    assert [item.mask is None for item in index.items["train"]] == [False, True]
    assert "1 tasks were submitted with an empty result: read as not annotated" in index.notes
