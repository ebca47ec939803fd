"""The oracles of tests/oracles use numpy and math alone, so that they cannot share a fault with fewmask."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ALLOWED = {"numpy", "math", "__future__"}
ORACLES = Path(__file__).parent / "oracles"


def foreign_imports(source: str) -> list[str]:
    """Return every import of `source` that is not allowed, as "line: module", in reading order."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, "." * node.level + (node.module or "")))
        elif isinstance(node, ast.Name) and node.id in {"__import__", "eval", "exec"}:
            found.append((node.lineno, node.id))
    return [f"{line}: {module}" for line, module in sorted(found) if module.split(".")[0] not in ALLOWED]


def test_oracles_import_only_numpy_and_math() -> None:
    files = sorted(ORACLES.rglob("*.py"))
    assert {str(file): foreign_imports(file.read_text("utf-8")) for file in files} == {str(file): [] for file in files}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import math\nimport numpy.linalg\nfrom numpy import exp", []),
        ("import math, torch", ["1: torch"]),
        ("def f():\n    from fewmask.ops import losses", ["2: fewmask.ops"]),
        ("from . import other", ["1: ."]),
        ("from .numpy import x", ["1: .numpy"]),
        ("__import__('torch')", ["1: __import__"]),
    ],
)
def test_foreign_imports_are_found(source: str, found: list[str]) -> None:
    assert foreign_imports(source) == found
