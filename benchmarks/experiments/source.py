"""Which source a figure depends on: a hash of the code that computes it, without comments, docstrings and layout.

The code is followed name by name from the engine's entry points and the method's file: a loss that only another method
calls, or a function added beside those in use, changes no hash.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import fewmask

ROOT = Path(fewmask.__file__).parent

COMPUTES = (
    "batch", "method", "supervision", "offline", "ops", "nets", "methods", "data.divide", "data.stream", "data.views",
    "data.randaugment", "engine.evaluate", "engine.infer", "engine.label", "engine.label_pass",
    "engine.learner", "engine.optim", "engine.train", "run.labelling", "run.rounds",
)  # fmt: skip
"""Modules that compute batches, losses, updates and scores. Elsewhere (logs, reports) nothing is hashed."""

CHOOSES = {("nets", "build"), ("nets", "OURS")}
"""Looks a network up by its name, which is part of the configuration: a new name changes no network."""

YOUNGER = {
    ("methods.dars", "short"), ("methods.three_stage", "short"), ("method", "adapted"), ("methods.u2pl", "adapted"),
}  # fmt: skip
"""Names in a class that are younger than the first results and compute nothing: defaults (a run's configuration spells
all constants out), and what a run says."""

ENTRIES = (
    ("data.divide", "draw_labelled"), ("data.stream", "StepDataset"), ("data.stream", "ItemLoader"),
    ("data.stream", "plan_slots"), ("data.stream", "to_device"), ("engine.learner", "Learner"), ("engine.train", "fit"),
    ("engine.evaluate", "confusion_of"), ("engine.evaluate", "scores"), ("engine.infer", "PROTOCOLS"),
    ("nets", "Builder"), ("nets", "_from_smp"), ("nets.hrnet", "hrnet"), ("nets.small", "small"), ("nets.tiny", "tiny"),
    ("nets.weights", "load_encoder"),
)  # fmt: skip
"""Where the engine begins to compute: (module, name)."""

BETWEEN_ROUNDS = (("run.rounds", "_Rounds"), ("run.rounds", "steps_of"), ("run.labelling", "Labeller"))
"""The same for methods that label between trainings."""


@dataclass
class _Module:
    """A parsed module.

    Attributes:
        defined: top-level name to its statement.
        imported: name to (module of ours, name in it; None = the module itself).
    """

    defined: dict[str, ast.stmt] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)


@cache
def _file(module: str) -> Path | None:
    stem = ROOT.joinpath(*module.split("."))
    return next((p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()), None)


def _computes(module: str) -> bool:
    return any(module == m or module.startswith(f"{m}.") for m in COMPUTES)


@cache
def _parse(module: str) -> _Module:
    """Return a module of ours, its docstrings removed."""
    path, out = _file(module), _Module()
    assert path is not None, module
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = (s for s in body if not _is_text(s) and not any((module, n) in YOUNGER for n in _names_of(s)))
            node.body = list(kept)  # type: ignore[attr-defined]
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            out.imported |= dict(_ours(statement))
        for name in _names_of(statement):
            out.defined[name] = statement
    return out


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _ours(statement: ast.ImportFrom) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Yield (local name, (module, name in it)) of an import from fewmask."""
    parent = (statement.module or "").removeprefix("fewmask").removeprefix(".")
    if not (statement.module or "").startswith("fewmask"):
        return
    for alias in statement.names:
        inner = f"{parent}.{alias.name}".removeprefix(".")
        target = (inner, None) if _file(inner) is not None else (parent, alias.name)
        yield alias.asname or alias.name, target


def _names_of(statement: ast.stmt) -> list[str]:
    """Return the top-level names that a statement defines."""
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [t.id for t in targets if isinstance(t, ast.Name)]


def _uses(module: str, statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the (module, name) that a statement mentions, in this module and in others of ours."""
    here = _parse(module)
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and node.id in here.defined:
            yield module, node.id
        elif isinstance(node, ast.Name) and node.id in here.imported:
            where, name = here.imported[node.id]
            if name is not None:
                yield where, name
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in here.imported:
            where, name = here.imported[node.value.id]
            if name is None:  # module.function
                yield where, node.attr


def reached(method: str) -> dict[tuple[str, str], ast.stmt]:
    """Return every definition that a run of a method computes with, (module, name) to its statement."""
    found: dict[tuple[str, str], ast.stmt] = {}
    own = _parse(f"methods.{method}").defined
    todo = [*ENTRIES, *((f"methods.{method}", name) for name in own)]
    todo += BETWEEN_ROUNDS if any(_has_rounds(statement) for statement in own.values()) else ()
    while todo:
        module, name = todo.pop()
        if (module, name) in found or (module, name) in CHOOSES or not _computes(module):
            continue
        if name in _parse(module).imported:  # handed on by a package
            where, inner = _parse(module).imported[name]
            todo.append((where, inner or name))
        elif name in _parse(module).defined:
            statement = _parse(module).defined[name]
            found[module, name] = statement
            todo += _uses(module, statement)
    return found


def _has_rounds(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ClassDef) and any("rounds" in _names_of(s) for s in statement.body)


def source_hash(method: str) -> str:
    """Return the hash of all code that a run of a method computes with."""
    digest = hashlib.sha256()
    for (module, name), statement in sorted(reached(method).items()):
        digest.update(f"{module} {name} {ast.dump(statement)}\0".encode())
    return digest.hexdigest()[:12]
