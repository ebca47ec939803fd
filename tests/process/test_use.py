"""What one does with a finished run: evaluate and predict."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fewmask
from fixtures_data import save_image
from process.helpers import VARIANTS, assert_refused, good, one_json, run, tiny_data, training

IDS = {5, 0, 9}  # what the mask files of tiny_data call the three classes


def pixels(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == mode
        return np.asarray(image)


# --- evaluate


@pytest.fixture(scope="module")
def past_its_best(data, tmp_path_factory) -> Path:
    """A run whose best step is not its last."""
    for seed in range(9):
        out = tmp_path_factory.mktemp("past") / "run"
        command = training(data, out, *VARIANTS["fixmatch-ema"], f"train.seed={seed}")
        assert run(out.parent / "io", command).code == 0
        metrics = json.loads((out / "metrics.json").read_text())
        if metrics["best"]["step"] != metrics["steps"]:
            return out
    raise AssertionError("nine runs, and all were best at their end")


@pytest.mark.parametrize("which", ["delivered", "last", "best"])
def test_evaluate_agrees_with_the_run(which, past_its_best, io):
    run_folder = past_its_best
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert metrics["delivered"]["checkpoint"] == "best"
    for split in ("val", "test"):
        ended = run(io, ["evaluate", str(run_folder), "--split", split, "--which", which, "--json"])
        assert ended.code == 0, ended.stderr
        found = one_json(ended.stdout)
        expected = metrics if which == "last" else metrics["best"]  # the better one on val is delivered
        assert found["step"] == (metrics["steps"] if which == "last" else metrics["best"]["step"])
        assert {key: found[key] for key in expected[split]} == expected[split]
        if which == "last":
            assert found["interval"] == metrics["interval"][split]


def test_evaluate_has_dice_and_outlines(unbroken, io):
    found = one_json(run(io, ["evaluate", str(unbroken("cps")), "--boundary", "--json"]).stdout)
    for name, value in found["iou"].items():
        dice = found["dice"]["classes"][name]
        assert dice is value is None or dice == pytest.approx(200 * value / (100 + value))
    outlines = found["boundary_f"]
    known = [value for value in outlines["classes"].values() if value is not None]
    assert known and all(0 <= value <= 100 for value in known) and 0 < outlines["mean"] < 100
    assert outlines["mean"] == pytest.approx(sum(known) / len(known))
    table = run(io, ["evaluate", str(unbroken("cps")), "--boundary"])
    assert f"{outlines['mean']:.2f}" in table.stdout and f"{found['dice']['mean']:.2f}" in table.stdout
    assert one_json(run(io, ["evaluate", str(unbroken("cps")), "--json"]).stdout)["boundary_f"] is None


def test_a_class_that_no_mask_holds_is_not_measured(unbroken, tmp_path, io):
    """Wherever the network sees it: neither in IoU, nor in Dice, nor by its outlines."""
    other = tiny_data(tmp_path / "other")
    ids = set[int]()
    for path in sorted((other / "masks/val").iterdir()):
        mask = np.array(Image.open(path))
        ids |= set(np.unique(mask).tolist())
        Image.fromarray(np.where(mask == 5, 9, mask).astype(np.uint8)).save(path)
    assert 5 in ids
    words = ["evaluate", str(unbroken("cps")), str(other), "--boundary", "--json"]
    found = one_json(good(run(io, words)).stdout)
    lost = [name for name, value in found["iou"].items() if value is None]
    assert len(lost) == 1 and found["boundary_f"]["classes"][lost[0]] is found["dice"]["classes"][lost[0]] is None
    known = [value for value in found["boundary_f"]["classes"].values() if value is not None]
    assert found["boundary_f"]["mean"] == pytest.approx(sum(known) / len(known))


def test_evaluate_on_another_folder(unbroken, tmp_path, io):
    other = tiny_data(tmp_path / "other")
    for path in sorted(other.glob("*/val/02.*")):
        path.unlink()
    ended = run(io, ["evaluate", str(unbroken("cps")), str(other), "--json"])
    assert one_json(ended.stdout)["images"] == 2
    table = run(io, ["evaluate", str(unbroken("cps")), str(other)])
    assert table.code == 0 and re.search(r"sand\s+\S+\s+\d+\.\d\d", table.stdout), table.stdout
    assert re.search(r"95 % interval\s+\d+\.\d to\s+\d+\.\d over\s+images", table.stdout), table.stdout


# --- predict


def test_predict_files_and_folders(unbroken, tmp_path, io):
    """Odd sizes, names below folders, blanks and letters of other alphabets; ids are those of the user's masks."""
    photos, out = tmp_path / "photos", tmp_path / "masks"
    sizes = {"a": (7, 5), "deep/er/b": (33, 18), "Größe 1 #2": (12, 64), "deep/a": (1, 1)}
    for n, (name, (height, width)) in enumerate(sizes.items()):
        save_image(photos / f"{name}.png", height=height, width=width, seed=n)
    (photos / "notes.txt").write_text("no image")
    alone = save_image(tmp_path / "alone.v2.jpg", height=21, width=9)
    ended = run(io, ["predict", str(unbroken("cps")), str(photos), str(alone), "-o", str(out), "--probs"])
    assert ended.code == 0 and ended.stdout == "", ended.stderr
    sizes["alone.v2"] = (21, 9)
    for name, size in sizes.items():
        mask = pixels(out / f"{name}.png", "P")
        assert mask.shape == size and set(np.unique(mask)) <= IDS
        for kind in ("colour", "overlay"):
            assert pixels(out / kind / f"{name}.png", "RGB").shape == (*size, 3)
        p = np.load(out / "probs" / f"{name}.npy", allow_pickle=False)
        assert p.shape == (3, *size) and p.dtype == np.float16 and abs(p.sum(0) - 1).max() < 0.01
        assert (np.array([5, 0, 9])[p.argmax(0)] == mask).mean() > 0.99  # float16 may tie
    assert len([p for p in out.rglob("[!.]*") if p.is_file()]) == 4 * len(sizes)


def test_predict_in_tiles(unbroken, tmp_path, io):
    """Other tiles, nearly the same masks; probabilities are written band by band, and no part is left behind."""
    photo = save_image(tmp_path / "photo.png", height=90, width=140)
    for out, tile in (("whole", "0"), ("tiles", "64")):
        words = ["predict", str(unbroken("cps")), str(photo), "-o", str(tmp_path / out), "--probs", "--tile", tile]
        assert run(io, words).code == 0
    whole, tiles = (np.load(tmp_path / out / "probs" / "photo.npy") for out in ("whole", "tiles"))
    assert whole.shape == tiles.shape == (3, 90, 140) and 0 < abs(whole - tiles).max()
    one, other = (pixels(tmp_path / out / "photo.png", "P") for out in ("whole", "tiles"))
    assert (one == other).mean() > 0.9
    assert not list(tmp_path.rglob(".part-*"))


def test_predict_averages_views(unbroken, tmp_path, io):
    """--flip gives the mean of the probabilities of the image and its mirror image; --json says what was done."""
    photo = save_image(tmp_path / "photo.png", height=30, width=44)
    Image.fromarray(np.asarray(Image.open(photo))[:, ::-1]).save(tmp_path / "mirrored.png")
    for name, words in (("a", ["photo.png"]), ("b", ["mirrored.png"]), ("c", ["photo.png", "--flip", "--json"])):
        words = [
            "predict",
            str(unbroken("cps")),
            str(tmp_path / words[0]),
            "-o",
            str(tmp_path / name),
            "--probs",
            *words[1:],
        ]
        ended = good(run(io, words))
    (a,), (b,), (c,) = ([np.load(f) for f in (tmp_path / name / "probs").glob("*.npy")] for name in "abc")
    np.testing.assert_allclose(c.astype(float), (a.astype(float) + b.astype(float)[..., ::-1]) / 2, atol=2e-3)
    said = one_json(ended.stdout)
    assert {k: said[k] for k in ("protocol", "flip", "scales")} == {"protocol": "whole", "flip": True, "scales": [1.0]}
    (row,) = said["images"]
    mask = pixels(tmp_path / "c/photo.png", "P")
    assert row["mask"] == str(tmp_path / "c/photo.png") and (row["height"], row["width"]) == mask.shape == (30, 44)
    classes = fewmask.load(unbroken("cps")).model.classes
    assert row["pixels"] == {n: int((mask == i).sum()) for n, i in zip(classes, (5, 0, 9), strict=True)}
    assert row["confidence"] == pytest.approx(c.astype(float).max(0).mean(), abs=2e-3) and row["expected"] is None
    found = fewmask.load(unbroken("cps")).predict(photo, flip=True)
    assert (np.array([5, 0, 9])[found] == mask).all()


@pytest.mark.parametrize("scales", ["1,2x", "", "0", "1,,2"])
def test_predict_refuses_scales(scales, unbroken, tmp_path, io):
    photo = save_image(tmp_path / "photo.png")
    ended = run(io, ["predict", str(unbroken("cps")), str(photo), "-o", str(tmp_path / "out"), "--scales", scales])
    assert (
        ended.code == 2
        and "scales" in ended.error
        and "0.75, 1, 1.25" in ended.error.replace("0.75,1,1.25", "0.75, 1, 1.25")
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("occupied", ["a.png", "colour/a.png", "overlay/a.png", "probs/a.npy"])
def test_predict_writes_over_nothing(occupied, unbroken, tmp_path, io):
    photos, out = tmp_path / "photos", tmp_path / "masks"
    for n, name in enumerate(("a", "b")):
        save_image(photos / f"{name}.jpg", seed=n)
    (out / occupied).parent.mkdir(parents=True)
    (out / occupied).write_text("precious")
    ended = run(io, ["predict", str(unbroken("cps")), str(photos), "-o", str(out), "--probs"])
    assert ended.code == 2 and occupied in ended.error and "nothing is written over" in ended.error
    assert [p for p in out.rglob("*") if p.is_file()] == [out / occupied]
    assert (out / occupied).read_text() == "precious"


def test_predict_refuses_images_that_would_meet(unbroken, tmp_path, io):
    files = [save_image(tmp_path / "photos" / name, seed=n) for n, name in enumerate(("a.jpg", "colour/a.jpg"))]
    for inputs in ([tmp_path / "photos"], [files[0], files[0]]):
        ended = run(io, ["predict", str(unbroken("cps")), *map(str, inputs), "-o", str(tmp_path / "masks")])
        assert ended.code == 2 and "two images would write the same file" in ended.error
        assert all(str(file) in ended.error for file in (files if len(inputs) == 1 else files[:1]))
        assert not (tmp_path / "masks").exists()


def test_images_of_one_name_keep_their_extension(unbroken, tmp_path, io):
    for n, name in enumerate(("a.jpg", "a.png", "b.png")):
        save_image(tmp_path / "photos" / name, seed=n)
    words = ["predict", str(unbroken("cps")), str(tmp_path / "photos"), "-o", str(tmp_path / "masks"), "--json"]
    found = one_json(good(run(io, words)).stdout)
    assert [row["name"] for row in found["images"]] == ["a.jpg", "a.png", "b"]
    assert sorted(path.name for path in (tmp_path / "masks").glob("*.png")) == ["a.jpg.png", "a.png.png", "b.png"]


def test_what_predict_wrote_is_no_photo(unbroken, tmp_path, io):
    """Below the folder, beside the photos, and where the output goes; a file that is named is taken."""
    photos, seen = tmp_path / "photos", []
    for n, name in enumerate(("a.jpg", "sub/b.jpg")):
        save_image(photos / name, seed=n)
    for out in (photos / "one", photos, photos / "two"):
        ended = good(run(io, ["predict", str(unbroken("cps")), str(photos), "-o", str(out), "--json"]))
        assert [row["name"] for row in one_json(ended.stdout)["images"]] == ["a", "sub/b"]
        seen.append(ended.stderr)
    assert "left out" not in seen[0] and "6 images that predict wrote" in seen[1] and "12 images that" in seen[2]
    ended = good(run(io, ["predict", str(unbroken("cps")), str(photos / "a.png"), "-o", str(tmp_path / "named")]))
    assert "1 masks" in ended.stderr
    refused = run(io, ["predict", str(unbroken("cps")), str(photos / "one"), "-o", str(tmp_path / "none")])
    assert_refused(refused, 3, "predict wrote all images in the folder", str(photos / "one"))


def test_a_damaged_image_does_not_stop_the_others(unbroken, tmp_path, io):
    photos, out = tmp_path / "photos", tmp_path / "masks"
    for n in range(6):
        save_image(photos / f"{n}.png", seed=n)
    for n in (0, 2, 3, 5):
        (photos / f"{n}.png").write_bytes(b"")
    words = ["predict", str(unbroken("cps")), str(photos), "-o", str(out), "--json"]
    ended = run(io, words)
    assert ended.code == 3 and "4 of 6 images are not predicted, first 0.png: file is empty (0 bytes); 2" in ended.error
    assert "3.png" in ended.error and "5.png" not in ended.error and "2 masks in" in ended.stderr
    assert [row["name"] for row in one_json(ended.stdout)["images"]] == ["1", "4"]
    assert sorted(path.name for path in out.glob("*.png")) == ["1.png", "4.png"]
    for n in (0, 2, 3, 5):
        (photos / f"{n}.png").unlink()
    ended = good(run(io, words))
    assert "continuing: 2 of 2 images are done" in ended.stderr


def test_a_prediction_that_was_stopped_continues(unbroken, tmp_path, io):
    """A damaged image stops it; once that is repaired, the same command does the rest, and nothing twice."""
    photos, out = tmp_path / "photos", tmp_path / "masks"
    for n in range(4):
        save_image(photos / f"{n}.png", seed=n)
    whole = (photos / "2.png").read_bytes()
    (photos / "2.png").write_bytes(whole[: len(whole) // 2])
    words = ["predict", str(unbroken("supervised")), str(photos), "-o", str(out), "--json"]
    ended = run(io, words)
    assert ended.code == 3 and "2.png" in ended.error
    assert (out / "1.png").is_file() and (out / "3.png").is_file() and not (out / "2.png").exists()
    first = (out / "1.png").stat().st_mtime_ns
    (out / "overlay/2.png").write_bytes(b"half")  # what a kill leaves
    (photos / "2.png").write_bytes(whole)
    ended = good(run(io, words))
    assert "continuing: 3 of 4 images are done" in ended.stderr and (out / "1.png").stat().st_mtime_ns == first
    found = one_json(ended.stdout)
    assert [row["name"] for row in found["images"]] == ["0", "1", "2", "3"]
    assert [p.name for p in out.glob(".*")] == [".predict.json"], "a finished call leaves no other note"
    words[words.index(str(out))] = str(tmp_path / "again")
    fresh = one_json(good(run(io, words)).stdout)
    alike = [{k: v for k, v in row.items() if k != "mask"} for row in fresh["images"]]
    assert alike == [{k: v for k, v in row.items() if k != "mask"} for row in found["images"]]
    for path in (tmp_path / "again").rglob("*.*"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "again")).read_bytes()
    assert_refused(run(io, words), 2, "the file exists; nothing is written over")


def test_another_model_does_not_continue_it(unbroken, tmp_path, io):
    photos, out = tmp_path / "photos", tmp_path / "masks"
    save_image(photos / "a.png", seed=0)
    (photos / "b.png").write_bytes(b"none")
    words = ["predict", str(unbroken("supervised")), str(photos), "-o", str(out)]
    assert run(io, words).code == 3
    assert_refused(run(io, [*words, "--flip"]), 2, "the file exists; nothing is written over")
    words[1] = str(unbroken("cps"))
    assert_refused(run(io, words), 2, "the file exists; nothing is written over")
    words[2] = str(save_image(tmp_path / "c.png"))
    assert_refused(run(io, words), 2, "predictions of another model", str(unbroken("supervised") / "model"))
