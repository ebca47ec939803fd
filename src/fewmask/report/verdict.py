"""The first thing one reads: did the unlabelled images help, how good is the model, and which one is it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev
from typing import Any

from fewmask.report.figures import Axis, axis
from fewmask.report.paired import interval_of
from fewmask.report.record import Record, get, is_number
from fewmask.report.text import MINUS, UNMEASURED, listing, number, plural, signed, span

_NEGATIVE = re.compile(r"(?<![\w-])-(?=\d)")
_MARKS = {"helped": "▲", "hurt": "▼", "not shown": "≈", "none": "○"}


@dataclass(frozen=True)
class Bar:
    """A number with its interval, on an axis of 0 to 100."""

    name: str
    text: str
    interval: str
    at: float
    low: float | None
    high: float | None
    seeds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """The card at the top.

    Attributes:
        kind: helped, hurt, not shown, or none.
        mark: a sign for it, so that colour is not needed.
        headline: the one sentence.
        details: sentences below.
        scores: method and baseline on one axis.
        scores_axis: that axis.
        gain: the difference on an axis with a zero.
        gain_axis: that axis.
        todo: a command-line flag that would change the verdict, or empty.
    """

    kind: str
    mark: str
    headline: str
    details: list[str]
    scores: list[Bar] = field(default_factory=list)
    scores_axis: Axis | None = None
    gain: Bar | None = None
    gain_axis: Axis | None = None


def verdict(record: Record) -> Verdict:
    """Return the card of a run."""
    gain = record.metrics.get("gain")
    kind = str(gain.get("verdict", "not shown")) if isinstance(gain, Mapping) else "none"
    kind = kind if kind in _MARKS else "not shown"
    score = get(record.metrics, "val", "miou")
    headline, details = _compared(record, gain, kind) if isinstance(gain, Mapping) else _alone(record, score)
    arm = record.baseline or Record({})
    around = get(arm.metrics, "interval", "val") or interval_of(arm.seeds, "val")  # nobody has written that of seeds
    rows = [
        (record.method, score, get(record.metrics, "interval", "val"), _each(record)),
        ("supervised baseline", get(record.metrics, "baseline", "val", "miou"), around, _each(arm)),
    ]  # fmt: skip
    rows = [row for row in rows if is_number(row[1])]
    spread = [v for _, value, i, each in rows for v in (value, *_ends(i), *each)]
    at = axis(0, 100, 5) if len(spread) == 1 else _around(spread) if spread else None
    bars = [_bar(name, value, interval, at, each=each) for name, value, interval, each in rows if at]
    gain_bar, gain_axis = None, None
    if isinstance(gain, Mapping) and is_number(gain.get("miou")):
        gain_axis = _around([0.0, gain["miou"], *_ends(gain)])
        gain_bar = _bar("gain", gain["miou"], gain, gain_axis, sign=True)
    return Verdict(
        kind, _MARKS[kind], headline, [*details, *_crossed(record), _delivered(record)], bars, at, gain_bar, gain_axis
    )


def _compared(record: Record, gain: Mapping[str, Any], kind: str) -> tuple[str, list[str]]:
    """Return the sentence that the run itself recorded, else one like it, and what to know about it."""
    value, interval = gain.get("miou"), span(gain, sign=True)
    moved = f"{signed(value)} mIoU over supervised training{f' (95 % interval {interval})' if interval else ''}"
    headline = {
        "helped": f"The unlabelled images helped: {moved}.",
        "hurt": f"The unlabelled images hurt: {moved}.",
        "not shown": f"Not shown whether the unlabelled images help: {moved}, {seeds_text(record)}.",
    }[kind]
    if not is_number(value):
        headline = "Not shown whether the unlabelled images help: the gain was not measured."
    if text := str(gain.get("text") or "").strip():
        headline = _NEGATIVE.sub(MINUS, f"{text[0].upper()}{text[1:].rstrip('.')}.")
    details = []
    if interval and gain.get("covers"):
        details.append(covers_sentence(gain["covers"]))
    details.append("Both arms had the same labelled images, budget and seeds.")
    return headline, details


def _crossed(record: Record) -> list[str]:
    """Say how a score came about without val images."""
    if not record.crossed:
        return []
    return [
        f"There are no val images: each labelled image was scored by networks that had not seen it, in {record.crossed}"
        " folds. The delivered model was trained on all of them, so nothing here says more of it than theirs."
    ]


def covers_sentence(covers: Any) -> str:
    """Say what an interval takes into account, and what it does not."""
    known = {"images": "which images were drawn", "groups": "which groups of images were drawn", "seeds": "the seeds"}
    inside = [known.get(str(c), str(c)) for c in covers] if isinstance(covers, list) else [str(covers)]
    outside = "" if "the seeds" in inside else "; it does not cover the seed"
    return f"The interval covers {listing(inside)}{outside}."


def _alone(record: Record, score: Any) -> tuple[str, list[str]]:
    where = f"on {record.place('val')}"
    reached = f"{record.method} reaches {number(score)} mIoU {where}" if is_number(score) else f"No score {where}"
    if record.metrics.get("method") == "supervised":
        return f"{reached}, from the labelled images alone.", [
            "This is a supervised run: it used no unlabelled images, so there is nothing to compare."
        ]
    if not is_number(score):
        return "Whether the unlabelled images helped is not measured: there are no validation images.", [
            "Set some masks aside for validation (a val folder, or roles in data.yaml) and train again."
        ]
    refused = record.recipe.get("baseline") is False
    why = "the run was started with --no-baseline" if refused else "no matched supervised run is recorded"
    return f"{reached}; there is no baseline, so whether the unlabelled images helped is not known.", [
        f"Why: {why}. The flag --baseline of fewmask train makes one: the same masks, budget and seed without "
        "the unlabelled images."
    ]


def _delivered(record: Record) -> str:
    run, which = get(record.metrics, "delivered", "run"), get(record.metrics, "delivered", "checkpoint")
    if run is None:
        return "Which model was delivered is not recorded."
    where = "in the folds" if record.crossed else "on val"
    arm = record.method if run == "method" else f"the supervised baseline, which scored better {where}"
    step, seed = get(record.metrics, "delivered", "step"), get(record.metrics, "delivered", "seed")
    if step is None and run == "method":
        step = get(record.metrics, "best", "step") if which == "best" else record.metrics.get("steps")
    known = [f"step {step:,}" if is_number(step) else "", f"seed {seed}" if seed is not None else ""]
    at = ", ".join(part for part in known if part)
    return f"Delivered in model/: the {which} checkpoint{f' ({at})' if at else ''} of {arm}."


def seeds_text(record: Record) -> str:
    """Return "seed 0", or "mean of 3 seeds (0, 1, 2)"."""
    seeds = record.numbers
    if len(seeds) > 1:
        return f"mean of {plural(len(seeds), 'seed')} ({', '.join(map(str, seeds))})"
    return f"seed {seeds[0]}" if seeds[0] is not None else f"seed {UNMEASURED}"


def _each(record: Record) -> list[float]:
    """Return the score of each seed, where several were run."""
    found = [get(r.metrics, "val", "miou") for r in record.seeds]
    return [value for value in found if is_number(value)]


def _ends(interval: Any) -> list[float]:
    return [v for v in (get(interval, "low"), get(interval, "high")) if is_number(v)]


def _around(values: list[float]) -> Axis:
    """Return an axis with a margin on both sides, so that whiskers and names have room."""
    low, high = min(values), max(values)
    margin = max(0.08 * (high - low), 0.25)
    return axis(low - margin, high + margin, 5, tight=True)


def _bar(name: str, value: float, interval: Any, at: Axis, *, sign: bool = False, each: Sequence[float] = ()) -> Bar:
    ends = _ends(interval)
    low, high = (at.at(ends[0]), at.at(ends[1])) if len(ends) == 2 else (None, None)
    remark = span(interval, sign=sign) or (f"± {number(stdev(each))} over seeds" if len(each) > 1 else "")
    text = signed(value) if sign else number(value)
    return Bar(name, text, remark, at.at(value), low, high, [at.at(v) for v in each])
