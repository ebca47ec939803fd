"""What the report says of more masks: the learning curve of ``fewmask curve``, and what it foretells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fewmask.ops.learning import Law
from fewmask.report.figures import Chart, Series, line_chart
from fewmask.report.record import Record, is_number

_STEPS = 24  # of the drawn law


@dataclass(frozen=True)
class Learning:
    """A chart, and a sentence."""

    chart: Chart | None
    said: str


def learning(record: Record) -> Learning | None:
    """Return the learning curve of a run; None where it has none."""
    found = [p for p in record.curve.get("points", ()) if is_number(p.get("images")) and is_number(p.get("miou"))]
    if not found:
        return None
    images = sorted({float(p["images"]) for p in found})
    means = [(n, fmean(float(p["miou"]) for p in found if p["images"] == n)) for n in images]
    draws = [[(float(p["images"]), float(p["miou"])) for p in found if p.get("draw") == d]
             for d in sorted({p.get("draw") for p in found}, key=str)]  # fmt: skip
    arm = record.curve.get("arm", "measured")
    name = record.method if arm == record.metrics.get("method") else "supervised baseline"
    series = [Series(name, means, siblings=draws, dots=True)]
    told, law = record.curve.get("forecast"), _law(record.curve.get("law"))
    if isinstance(told, Mapping) and law is not None and is_number(told.get("images")):
        end, (most, had) = float(told["images"]), means[-1]
        line = [most * (end / most) ** (n / _STEPS) for n in range(_STEPS + 1)]
        at = [(most, had, had, had), *((n, *law.ahead(n, had)) for n in line[1:])]
        points, band = [(n, v) for n, v, _, _ in at], [(n, low, high) for n, _, low, high in at]
        series.append(Series("foretold, 80 % interval", points, 1, band))
    chart = line_chart("mIoU by labelled images", series, unit="%", x_name="labelled images")
    return Learning(chart, str(record.curve.get("text", "")))


def _law(found: Any) -> Law | None:
    try:
        return Law(**found) if all(is_number(v) for v in found.values()) else None
    except (TypeError, AttributeError):
        return None
