"""Expected pixel accuracy: isotonic knots by hand, images left out, coverage on made-up data, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from fewmask.errors import CheckpointError
from fewmask.run.quality import FEWEST, FILE, Quality, fit, load, summary, write_table


def test_knots_by_hand() -> None:
    """20 images, of which the third and the fourth stand in the wrong order: 30 and 20 are pooled to 25."""
    x = np.linspace(0.05, 1, 20)
    y = np.array([10.0, 20, 30, 20, *range(40, 72, 2)])
    found = fit(x[::-1].tolist(), y[::-1].tolist())
    assert found.images == 20 and found.confidence == pytest.approx(x.tolist())
    assert found.expected == pytest.approx([10, 20, 25, 25, *range(40, 72, 2)])
    assert found.of(0.0)[0] == 10 and found.of(2.0)[0] == 70
    middle = found.of((x[0] + x[1]) / 2)
    assert (
        middle[0] == pytest.approx(15) and middle[1] == pytest.approx(15 + found.low) and found.low <= 0 <= found.high
    )
    assert found.rank_correlation == pytest.approx(1, abs=0.01)


def test_images_are_left_out() -> None:
    """y = 100·x: without its neighbours' help each inner image is met exactly, an outer one takes the next one's value.

    So two of 21 images are off by 100/20 = 5 points: the mean is 10/21.
    """
    x = np.linspace(0, 1, 21)
    found = fit(x.tolist(), (100 * x).tolist())
    assert found.error == pytest.approx(10 / 21)


def test_the_interval_holds_eight_of_ten() -> None:
    """New images of the same kind: 90 to 100 % confidence, accuracy with noise."""
    rng = np.random.default_rng(0)

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(0.6, 1, count)
        return x, np.clip(100 * x - 5 + rng.normal(0, 4, count), 0, 100)

    inside = []
    for _ in range(20):
        found = fit(*(a.tolist() for a in images(60)))
        for x, y in zip(*images(200), strict=True):
            _, low, high = found.of(float(x))
            inside.append(low <= y <= high)
    assert 0.74 < np.mean(inside) < 0.86


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="19 images are too few"):
        fit([0.5] * (FEWEST - 1), [50.0] * (FEWEST - 1))
    flat = fit([0.5] * FEWEST, list(np.linspace(0, 100, FEWEST)))
    assert flat.rank_correlation is None


@pytest.mark.parametrize(
    "change",
    [
        {"expected": [1.0]}, {"confidence": [0.9, 0.1]}, {"images": 3}, {"expected": [50.0, 101.0]}, {"low": 1.0},
        {"high": float("nan")}, {"format": 2},
    ],
)  # fmt: skip
def test_a_damaged_calibration(change: dict, tmp_path: Path) -> None:
    whole = {
        "format": 1, "measure": "pixel accuracy", "images": 20, "confidence": [0.1, 0.9], "expected": [50.0, 90.0],
        "low": -3.0, "high": 2.0, "error": 1.0, "rank_correlation": 0.5,
    }  # fmt: skip
    assert load(tmp_path) is None
    (tmp_path / FILE).write_text(Quality(**whole).model_dump_json())  # pyright: ignore
    assert load(tmp_path) == Quality(**whole)  # pyright: ignore
    (tmp_path / FILE).write_text(Quality.model_construct(**whole | change).model_dump_json(warnings=False))
    with pytest.raises(CheckpointError, match="calibration is damaged"):
        load(tmp_path)


def test_rows(tmp_path: Path) -> None:
    """A second command adds to the table, and replaces its own rows; an image may be called as the first column."""
    expected = {"pixel_accuracy": 80.123, "low": 70, "high": 90}
    for names in (("a,b", "none"), ("ü", "a,b"), ("name",)):
        told = [{"name": n, "confidence": 0.51234, "expected": None if n == "none" else expected} for n in names]
        write_table(tmp_path / "quality.csv", told)
    with (tmp_path / "quality.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.reader(file))
    assert found[0] == ["name", "confidence", "expected_pixel_accuracy", "low", "high"]
    assert found[1:] == [[name, "0.5123", "80.12", "70.00", "90.00"] for name in ("a,b", "ü", "name")]
    assert [path.name for path in tmp_path.iterdir()] == ["quality.csv"]


def test_summary_by_hand() -> None:
    """Twenty images of 50, 52, … 88 percent: the tenth part ends at 52, which three of five new images do not reach."""
    quality = Quality(
        images=20, confidence=tuple(np.linspace(0.5, 0.88, 20)), expected=tuple(range(50, 90, 2)), low=-3.0, high=2.0,
        error=1.25, rank_correlation=0.9,
    )  # fmt: skip
    assert quality.threshold == 52
    sure = {"e": 0.88, "d": 0.50, "c": 0.70, "b": 0.51, "a": 0.30}
    rows = [
        {
            "name": name, "confidence": at,
            "expected": dict(zip(("pixel_accuracy", "low", "high"), quality.of(at), strict=True)),
        }
        for name, at in sure.items()
    ]  # fmt: skip
    found = summary(quality, [*rows, {"name": "unknown", "confidence": 0.1, "expected": None}])
    assert found is not None and found["images"] == 5
    assert found["expected_pixel_accuracy"] == pytest.approx((88 + 50 + 70 + 51 + 50) / 5)
    assert found["below"] == {"accuracy": 52.0, "images": 3} and found["beyond"] == 1
    assert [one["name"] for one in found["least_sure"]] == ["a", "d", "b"]
    assert found["least_sure"][1]["expected"] == {"pixel_accuracy": 50.0, "low": 47.0, "high": 52.0}
    assert found["calibration"] == {"images": 20, "error": 1.25, "rank_correlation": 0.9}
    assert "1.2 points off" in found["caveat"] and "hardly" not in found["caveat"]
    for rho in (0.29, None):
        weak = summary(quality.model_copy(update={"rank_correlation": rho}), rows)
        assert weak is not None and "hardly tells good predictions from bad ones" in weak["caveat"]
    assert summary(quality, rows[:0]) is None and summary(quality, [rows[0] | {"expected": None}]) is None
