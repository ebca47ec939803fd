"""The tables of a report: scores, seeds, classes, groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fewmask.ops.interval import mean_iou
from fewmask.report.figures import Axis, axis
from fewmask.report.pictures import palette
from fewmask.report.record import Counts, Record, get, is_number
from fewmask.report.text import count, listing, number, signed, span

COLUMNS = (("val", "miou"), ("val", "pixel_accuracy"), ("test", "miou"), ("test", "pixel_accuracy"))


@dataclass(frozen=True)
class ScoreRow:
    """A checkpoint and its scores; ``cells`` are (text, remark) in the order of ``COLUMNS``."""

    name: str
    about: str
    cells: list[tuple[str, str]]
    delivered: bool = False


@dataclass(frozen=True)
class ClassRow:
    """A class: scores in text and as positions on 0..100, support, and the gain with its whisker."""

    name: str
    colour: str
    iou: str
    at: float | None
    baseline: str
    baseline_at: float | None
    gain: str
    interval: str
    gain_at: float | None
    gain_low: float | None
    gain_high: float | None
    test: str
    pixels: str
    images: str
    labelled: str


@dataclass(frozen=True)
class ClassTable:
    """All classes, and which of the columns say something."""

    rows: list[ClassRow]
    has: set[str]
    gain_axis: Axis | None
    kind: str  # of the scored images
    ahead: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    unmeasured: list[str] = field(default_factory=list)
    seedless: bool = False  # the intervals do not cover the seeds


@dataclass(frozen=True)
class Even:
    """How scores differ from image to image."""

    bars: list[tuple[float, str, int]]
    sentence: str
    groups: list[tuple[str, int, str]]
    hidden: int
    kind: str


def colour(index: int) -> str:
    """Return the colour of a class as CSS."""
    red, green, blue = palette()[index % 256].tolist()
    return f"rgb({red} {green} {blue})"


def score_rows(record: Record) -> list[ScoreRow]:
    """Return last, best and the baseline, under those names, and what is delivered where it is none of them."""
    metrics, steps = record.metrics, record.metrics.get("steps")
    last = {role: metrics.get(role) for role in ("val", "test")}
    best = metrics.get("best") or {}
    several, arm = len(record.numbers) > 1, get(metrics, "delivered", "run")
    other = delivered_row(record)
    which = get(metrics, "delivered", "checkpoint") if other is None and arm == "method" else None
    rows = [ScoreRow("last", f"step {count(steps)}", _cells(last, metrics), which == "last")]
    same = best.get("step") == steps and not several
    about = "chosen on val" if several else f"step {count(best.get('step'))}, chosen on val"
    if not record.crossed:  # the folds' best checkpoints are chosen on the very images
        rows.append(ScoreRow("best", about + (": the last one" if same else ""), _cells(best), which == "best"))
    if isinstance(metrics.get("baseline"), Mapping):
        theirs = record.baseline.metrics if record.baseline else {}
        delivered = other is None and arm == "baseline" and not record.crossed
        rows.append(ScoreRow("supervised baseline", "last", _cells(metrics["baseline"], theirs), delivered))
    rows += [other] if other else []
    others = metrics.get("predictors")
    names = list(others) if isinstance(others, Mapping) and len(others) > 1 else []
    for name in names:
        about = "network of the last checkpoint" + (", the reported one" if name == names[0] else "")
        rows.append(ScoreRow(str(name), about, _cells({"val": get(others, name)})))
    return rows


def delivered_row(record: Record) -> ScoreRow | None:
    """Return the scores of the delivered model where no other row is of it: one of several seeds, a baseline's best."""
    told, several = record.metrics.get("delivered"), len(record.numbers) > 1
    if not isinstance(told, Mapping):
        return None
    best, theirs = told.get("checkpoint") == "best", told.get("run") == "baseline"
    if not (several or record.crossed or (best and theirs)):
        return None
    name = "supervised baseline" if theirs else record.method
    parts = [str(told.get("checkpoint", "")), f"seed {told['seed']}" if "seed" in told else ""]
    parts += [f"step {count(told['step'])}" if is_number(told.get("step")) else "", "chosen on val" if best else ""]
    if record.crossed:  # nothing is left to score it on but test
        parts.append("trained on all labelled images")
    about = ", ".join(part for part in parts if part)
    return ScoreRow(name, about, _cells(_delivered_scores(record, told, best=best, theirs=theirs)), delivered=True)


def _delivered_scores(record: Record, told: Mapping[str, Any], *, best: bool, theirs: bool) -> Mapping[str, Any]:
    """Return role → S of the delivered checkpoint, from the run that made it; else its mIoU alone."""
    if record.crossed:
        return {"test": {"miou": told.get("test")}}
    made = next((r for r in record.seeds if r.numbers == [told.get("seed")]), None) if "seed" in told else record
    made = made.baseline if made is not None and theirs else made
    found = {} if made is None else (made.metrics.get("best") or {}) if best else made.metrics
    same = get(found, "val", "miou") == told.get("val")
    return found if same else {role: {"miou": told.get(role)} for role in ("val", "test")}


def _cells(scores: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    cells = []
    for role, key in COLUMNS:
        remark = ""
        if key == "miou" and metrics is not None:
            interval, spread = span(get(metrics, "interval", role)), get(metrics, "spread", role)
            remark = "; ".join(
                part for part in (f"± {number(spread)}" if is_number(spread) else "", interval) if part
            )  # fmt: skip
        cells.append((number(get(scores, role, key), 2), remark))
    return cells


def seed_rows(record: Record) -> list[list[str]]:
    """Return seed, last and best on val, last and best on test of each seed's run."""
    return [
        [
            str(r.metrics.get("seed")),
            *(number(get(r.metrics, *path, "miou"), 2) for path in (("val",), ("best", "val"))),
            *(number(get(r.metrics, *path, "miou"), 2) for path in (("test",), ("best", "test"))),
            signed(get(r.metrics, "gain", "miou"), 2) if get(r.metrics, "gain") else "",
        ]
        for r in record.seeds
    ]


def fold_rows(record: Record) -> list[list[str]]:
    """Return number, images, mIoU and that of the baseline on them, and both on test, of each fold."""
    folds = record.metrics.get("folds")
    roles = ("val", "test")
    return [
        [
            str(n), count(get(fold, "images")),
            *(number(get(fold, *arm, role, "miou"), 2) for role in roles for arm in ((), ("baseline",))),
        ]
        for n, fold in enumerate(folds if isinstance(folds, list) else (), start=1)
    ]  # fmt: skip


def class_table(record: Record) -> ClassTable:
    """Return the classes with what is known of each; columns without any number are named in no set."""
    metrics = record.metrics
    role = "val" if metrics.get("val") else "test"
    seen = record.counts.get(role)
    gains = {name: _class_gain(metrics, name) for name in record.classes} if role == "val" else {}
    at = gain_axis(gains.values())
    rows = [_class_row(record, k, role, gains.get(name), at, seen) for k, name in enumerate(record.classes)]
    has = {
        "baseline": any(row.baseline_at is not None for row in rows), "gain": at is not None,
        "interval": any(row.interval for row in rows), "support": seen is not None,
        "labelled": bool(record.manifest.get("labelled_pixels")), "test": role == "val" and bool(metrics.get("test")),
    }  # fmt: skip
    shown = [(name, g) for name, g in gains.items() if g and is_number(g.get("low")) and is_number(g.get("high"))]
    return ClassTable(
        rows, {key for key, there in has.items() if there}, at, record.role(role),
        [name for name, g in shown if g["low"] > 0], [name for name, g in shown if g["high"] < 0],
        [row.name for row in rows if row.at is None], "seeds" not in (get(metrics, "gain", "covers") or ()),
    )  # fmt: skip


def _class_gain(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """Return the gain of a class with its interval; without one where only the two scores are known."""
    measured = get(metrics, "gain", "iou", name)
    if isinstance(measured, Mapping) and is_number(measured.get("gain")):
        return measured
    ours, theirs = get(metrics, "val", "iou", name), get(metrics, "baseline", "val", "iou", name)
    return {"gain": ours - theirs} if is_number(ours) and is_number(theirs) else None


def gain_axis(gains: Iterable[Mapping[str, Any] | None]) -> Axis | None:
    """Return an axis that holds 0 and {"gain", "low", "high"} of each; None where nothing is known."""
    ends = [g[key] for g in gains if g for key in ("gain", "low", "high") if is_number(g.get(key))]
    return axis(min(0.0, *ends, 0.0), max(0.0, *ends, 0.0), 3) if ends else None


def _class_row(
    record: Record, k: int, role: str, gain: Mapping[str, Any] | None, at: Axis | None, seen: Counts | None
) -> ClassRow:
    name, metrics = record.classes[k], record.metrics
    iou, baseline = get(metrics, role, "iou", name), get(metrics, "baseline", role, "iou", name)
    low, high = get(gain, "low"), get(gain, "high")
    pixels = seen.counts_N3K[:, 1, k] // seen.seeds if seen is not None else None
    place = at.at if at and gain else lambda value: None
    return ClassRow(
        name, colour(k), number(iou), iou if is_number(iou) else None,
        number(baseline), baseline if is_number(baseline) else None,
        signed(gain["gain"]) if gain else "", span(gain, sign=True), place(gain["gain"]) if gain else None,
        place(low) if is_number(low) else None, place(high) if is_number(high) else None,
        number(get(metrics, "test", "iou", name)),
        count(int(pixels.sum())) if pixels is not None else "", count(int((pixels > 0).sum())) if pixels is not None
        else "", count(get(record.manifest, "labelled_pixels", name)),
    )  # fmt: skip


def evenness(record: Record) -> Even | None:
    """Return how the scores differ between images and groups; None where that is not recorded."""
    role = next((r for r in ("val", "test") if r in record.counts), None)
    if role is None or not len(record.counts[role].names):
        return None
    counts = record.counts[role]
    scores = np.array([m for m in map(miou, counts.counts_N3K) if m is not None])
    if not len(scores):
        return None
    edges = np.arange(0, 101, 5)
    heights = np.histogram(scores, edges)[0]
    used = np.flatnonzero(heights)
    bars = [
        (round(100 * float(heights[i]) / float(heights.max()), 1), f"{edges[i]} to {edges[i + 1]}", int(heights[i]))
        for i in range(used[0], used[-1] + 1)
    ]
    low, half, high = np.percentile(scores, (25, 50, 75))
    kind = record.role(role)
    sentence = (
        f"Half of the {len(scores):,} {kind} images score between {number(low)} and {number(high)} mIoU; the median "
        f"is {number(half)}, the lowest {number(scores.min())}, the highest {number(scores.max())}."
    )
    groups, hidden = _groups(counts)
    return Even(bars, sentence, groups, hidden, kind)


def _groups(counts: Counts, limit: int = 20) -> tuple[list[tuple[str, int, str]], int]:
    """Return name, images and mIoU of each group, the lowest first, and how many more there are."""
    names = sorted(set(counts.groups))
    if not 1 < len(names) < len(counts.names):  # no groups, or one image each
        return [], 0
    labels = np.array(counts.groups)
    rows = [(n or "no group", int((labels == n).sum()), miou(counts.counts_N3K[labels == n].sum(0))) for n in names]
    rows.sort(key=lambda row: (row[2] is None, row[2] or 0.0, row[0]))
    return [(n, images, number(value)) for n, images, value in rows[:limit]], max(0, len(rows) - limit)


def miou(counts_3K: np.ndarray) -> float | None:
    """Return the mean IoU in percent over the classes that the truth contains; None where it contains none."""
    value = float(mean_iou(counts_3K))
    return None if math.isnan(value) else value


def shown_sentences(table: ClassTable) -> list[str]:
    """Say in words what the class table shows."""
    said = []
    if table.ahead:
        said.append(f"Ahead of the baseline, with an interval above 0: {listing(table.ahead)}.")
    if table.behind:
        said.append(f"Behind the baseline, with an interval below 0: {listing(table.behind)}.")
    if said and table.seedless:
        said.append("These intervals leave out the seeds: with another seed it may be otherwise.")
    if "interval" in table.has and not said:
        said.append("For no class does the interval of the gain exclude 0.")
    if table.unmeasured:
        said.append(f"Not measured, because the {table.kind} masks do not contain them: {listing(table.unmeasured)}.")
    return said
