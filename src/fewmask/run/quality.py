"""How good a prediction will be, before anyone has looked at it: expected pixel accuracy from the model's confidence.

On the validation images of a run the share of right pixels of each image is regressed on the mean probability of the
predicted classes (isotonic: more confidence is never worse). What that is worth is measured by leaving each image out
once.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fewmask.data.images import read_item
from fewmask.data.index import DataIndex, Item
from fewmask.data.masks import read_mask
from fewmask.engine.files import write_atomic
from fewmask.errors import CheckpointError
from fewmask.ops.rng import Permutation
from fewmask.report.expected import hardly_tells
from fewmask.run.data import by_fold
from fewmask.run.folder import RunFolder
from fewmask.run.model import Model

FILE = "quality.json"
FEWEST = 20
"""Images below which nothing is calibrated."""
SUMMARY, TABLE = "quality-summary.json", "quality.csv"
_TABLE = ("name", "confidence", "expected_pixel_accuracy", "low", "high")
_MOST = 300

Percent = Annotated[float, Field(ge=0, le=100)]


class Quality(BaseModel):
    """A calibration; ``model/quality.json``.

    Attributes:
        format: of the file.
        measure: what is expected.
        images: how many it was made of.
        confidence: knots, ascending, in 0..1.
        expected: pixel accuracy there, percent.
        low, high: 10 % and 90 % quantiles of (true - expected) of images that were left out, points.
        error: mean absolute difference of these, points.
        rank_correlation: Spearman's, of confidence and accuracy; None where all are equal.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format: Literal[1] = 1
    measure: Literal["pixel accuracy"] = "pixel accuracy"
    images: Annotated[int, Field(ge=FEWEST)]
    confidence: Annotated[tuple[float, ...], Field(min_length=1, max_length=_MOST)]
    expected: tuple[Percent, ...]
    low: Annotated[float, Field(le=0)]
    high: Annotated[float, Field(ge=0)]
    error: Annotated[float, Field(ge=0)]
    rank_correlation: float | None

    @model_validator(mode="after")
    def _whole(self) -> Quality:
        if len(self.confidence) != len(self.expected) or list(self.confidence) != sorted(self.confidence):
            raise ValueError("confidence and expected do not belong together")
        return self

    def of(self, confidence: float) -> tuple[float, float, float]:
        """Return (expected, low, high): pixel accuracy in percent, and an interval that holds it eight times of ten."""
        expected = float(np.interp(confidence, self.confidence, self.expected))
        return expected, max(0.0, expected + self.low), min(100.0, expected + self.high)

    @property
    def threshold(self) -> float:
        """What is expected of the tenth part of its images that it is the least sure of, percent; the rest has more."""
        return float(np.quantile(self.expected, 0.1, method="lower"))

    def rows(self) -> list[tuple[float, float, float, float]]:
        """Return (confidence, expected, low, high) from the least sure image to the surest, by quarters."""
        return [(float(at), *self.of(float(at))) for at in np.quantile(self.confidence, [0, 0.25, 0.5, 0.75, 1])]


def fit(confidence: Sequence[float], accuracy: Sequence[float]) -> Quality:
    """Calibrate on N images.

    Args:
        confidence: mean probability of the predicted classes, each in 0..1.
        accuracy: share of right pixels, in percent.

    Raises:
        ValueError: fewer than ``FEWEST`` images.
    """
    from scipy.stats import spearmanr  # a second of imports, which what only reads a calibration does without

    x, y = np.asarray(confidence, float), np.asarray(accuracy, float)
    if len(x) < FEWEST:
        raise ValueError(f"{len(x)} images are too few")
    place = np.argsort(x, kind="stable")
    x, y = x[place], y[place]
    left_out = np.array([_expected(np.delete(x, i), np.delete(y, i), x[i]) for i in range(len(x))])
    rest = y - left_out
    low, high = np.quantile(rest, [0.1, 0.9])
    flat = np.ptp(x) == 0 or np.ptp(y) == 0
    knots = _isotonic(y)
    return Quality(
        images=len(x), confidence=tuple(x.tolist()), expected=tuple(np.clip(knots, 0, 100).tolist()),
        low=min(0.0, float(low)), high=max(0.0, float(high)), error=float(np.abs(rest).mean()),
        rank_correlation=None if flat else float(np.asarray(spearmanr(x, y))[0]),
    )  # fmt: skip


def _expected(x: np.ndarray, y: np.ndarray, at: float) -> float:
    return float(np.interp(at, x, _isotonic(y)))


def _isotonic(y: np.ndarray) -> np.ndarray:
    from scipy.optimize import isotonic_regression

    return isotonic_regression(y).x


def calibrate(run: RunFolder, index: DataIndex) -> Quality | None:
    """Calibrate the delivered model of a finished run on its validation images; write ``model/quality.json``.

    In a cross-fitted run each image is looked at by the model of its fold, which has not seen it.

    Args:
        run: the run.
        index: its data.

    Returns:
        None where there are fewer than ``FEWEST`` of them: a calibration of fewer is worth nothing.

    Raises:
        DataError: an image cannot be read.
        WriteError: the disk refused.
    """
    unseen = by_fold(run, index.labelled) or [(run.model, item) for item in index.items["val"]]
    if len(unseen) < FEWEST:
        return None
    drawn, seen = Permutation(len(unseen), seed=0), []
    chosen = sorted((unseen[drawn[i]] for i in range(min(_MOST, len(unseen)))), key=lambda pair: str(pair[0]))
    for place, pairs in groupby(chosen, key=lambda pair: pair[0]):
        model = Model.load(place)
        seen += [measure(model, item, index) for _, item in pairs]
    known = [pair for pair in seen if pair is not None]
    if len(known) < FEWEST:
        return None
    quality = fit(*zip(*known, strict=True))
    write_atomic(run.model / FILE, quality.model_dump_json(indent=1) + "\n")
    return quality


def measure(model: Model, item: Item, index: DataIndex) -> tuple[float, float] | None:
    """Return (confidence, pixel accuracy in percent) of one image; None where its mask holds no class."""
    assert item.mask is not None
    mask, sure, right, known, pixels = read_mask(item.mask, index.code), 0.0, 0, 0, 0
    for row, p in model.bands(read_item(item)):
        part, label = mask[row : row + p.shape[1]], p.argmax(0)
        counted = part < len(model.classes)
        sure += float(p.max(0).sum(dtype=np.float64))
        pixels += label.size
        right, known = right + int((label == part)[counted].sum()), known + int(counted.sum())
    return (sure / pixels, 100 * right / known) if known else None


def write_table(file: Path, predicted: Iterable[Mapping[str, Any]]) -> None:
    """Write what is expected of images to a table, a row each; those of other images that stand there stay.

    Args:
        file: the table.
        predicted: of each image {"name", "confidence", "expected": {"pixel_accuracy", …} | None}.

    Raises:
        WriteError: the disk refused.
    """
    rows: dict[str, list[str]] = {}
    if file.is_file():
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as there:
            rows = {row[0]: row for row in list(csv.reader(there))[1:] if row}
    for one in predicted:
        if (values := one["expected"]) is not None:
            numbers = (f"{values[key]:.2f}" for key in ("pixel_accuracy", "low", "high"))
            rows[one["name"]] = [one["name"], f"{one['confidence']:.4f}", *numbers]
    made = StringIO(newline="")
    csv.writer(made, lineterminator="\n").writerows([_TABLE, *rows.values()])
    write_atomic(file, made.getvalue().encode("utf-8", "surrogateescape"))


def summary(quality: Quality, predicted: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what is expected of images together; None where nothing is expected of any of them.

    Args:
        quality: the calibration.
        predicted: of each image {"name", "confidence", "expected": {"pixel_accuracy", …} | None}.

    Returns:
        {"images", "expected_pixel_accuracy": their mean, "below": {"accuracy": ``threshold``, "images"}, "beyond": how
        many are less sure than any image of the calibration, which says nothing of such ones, "least_sure": the three,
        "calibration": {"images", "error", "rank_correlation"}, "caveat": a sentence}; accuracies in percent.
    """
    known = [row for row in predicted if row["expected"] is not None]
    if not known:
        return None
    values = [float(row["expected"]["pixel_accuracy"]) for row in known]
    least = sorted(known, key=lambda row: (row["confidence"], row["name"]))[:3]
    return {
        "images": len(known), "expected_pixel_accuracy": float(np.mean(values)),
        "below": {"accuracy": quality.threshold, "images": sum(value < quality.threshold for value in values)},
        "beyond": sum(row["confidence"] < quality.confidence[0] for row in known),
        "least_sure": [
            {"name": row["name"], "confidence": row["confidence"], "expected": row["expected"]} for row in least
        ],
        "calibration": quality.model_dump(include={"images", "error", "rank_correlation"}), "caveat": _caveat(quality),
    }  # fmt: skip


def _caveat(quality: Quality) -> str:
    text = (
        f"learned from {quality.images} images, each left out once: {quality.error:.1f} points off on average; "
        "of images unlike them it says little"
    )
    if hardly_tells(quality.rank_correlation):
        text += "; on these data the confidence hardly tells good predictions from bad ones"
    return text


def load(folder: Path) -> Quality | None:
    """Return the calibration of a model folder; None where there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        return Quality.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CheckpointError("the calibration is damaged", where=folder / FILE, todo="remove it") from error
