"""DARS's repository: its selection of pseudo-labels, its CBST, its windows, its training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.parity import dars_windows
from benchmarks.parity.authors import Checkout
from benchmarks.parity.compare import Row
from benchmarks.parity.dars_code import NAME
from benchmarks.parity.dars_labels import selections, special
from benchmarks.parity.dars_step import training
from benchmarks.parity.inputs import Setting

__all__ = ["NAME", "rows"]


def rows(checkout: Checkout, settings: Callable[..., Iterator[Setting]]) -> Iterator[Row]:
    """Everything that is compared."""
    yield from selections(checkout)
    yield from special(checkout)
    yield from dars_windows.rows(checkout)
    for setting in settings(width=49):  # their networks take 8n + 1 pixels
        yield from training(checkout, setting)
