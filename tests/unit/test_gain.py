"""fewmask.run.gain, .finish and .seeds: the gain over baselines from files, who is delivered, means over seeds."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from fewmask.errors import CheckpointError
from fewmask.ops.interval import Gain, Interval
from fewmask.run.evaluation import Evaluation, load_evaluation
from fewmask.run.finish import _delivered
from fewmask.run.folder import RunFolder
from fewmask.run.gain import gain_over, interval_of, sentence
from fewmask.run.seeds import mean_score
from fixtures_evaluation import arm, saved

# --- evaluation.npz


def test_an_evaluation_comes_back(tmp_path):
    found = arm(50, 60, groups=("v1", "v1", "", "v2", "Größe 1"))
    folder = saved(tmp_path, found)
    again = load_evaluation(folder.evaluation, "val")
    assert again is not None and again.names == found.names and again.groups == found.groups
    for name in ("matrix", "counts"):
        one, other = getattr(found, name), getattr(again, name)
        assert np.array_equal(one, other) and one.dtype == other.dtype == np.int64
    assert again.truth.tolist() == [[100, 100]] * 5
    assert load_evaluation(folder.evaluation, "test") is None, "not scored"


def test_a_damaged_evaluation_is_named(tmp_path):
    file = saved(tmp_path, arm(50, 60)).evaluation
    whole = file.read_bytes()
    with np.load(file) as parts:
        arrays = dict(parts)
    del arrays["val_counts"]
    flipped = bytearray(whole)
    flipped[whole.index(b"val_counts") + 60] ^= 255  # inside the compressed numbers

    def write(what: bytes) -> None:
        file.write_bytes(what)

    def an_object() -> None:
        np.savez(file, **arrays, val_counts=np.array([{}], dtype=object))

    def an_array() -> None:
        with file.open("wb") as target:
            np.save(target, np.zeros(3))

    faults = {
        "missing": file.unlink, "cut": lambda: write(whole[:-40]), "half": lambda: write(whole[: len(whole) // 2]),
        "empty": lambda: write(b""), "text": lambda: write(b"no archive"), "flipped": lambda: write(bytes(flipped)),
        "without counts": lambda: np.savez(file, **arrays), "pickle": an_object,
        "an array alone": an_array, "a folder": lambda: (file.unlink(), file.mkdir()),
    }  # fmt: skip
    for name, harm in faults.items():
        write(whole)
        harm()
        with pytest.raises(CheckpointError) as caught:
            load_evaluation(file, "val")
        assert caught.value.where == str(file) and "missing or damaged" in caught.value.what, name
        if name == "cut":
            with pytest.raises(CheckpointError, match="evaluation.npz"):
                gain_over([arm(50, 60)], [RunFolder(tmp_path)], ("sky", "sea"))


# --- gain_over


def test_the_gain_of_equal_images(tmp_path):
    """All images alike, so every resample gives the same: sky +10, sea -4, mIoU +3, and no width."""
    gain = gain_over([arm(60, 46)], [saved(tmp_path, arm(50, 50))], ("sky", "sea"))
    assert gain is not None
    assert {k: gain[k] for k in ("miou", "low", "high")} == {"miou": 3.0, "low": 3.0, "high": 3.0}
    assert gain["iou"] == {
        "sky": {"gain": 10.0, "low": 10.0, "high": 10.0}, "sea": {"gain": -4.0, "low": -4.0, "high": -4.0},
    }  # fmt: skip
    assert gain["verdict"] == "not shown" and gain["covers"] == ["images"], "sure of the images, and one seed"
    assert gain["text"] == (
        "Not shown whether the unlabelled images help: ahead by 3.0 mIoU on this validation set, one seed "
        "(95 % interval +3.0 to +3.0 over images); --seeds 3 can show it."
    )
    assert json.loads(json.dumps(gain)) == gain, "plain numbers, for metrics.json"


def test_the_gain_is_paired_by_image(tmp_path):
    """Two images: one found whole by both, one where ours finds 20 pixels more; a resample holds 0, 1 or 2 of it."""

    def two(hits: int) -> Evaluation:
        counts = np.array([[[100], [100], [100]], [[hits], [100], [hits]]], np.int64)
        return Evaluation(np.array([[100 + hits]]), ("a", "b"), ("", ""), counts)

    gain = gain_over([two(60)], [saved(tmp_path, two(40))], ("sky",))
    assert gain is not None
    # 0 to 20 in the resamples, which two images make nine times too narrow
    assert (gain["low"], gain["miou"], gain["high"]) == (pytest.approx(10 - 10 * 9.1682, abs=1e-3), 10.0, 100.0)


def test_several_seeds(tmp_path):
    """+1, +2, +6: mean 3, and with equal images the half-width t(2) · sd / √3 = 4.303 · 2.6458 / 1.7321 = 6.572."""
    theirs = [saved(tmp_path / str(n), arm(50)) for n in range(3)]
    gain = gain_over([arm(51), arm(52), arm(56)], theirs, ("sky",))
    assert gain is not None and gain["covers"] == ["images", "seeds"] and gain["verdict"] == "not shown"
    half = 4.302653 * math.sqrt(((1 - 3) ** 2 + (2 - 3) ** 2 + (6 - 3) ** 2) / 2) / math.sqrt(3)
    assert half == pytest.approx(6.572, abs=1e-3)
    assert [gain[k] for k in ("low", "miou", "high")] == pytest.approx([3 - half, 3, 3 + half], abs=1e-4)
    # paired by seed: the same spread in both arms is none of the gain's
    spread = [saved(tmp_path / f"spread-{n}", arm(hits)) for n, hits in enumerate((40, 50, 60))]
    gain = gain_over([arm(42), arm(52), arm(62)], spread, ("sky",))
    assert gain is not None and [gain[k] for k in ("low", "miou", "high")] == [2.0, 2.0, 2.0]
    assert gain["verdict"] == "helped" and gain["text"].startswith("The unlabelled images helped: +2.0 mIoU")
    gain = gain_over([arm(38), arm(48), arm(58)], spread, ("sky",))
    assert gain is not None and gain["verdict"] == "hurt"


def test_groups_are_covered(tmp_path):
    groups = ("v1", "v1", "v1", "v2", "v2")
    gain = gain_over([arm(60, groups=groups)], [saved(tmp_path, arm(50, groups=groups))], ("sky",))
    assert gain is not None and gain["covers"] == ["groups"] and "over groups)" in gain["text"]


def test_no_gain_without_validation_images(tmp_path):
    theirs = [saved(tmp_path, arm(50))]
    assert gain_over([None], theirs, ("sky",)) is None
    assert gain_over([arm(60), None], theirs * 2, ("sky",)) is None
    one = saved(tmp_path / "one", arm(50, images=1))
    assert gain_over([arm(60, images=1)], [one], ("sky",)) is None, "one image cannot be resampled"


def test_a_class_without_truth_has_no_gain(tmp_path):
    def without(hits: int) -> Evaluation:
        found = arm(hits, 0)
        found.counts[:, :, 1] = 0
        return found

    gain = gain_over([without(60)], [saved(tmp_path, without(50))], ("sky", "sea"))
    assert gain is not None and gain["miou"] == 10.0 and gain["iou"]["sea"] is None


def test_other_images_or_masks_are_refused(tmp_path):
    ours = arm(60)
    renamed = dataclasses.replace(arm(50), names=("a", "b", "c", "d", "x"))
    other_truth = arm(50)
    other_truth.counts[2, 1, 0] += 1
    for other in (renamed, other_truth, arm(50, images=4), arm(50, 50), None):
        theirs = saved(tmp_path, other)
        with pytest.raises(CheckpointError, match="scored on other images or masks") as caught:
            gain_over([ours], [theirs], ("sky",))
        assert caught.value.where == str(tmp_path)


# --- sentence


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict", "seeds", "expected"),
    [
        (2.04, 0.96, 3.06, "helped", 3,
         "The unlabelled images helped: +2.0 mIoU over supervised training (95 % interval +1.0 to +3.1 over images and "
         "seeds)."),
        (-2.0, -3.0, -1.0, "hurt", 5,
         "The unlabelled images hurt: -2.0 mIoU over supervised training (95 % interval -3.0 to -1.0 over images and "
         "seeds)."),
        (0.5, -1.0, 2.0, "not shown", 3,
         "Not shown whether the unlabelled images help: ahead by 0.5 mIoU, and the interval includes 0 (95 % interval "
         "-1.0 to +2.0 over images and seeds)."),
        (-0.5, -2.0, 1.0, "not shown", 4,
         "Not shown whether the unlabelled images help: behind by 0.5 mIoU, and the interval includes 0 (95 % interval "
         "-2.0 to +1.0 over images and seeds)."),
        (-3.0, -4.0, -2.0, "not shown", 1,
         "Not shown whether the unlabelled images help: behind by 3.0 mIoU on this validation set, one seed (95 % "
         "interval -4.0 to -2.0 over images); --seeds 3 can show it."),
        (3.0, 2.0, 4.0, "not shown", 2,
         "Not shown whether the unlabelled images help: ahead by 3.0 mIoU on this validation set, 2 seeds (95 % "
         "interval +2.0 to +4.0 over images); --seeds 3 can show it."),
    ],
    ids=["helped", "hurt", "ahead", "behind", "one seed", "two seeds"],
)  # fmt: skip
def test_sentence(value, low, high, verdict, seeds, expected):
    covers = ("images", "seeds") if seeds >= 3 else ("images",)
    assert sentence(Gain(Interval(value, low, high), (), verdict, covers), seeds) == expected


# --- interval_of


def test_interval_of():
    assert interval_of(None) is None
    assert interval_of(arm(60, 40, images=1)) is None
    assert interval_of(arm(60, 40)) == {"low": 50.0, "high": 50.0, "covers": ["images"]}
    grouped = arm(60, groups=("v1", "v1", "v1", "v2", "v2"))
    assert interval_of(grouped) == {"low": 60.0, "high": 60.0, "covers": ["groups"]}
    counts = np.array([[[0], [100], [0]], [[100], [100], [100]]], np.int64)
    assert interval_of(Evaluation(np.array([[100]]), ("a", "b"), ("", ""), counts)) == {
        "low": 0.0, "high": 100.0, "covers": ["images"],
    }  # fmt: skip


# --- what is delivered


def best(miou: float | None, step: int = 10) -> dict[str, Any]:
    return {"step": step, "val": None if miou is None else {"miou": miou}}


@pytest.mark.parametrize(
    ("ours", "step", "theirs", "expected"),
    [
        (50.0, 10, 40.0, ("method", "last", 10, 50.0)), (50.0, 4, 40.0, ("method", "best", 4, 50.0)),
        (50.0, 10, 50.0, ("method", "last", 10, 50.0)), (40.0, 10, 50.0, ("baseline", "best", 7, 50.0)),
        (None, 10, 50.0, ("baseline", "best", 7, 50.0)), (40.0, 10, None, ("method", "last", 10, 40.0)),
        (None, 10, None, ("method", "last", 10, None)),
    ],
)  # fmt: skip
def test_the_better_arm_is_delivered_and_of_equals_the_method(ours, step, theirs, expected):
    other = {"delivered": {"run": "method", "checkpoint": "best", "step": 7, "val": theirs}}
    found = _delivered(best(ours, step), 10, other)
    assert tuple(found[k] for k in ("run", "checkpoint", "step", "val")) == expected
    alone = _delivered(best(ours, step), 10, None)
    assert alone["run"] == "method" and alone["val"] == ours


# --- means over seeds


def test_mean_score():
    def score(miou, sky, sea, accuracy):
        return {"miou": miou, "iou": {"sky": sky, "sea": sea}, "pixel_accuracy": accuracy}

    found = mean_score([score(10.0, 8.0, 12.0, 50.0), score(20.0, 20.0, None, 60.0), score(33.0, 32.0, 30.0, 70.0)])
    assert found == score(21.0, 20.0, None, 60.0), "of a class that one seed lacks there is no mean"
    assert mean_score([score(10.0, 8.0, 12.0, 50.0), None]) is None
    assert mean_score([None, None]) is None
