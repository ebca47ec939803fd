"""Curves over the steps: scores, losses, kept pixels, and what the pseudo-labels were made of."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewmask.ops.monitor import VANISHED, Monitor
from fewmask.report.figures import Chart, Points, Series, Stack, binned, line_chart, stack_chart
from fewmask.report.record import Record, get, is_number
from fewmask.report.text import count, percent, plural

_NOT_TERMS = {"step", "round", "lr", "loss", "kept", "pseudo", "agree", "data_wait", "val", "val_iou"}
_BINS = 80
_STEADY = 5  # logged steps over which a class has to be gone
SHOWN = 12
"""So many classes a stacked chart shows; the others are put together."""

Log = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Share:
    """A class among the pseudo-labels at the end, beside the labels."""

    name: str
    index: int
    end: str
    pixels: str
    prior: str
    ratio: str
    vanished: bool


@dataclass(frozen=True)
class Pseudo:
    """The section on pseudo-labels; what was not recorded is None or empty. ``window`` says what "at the end" is.

    ``alarms`` were not over at the end, ``passed`` were.
    """

    kept: Chart | None
    kept_sentence: str
    window: str
    alarms: list[str]
    passed: list[str]
    stack: Stack | None
    shares: list[Share]
    hidden: int
    vanished: list[str]


def points_of(log: Log, read: Callable[[Mapping[str, Any]], Any]) -> list[tuple[float, float]]:
    """Return (step, value) of the lines in which ``read`` finds a number."""
    found = ((line["step"], read(line)) for line in log)
    return [(float(step), float(value)) for step, value in found if is_number(value)]


def mean_of(lines: Sequence[Points]) -> list[tuple[float, float]]:
    """Return the mean of several lines at the steps that all of them have."""
    if len(lines) < 2:
        return list(lines[0]) if lines else []
    tables = [dict(line) for line in lines]
    steps = sorted(set.intersection(*(set(t) for t in tables)))
    return [(s, math.fsum(t[s] for t in tables) / len(tables)) for s in steps]


def val_series(record: Record, name: str, style: int) -> Series:
    """Return the mIoU on val over the steps, with the seeds or folds beside their mean."""
    lines = [line for log in record.logs if (line := points_of(log, lambda r: r.get("val")))]
    mean = mean_of(lines)
    return Series(name, mean, style, siblings=lines if len(lines) > 1 else (), dots=len(mean) <= 60)


def val_chart(record: Record) -> Chart | None:
    """Return the mIoU on val of the method and, where it was found, of the matched baseline."""
    series = [val_series(record, record.method, 0)]
    if record.baseline is not None:
        series.append(val_series(record.baseline, "supervised baseline", 1))
    return line_chart(val_title(record), series, unit="%")


def val_title(record: Record) -> str:
    """Return the title of the curves of ``val_series``: a fold is scored on the images that it has not seen."""
    return "mIoU on the images of the fold" if record.crossed else "mIoU on val"


def loss_chart(record: Record) -> Chart | None:
    """Return the terms of the loss, weighted as they were added."""
    terms = list(dict.fromkeys(k for log in record.logs for line in log for k in line if k not in _NOT_TERMS))
    return line_chart("Loss terms", [_noisy(record, term, term, n) for n, term in enumerate(terms)], from_zero=True)


def _noisy(record: Record, key: str, name: str, style: int, factor: float = 1.0) -> Series:
    lines = [line for log in record.logs if (line := points_of(log, lambda r: r.get(key)))]
    points = [(step, factor * value) for step, value in mean_of(lines)]
    mean, band = binned(points, _BINS)
    last = [y for _, y in points[_tail(len(points))]]
    return Series(name, mean, style, band, last=math.fsum(last) / len(last) if last else None)


def pseudo(record: Record) -> Pseudo | None:
    """Return the section on pseudo-labels; None where nothing of it was recorded."""
    kept = _noisy(record, "kept", "unlabelled pixels that trained", 0, 100.0)
    agree = _noisy(record, "agree", "of these, where the network says the same", 1, 100.0)
    lines = [one for one in (kept, agree) if one.points]
    chart = line_chart("Pixels with a pseudo-label", lines, unit="%", from_zero=True) if kept.points else None
    steps, shares = _histogram(record)
    if chart is None and not len(steps):
        return None
    sentence, in_step = "", _pixels_in_step(record)
    trained = in_step * kept.last / 100 if in_step and kept.last is not None else None
    if kept.points:
        sentence = f"At the end {percent((kept.last or 0) / 100)} of the valid unlabelled pixels trained"
        sentence += "" if trained is None else f", {count(trained)} of the {count(in_step)} in a step at most"
        sentence += f"; on {percent((agree.last or 0) / 100)} of these" if agree.points else "."
        sentence += " the trained network itself said what the pseudo-label says." if agree.points else ""
    rest = _against_prior(record, steps, shares, trained) if len(steps) else (None, [], 0, [])
    return Pseudo(chart, sentence, _window(len(steps)), *_alarms(record), *rest)


def _pixels_in_step(record: Record) -> int | None:
    """Return how many pixels the unlabelled crops of a step have; those beyond the edge of an image are not valid."""
    batch, crop = get(record.recipe, "data", "unlabelled_batch"), get(record.recipe, "data", "crop")
    known = is_number(batch) and isinstance(crop, list) and all(map(is_number, crop))
    return batch * math.prod(crop) if known else None


def _window(steps: int) -> str:
    """Say what the end is, of so many logged steps."""
    last = len(range(steps)[_tail(steps)])
    which = "the last" if last == 1 else f"the mean of the last {last}"
    return f"At the end: {which} of {plural(steps, 'logged step')}." if steps else ""


def _alarms(record: Record) -> tuple[list[str], list[str]]:
    """Return what was, or would have been, said about the pseudo-labels while they trained; and what was over again."""
    prior, last, over = _prior(record), list[str](), list[str]()
    for name, training in record.trainings:
        where = f"{name}, " if name else ""
        for _, lines in itertools.groupby(training.log, lambda line: line.get("round")):
            monitor = Monitor(record.classes, None if prior is None else prior.tolist(), lambda text: None)
            for line in lines:
                if is_number(line.get("kept")):
                    monitor.record(dict(line))
            last += [f"{where}step {one.step}: {one.text}" for one in monitor.found if one.until is None]
            over += [
                f"{where}step {one.step} to {one.until}: {one.text}" for one in monitor.found if one.until is not None
            ]
    return last, over


def _prior(record: Record) -> np.ndarray | None:
    """Return the share of each class among the labelled pixels; None where that was not recorded."""
    pixels = [get(record.manifest, "labelled_pixels", name) for name in record.classes]
    known = bool(pixels) and all(map(is_number, pixels)) and sum(pixels) > 0
    return np.array(pixels, np.float64) / sum(pixels) if known else None


def _tail(length: int) -> slice:
    """Return the last tenth of so many values, at least one."""
    return slice(-max(1, length // 10), None)


def _histogram(record: Record) -> tuple[list[float], np.ndarray]:
    """Return the steps and class shares [T, K] of the pseudo-labels, mean over the seeds; rows add up to 1."""
    classes, tables = len(record.classes), []
    for log in record.logs:
        table = {}
        for line in log:
            row = line.get("pseudo")
            if isinstance(row, list) and len(row) == classes and all(map(is_number, row)) and sum(row) > 0:
                table[float(line["step"])] = np.maximum(np.array(row, np.float64), 0)
        tables += [table] if table else []
    steps = sorted(set.intersection(*map(set, tables))) if tables else []
    if not steps:
        return [], np.zeros((0, classes))
    rows = np.array([sum(t[s] / t[s].sum() for t in tables) / len(tables) for s in steps])
    return steps, rows


def _against_prior(
    record: Record, steps: list[float], shares_TK: np.ndarray, trained: float | None
) -> tuple[Stack, list[Share], int, list[str]]:
    names = record.classes
    shares = _prior(record)
    known = shares is not None
    prior = np.zeros(len(names)) if shares is None else shares
    end = shares_TK[_tail(len(shares_TK))].mean(0)
    most = np.maximum(end, shares_TK[-_STEADY:].mean(0))  # a short run ends with one batch, which may lack a class
    gone = [k for k in range(len(names)) if known and prior[k] > 0 and most[k] < VANISHED * prior[k]]
    chosen = _chosen(prior if known else np.zeros_like(end), end)
    rest = [k for k in range(len(names)) if k not in chosen]
    parts: list[tuple[str, int | None, np.ndarray, float]] = [(names[k], k, shares_TK[:, k], prior[k]) for k in chosen]
    if rest:
        parts.append((f"{len(rest)} other classes", None, shares_TK[:, rest].sum(1), prior[rest].sum()))
    at, rows = _coarse(steps, np.stack([p[2] for p in parts], 1))
    stack = stack_chart(
        "Classes of the pseudo-labels", at, rows, np.array([p[3] for p in parts]), [p[0] for p in parts],
        [p[1] for p in parts],
    )  # fmt: skip
    shown = [
        Share(
            names[k], k, percent(float(end[k])), "" if trained is None else count(float(end[k]) * trained),
            percent(float(prior[k])) if known else "", f"{end[k] / prior[k]:.2f}" if prior[k] > 0 else "",
            k in gone,
        )
        for k in chosen
    ]  # fmt: skip
    return stack, shown, len(rest), [names[k] for k in gone]


def _chosen(prior: np.ndarray, end: np.ndarray) -> list[int]:
    """Return the classes that are shown: all of few, else those that differ the most from the labels, by id."""
    if len(end) <= SHOWN + 1:
        return list(range(len(end)))
    return sorted(int(k) for k in np.argsort(-np.abs(end - prior), kind="stable")[:SHOWN])


def _coarse(steps: list[float], rows: np.ndarray, bins: int = 100) -> tuple[list[float], np.ndarray]:
    size = max(1, math.ceil(len(steps) / bins))
    starts = range(0, len(steps), size)
    at = [math.fsum(steps[i : i + size]) / len(steps[i : i + size]) for i in starts]
    return at, np.stack([rows[i : i + size].mean(0) for i in starts])
