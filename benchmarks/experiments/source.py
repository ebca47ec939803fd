"""Which source a figure depends on: a hash of the code that computes, without comments, docstrings and layout."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

import fewmask

ROOT = Path(fewmask.__file__).parent

COMPUTES = (
    "batch.py", "method.py", "supervision.py", "ops/*.py", "nets/*.py", "data/divide.py", "data/masks.py",
    "data/stream.py", "data/views.py", "engine/evaluate.py", "engine/infer.py", "engine/learner.py", "engine/optim.py",
    "engine/train.py",
)  # fmt: skip
"""What computes losses, updates and scores; logging, checkpoints, reports and commands change no figure."""


def _plain(path: Path) -> str:
    """Return a module's syntax tree without docstrings: what remains is what runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def source_hash(method: str) -> str:
    """Return the hash of the engine's computing modules and of one method's file."""
    digest = hashlib.sha256()
    for pattern in (*COMPUTES, f"methods/{method}.py"):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + _plain(path).encode() + b"\0")
    return digest.hexdigest()[:12]
