"""What the report says of predictions nobody has checked: the calibration of the delivered model."""

from __future__ import annotations

from dataclasses import dataclass

from fewmask.report.record import Record
from fewmask.report.text import number


@dataclass(frozen=True)
class Expected:
    """Sentences, and rows of (confidence, expected accuracy, from, to)."""

    said: list[str]
    rows: list[tuple[str, str, str, str]]


def expected(record: Record) -> Expected | None:
    """Return how good predictions of the delivered model are by their confidence; None where it is not calibrated."""
    q = record.quality
    if not q:
        return None
    rho, error = q["rank_correlation"], number(q["error"])
    said = [
        f"From {q['images']} {'labelled' if record.crossed else 'validation'} images. With each of them left out once, "
        f"the expected share of right pixels was {error} points off on average"
        + ("." if rho is None else f"; confidence and accuracy have a rank correlation of {number(rho, 2)}."),
    ]
    if hardly_tells(rho):
        said.append("That is little: on these data the confidence hardly tells good predictions from bad ones.")
    rows = [(number(at, 3), number(value), number(low), number(high)) for at, value, low, high in q["rows"]]
    return Expected(said, rows)


def hardly_tells(rank_correlation: float | None) -> bool:
    """Return whether confidence and accuracy have so little to do with each other that it has to be said."""
    return rank_correlation is None or rank_correlation < 0.3
