"""DARS's repository (He Ruifei; Apache-2.0), as it is read by both comparisons."""

from __future__ import annotations

from functools import cache
from typing import Any

from benchmarks.parity.authors import Checkout, Source

NAME = "CVMI-Lab/DARS"


@cache
def parsed(checkout: Checkout, path: str) -> Source:
    return checkout.source(path)


def settings_of(checkout: Checkout, config: str) -> dict[str, Any]:
    """Return a configuration as their loader does: without its sections."""
    return {key: value for part in checkout.yaml(f"config/{config}.yaml").values() for key, value in part.items()}


def quiet(*_: Any, **__: Any) -> None:
    """Do nothing."""
