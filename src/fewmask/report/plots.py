"""The report's charts as files of their own, for slides and papers: SVG, without anything from outside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fewmask.report.confusion import confusions
from fewmask.report.curves import loss_chart, pseudo, val_chart
from fewmask.report.figures import SIDE, Chart, Stack
from fewmask.report.learning import learning
from fewmask.report.pages import render
from fewmask.report.record import Record
from fewmask.report.tables import class_table, colour
from fewmask.report.text import shortened

COLOURS = ("#1f5da6", "#b4540a", "#17704a", "#7a3ea1", "#a3254e", "#4d5b66", "#7d6608", "#0b6f7d")
DASHES = ("", "7 4", "2 3", "10 3 2 3", "5 2", "12 4", "1 4", "9 3 2 3 2 3")
"""Of the line styles, as in the light theme of ``style.css``."""

_REST = "#e4e8ec"
_ROW = 20  # pixels of a line of text
_NAME = 7  # pixels of a character of a class's name, at most
_PAIR = re.compile(r"(-?\d+(?:\.\d+)?) (-?\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Box:
    """Where the drawing lies, in pixels; positions are in percent as those of ``figures``."""

    left: int = 64
    top: int = 44
    width: int = 552
    height: int = 280

    def x(self, at: float) -> float:
        """Return the place of a position from the left."""
        return round(self.left + self.width * at / 100, 1)

    def y(self, at: float) -> float:
        """Return the place of a position from the bottom."""
        return round(self.top + self.height * (100 - at) / 100, 1)

    def row(self, n: int) -> int:
        """Return the baseline of a line of the legend below the drawing."""
        return self.top + self.height + 64 + _ROW * n

    def line(self, n: int) -> int:
        """Return the middle of a row of the drawing, from the top."""
        return self.top + _ROW // 2 + (_ROW + 2) * n

    def cell(self, n: int) -> int:
        """Return the middle of a column of the matrix."""
        return self.left + 16 + 32 * n

    def path(self, square: str) -> str:
        """Return a path of ``figures``, which lies in its square, in the drawing."""
        return _PAIR.sub(lambda m: self._placed(float(m[1]), float(m[2])), square)

    def _placed(self, x: float, y: float) -> str:
        return f"{self.left + self.width * x / SIDE:.1f} {self.top + self.height * y / SIDE:.1f}"


def plots(record: Record) -> dict[str, bytes | None]:
    """Return the charts of a run by file name; None where it has recorded nothing for one.

    val.svg: mIoU over the steps; loss.svg; kept.svg and pseudo.svg: pixels and classes of the pseudo-labels;
    classes.svg: IoU of each class; confusion.svg; curve.svg: the learning curve.
    """
    labels, more = pseudo(record), learning(record)
    made = {
        "val": _lines(val_chart(record)), "loss": _lines(loss_chart(record)),
        "kept": _lines(labels.kept) if labels else None,
        "pseudo": _stack(labels.stack) if labels and labels.stack else None,
        "classes": _classes(record), "confusion": _confusion(record), "curve": _lines(more.chart) if more else None,
    }  # fmt: skip
    return {f"{name}.svg": page for name, page in made.items()}


def _drawn(kind: str, title: str, summary: str, box: Box, height: int, width: int = 640, **more: Any) -> bytes:
    context = {"kind": kind, "title": title, "summary": summary, "box": box, "width": width, "height": height}
    return render("plot.svg", context | {"colours": COLOURS, "dashes": DASHES} | more)


def _lines(chart: Chart | None) -> bytes | None:
    if chart is None:
        return None
    box = Box()
    title = chart.title + (f", {chart.unit}" if chart.unit else "")
    return _drawn("lines", title, chart.summary, box, box.row(len(chart.series)), chart=chart)


def _stack(chart: Stack) -> bytes:
    labels = any(area.side for area in chart.areas)
    box = Box(width=510)
    fills = [_REST if area.index is None else hexadecimal(area.index) for area in chart.areas]
    title = "Classes of the pseudo-labels, share of the pixels"
    height = box.row(len(chart.areas))
    return _drawn("stack", title, chart.summary, box, height, chart=chart, fills=fills, labels=labels)


def _classes(record: Record) -> bytes | None:
    table = class_table(record)
    if all(row.at is None for row in table.rows):
        return None
    names = _longest(row.name for row in table.rows)
    box, legend = Box(names, 44, 400), [(record.method, COLOURS[0])]
    legend += [("supervised baseline", COLOURS[1])] if "baseline" in table.has else []
    title, rows = f"IoU of each class on {table.kind} images, %", table.rows
    height = box.line(len(rows) + len(legend)) + 10
    return _drawn("classes", title, title, box, height, names + 400 + 96, rows=rows, legend=legend)


def _confusion(record: Record) -> bytes | None:
    found = confusions(record)
    if found is None:
        return None
    title = f"Confusion on {found.place}, % of each true class (row)"
    if found.image:
        return _drawn("confusion", title, title, Box(), 640 + 24, rows=(), image=found.image)
    names = _longest(found.names)
    box = Box(names, 44 + names)
    width = max(640, box.cell(len(found.names)) + 8)
    return _drawn("confusion", title, title, box, box.line(len(found.names)), width, rows=found.rows, image="")


def _longest(names: Any) -> int:
    """Return the pixels that the names of classes take."""
    return 24 + _NAME * max(len(shortened(name)) for name in names)


def hexadecimal(index: int) -> str:
    """Return the colour of a class as #rrggbb, which every drawing program reads."""
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour(index)))
