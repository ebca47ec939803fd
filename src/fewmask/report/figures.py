"""Charts as geometry: positions in percent and paths in a square of 1000, which the templates draw as SVG.

No markup is made here, so nothing has to be escaped here. Text is laid over the drawing by the page itself: it keeps
its size on a telephone, follows dark mode and can be read aloud.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fewmask.report.text import count, number

Points = Sequence[tuple[float, float]]

SIDE = 1000
STYLES = 8
"""Line styles (colour and dash) that the style sheet has; later series repeat them."""


@dataclass(frozen=True)
class Series:
    """A line to be drawn.

    Attributes:
        name: in the legend.
        points: (x, y), x ascending.
        style: number of its colour and dash.
        band: (x, low, high) around it.
        siblings: thin lines of the same style: the seeds that it is the mean of.
        dots: mark every point.
        last: the value at the end, shown behind the name; None = the last y.
    """

    name: str
    points: Points
    style: int = 0
    band: Sequence[tuple[float, float, float]] = ()
    siblings: Sequence[Points] = ()
    dots: bool = False
    last: float | None = None


@dataclass(frozen=True)
class Axis:
    """A linear axis with round ticks."""

    low: float
    high: float
    ticks: list[float]
    digits: int = 0

    def at(self, value: float) -> float:
        """Return the position of a value, 0 to 100."""
        return round(100 * (value - self.low) / (self.high - self.low), 3)

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Position and text of each tick."""
        return [(self.at(t), count(t) if self.digits == 0 else number(t, self.digits)) for t in self.ticks]


@dataclass(frozen=True)
class Drawn:
    """A series as paths."""

    name: str
    style: int
    line: str
    band: str
    siblings: list[str]
    dots: str
    value: str


@dataclass(frozen=True)
class Chart:
    """A line chart."""

    title: str
    summary: str
    x: Axis
    y: Axis
    series: list[Drawn]
    unit: str = ""
    x_name: str = "step"


@dataclass(frozen=True)
class Area:
    """One class of a stacked chart; ``index`` is None for the rest of the classes."""

    name: str
    index: int | None
    path: str
    side: float
    side_at: float


@dataclass(frozen=True)
class Stack:
    """Shares over steps, stacked, beside a column of reference shares."""

    title: str
    summary: str
    x: Axis
    areas: list[Area] = field(default_factory=list)
    x_name: str = "step"


def axis(low: float, high: float, ticks: int = 5, *, tight: bool = False) -> Axis:
    """Return an axis over a range, widened to its round ticks unless ``tight``.

    Args:
        low: smallest value.
        high: largest value.
        ticks: how many ticks at most.
        tight: end the axis at the values; ticks beyond them are left out.
    """
    if high <= low:
        low, high = (low - 1, high + 1) if not tight else (low - 1, high)
    raw = (high - low) / max(1, ticks)
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    digits = places + (1 if round(step * 10**places, 6) % 1 else 0)
    values = [round(i * step, 10) + 0.0 for i in range(first, last + 1)]
    if tight:
        high = next((v for v in values if high < v < high + 0.03 * (high - low)), high)  # a tick that is nearly reached
        return Axis(low, high, [v for v in values if low <= v <= high], digits)
    return Axis(values[0], values[-1], values, digits)


def line_chart(
    title: str, series: Sequence[Series], *, unit: str = "", from_zero: bool = False, x_name: str = "step"
) -> Chart | None:
    """Return a chart of the series that have points; None where none has.

    Args:
        title: of the chart.
        series: what to draw.
        unit: of the y values, for the axis.
        from_zero: let y begin at 0.
        x_name: what x counts.
    """
    series = [s for s in series if s.points]
    if not series:
        return None
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for line in (s.points, *s.siblings) for _, y in line]
    ys += [v for s in series for _, low, high in s.band for v in (low, high)]
    x, y = axis(0, max(xs), 5, tight=True), axis(min([0.0, *ys] if from_zero else ys), max(ys), 5)
    digits = 1 if y.digits == 0 else max(2, y.digits)
    drawn = [_draw(s, x, y, digits) for s in series]
    ends = [
        f"{s.name} goes from {number(s.points[0][1], digits)} at {x_name} {count(s.points[0][0])} "
        f"to {number(s.points[-1][1], digits)} at {x_name} {count(s.points[-1][0])}"
        for s in series
    ]
    return Chart(title, f"{title}{f', {unit}' if unit else ''}: {'; '.join(ends)}.", x, y, drawn, unit, x_name)


def _draw(series: Series, x: Axis, y: Axis, digits: int) -> Drawn:
    low = [(a, b) for a, b, _ in series.band]
    high = [(a, c) for a, _, c in series.band]
    return Drawn(
        series.name, series.style % STYLES, path(series.points, x, y),
        path([*high, *reversed(low)], x, y) + "Z" if series.band else "",
        [path(points, x, y) for points in series.siblings],
        "".join(f"M{_xy(p, x, y)}h0" for p in series.points) if series.dots else "",
        number(series.points[-1][1] if series.last is None else series.last, digits),
    )  # fmt: skip


def path(points: Iterable[tuple[float, float]], x: Axis, y: Axis) -> str:
    """Return the points as an SVG path in the square."""
    return "M" + "L".join(_xy(p, x, y) for p in points)


def _xy(point: tuple[float, float], x: Axis, y: Axis) -> str:
    return f"{_short(x.at(point[0]) * SIDE / 100)} {_short((100 - y.at(point[1])) * SIDE / 100)}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def binned(points: Points, bins: int) -> tuple[list[tuple[float, float]], list[tuple[float, float, float]]]:
    """Return the mean line of noisy points, and the band between the lowest and highest of each bin.

    Args:
        points: (x, y), x ascending.
        bins: neighbours are put together until there are about that many.
    """
    size = max(1, math.ceil(len(points) / bins))
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    line = [(math.fsum(x for x, _ in c) / len(c), math.fsum(y for _, y in c) / len(c)) for c in chunks]
    band = [(at, min(y for _, y in c), max(y for _, y in c)) for c, (at, _) in zip(chunks, line, strict=True)]
    return line, band if size > 1 and len(line) > 1 else []


def stack_chart(
    title: str, steps: Sequence[float], shares_TK: np.ndarray, side_K: np.ndarray, names: Sequence[str],
    indices: Sequence[int | None],
) -> Stack:  # fmt: skip
    """Return shares over time, stacked from the bottom.

    Args:
        title: of the chart.
        steps: T ascending.
        shares_TK: rows that add up to 1.
        side_K: the shares to compare with; they add up to 1.
        names: of the K parts.
        indices: class of each part; None for a rest.
    """
    x, y = axis(0, max(steps), 5, tight=True), Axis(0, 1, [0, 0.5, 1], 1)
    # the first and last values reach to the edges, so that the drawing has none of its own; not where they began late
    late = len(steps) > 1 and steps[0] > 2 * (steps[1] - steps[0])
    at = [steps[0] if late else 0.0, *steps, max(steps)]
    rows = np.vstack([shares_TK[:1], shares_TK, shares_TK[-1:]])
    top = np.clip(rows.cumsum(1), 0, 1)
    areas, below, side = [], np.zeros(len(at)), 0.0
    for k, name in enumerate(names):
        high = list(zip(at, top[:, k].tolist(), strict=True))
        low = list(zip(at, below.tolist(), strict=True))
        areas.append(
            Area(name, indices[k], path([*high, *reversed(low)], x, y) + "Z", round(100 * float(side_K[k]), 2), side)
        )
        below, side = top[:, k], round(side + 100 * float(side_K[k]), 2)
    return Stack(title, f"{title}: {len(names)} classes over {count(max(steps))} steps.", x, areas)
