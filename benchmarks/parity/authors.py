"""The authors' code, read from a fetched checkout at a pinned commit and executed there: no line of it lies here.

Classes and functions are taken by name, loss statements of training scripts by where they stand: in the loop over the
batches, up to the backward pass. Pinning makes the content fixed: git names a commit by its content.
"""

from __future__ import annotations

import ast
import math
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import nn

PINNED = {
    "charlesCXK/TorchSemiSeg": "5e0c29c02738728b6848a732817db15620a6e034",
    "LiheYoung/UniMatch": "0324f3dd4a22128105a5eb135d2586c0bb3cc647",
    "ZHKKKe/PixelSSL": "ce192034355ae6a77e47d2983d9c9242df60802a",
    "Haochen-Wang409/U2PL": "ab3d2be313d4d6b2885e7a0213d4fce82a803b79",
    "CVMI-Lab/DARS": "0cfe09ad6758458a497940f4fe7829aad6983f67",
    "RK621/ThreeStageSelftraining_SemanticSegmentation": "e9b941d9497e36ea86d54f2ef327c26956ff6b71",
}


class Checkout:
    """A git repository (bare or not) that holds the pinned commit of an authors' repository."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path, self.commit = name, path, PINNED[name]
        self.blobs: dict[str, str] = {}

    def git(self, *args: str) -> str:
        command = ["git", "-C", str(self.path), *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def read(self, path: str) -> str:
        """Return a file's text; its blob is remembered."""
        self.blobs[path] = self.git("rev-parse", f"{self.commit}:{path}").strip()
        return self.git("show", f"{self.commit}:{path}")

    def source(self, path: str) -> Source:
        return Source(path, self.read(path))

    def yaml(self, path: str) -> dict[str, Any]:
        return yaml.safe_load(self.read(path))


def checkouts(paths: list[Path]) -> dict[str, Checkout]:
    """Return the pinned repositories among the paths, by name.

    Raises:
        SystemExit: a path holds none of the pinned commits.
    """
    found = {}
    for path in paths:
        for name in PINNED:
            checkout = Checkout(name, path)
            try:
                checkout.git("cat-file", "-e", f"{checkout.commit}^{{commit}}")
            except (subprocess.CalledProcessError, OSError):
                continue
            found[name] = checkout
            break
        else:
            raise SystemExit(f"{path} is not a git repository with one of the pinned commits of {', '.join(PINNED)}")
    return found


class Source:
    """The syntax tree of one of their files, and ways to execute parts of it."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.tree = path, ast.parse(text)

    def define(self, *names: str, **given: Any) -> SimpleNamespace:
        """Execute the module-level classes and functions of these names; return them as attributes."""
        found = [n for n in self.tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name in names]
        assert len(found) == len(names), f"{self.path}: {names} are not all there"
        space = self.run(found, **given)
        return SimpleNamespace(**{name: space[name] for name in names})

    def run(self, statements: list[ast.stmt], /, **given: Any) -> dict[str, Any]:
        """Execute statements with the usual modules and the given names; return the names they leave."""
        space: dict[str, Any] = {
            "torch": torch, "nn": nn, "F": F, "np": np, "math": math, "time": time, "dist": torch.distributed,
            "Variable": torch.autograd.Variable, "__name__": self.path,
        } | given  # fmt: skip
        exec(compile(ast.Module(statements, []), self.path, "exec"), space)
        return space

    def assigning(self, *names: str) -> list[ast.stmt]:
        """Return the outermost statements, apart from definitions and with-blocks, that assign one of these names."""
        return list(_assigning(self.tree.body, set(names)))

    def step(self, loop: str, branch: str = "", otherwise: bool = False) -> list[ast.stmt]:
        """Return what one iteration of the training loop over ``loop`` does before its backward pass.

        Args:
            loop: what it runs over.
            branch: the condition of the if-statement in which that pass lies, if any: what leads to it there counts.
            otherwise: it is the pass where the condition does not hold.
        """
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.For) and ast.unparse(node.iter) == loop:
                body = _before_backward(node.body)
                if body is not None and branch:
                    last = node.body[len(body)]
                    assert isinstance(last, ast.If), f"{self.path}: the backward pass is in no if-statement"
                    assert ast.unparse(last.test) == branch, f"{self.path}: it is in that of {ast.unparse(last.test)}"
                    inner = _before_backward(last.orelse if otherwise else last.body)
                    assert inner is not None, f"{self.path}: no backward pass if {branch}"
                    body = [*body, *inner]
                if body is not None:
                    found.append(body)
        assert len(found) == 1, f"{self.path}: {len(found)} training loops over {loop}"
        return found[0]

    def between(self, function: str, first: str, last: str) -> list[ast.stmt]:
        """Return a function's statements from the one that assigns ``first`` up to the one that assigns ``last``."""
        (body,) = (n.body for n in self.tree.body if isinstance(n, ast.FunctionDef) and n.name == function)
        place = [next(i for i, s in enumerate(body) if s in list(_assigning([s], {name}))) for name in (first, last)]
        return body[slice(*place)]

    def when(self, condition: str) -> list[ast.stmt]:
        """Return the if-statement whose condition begins so."""
        found = [n for n in ast.walk(self.tree) if isinstance(n, ast.If) and ast.unparse(n.test).startswith(condition)]
        assert len(found) == 1, f"{self.path}: {len(found)} statements if {condition}"
        return [found[0]]

    def constants(self) -> dict[str, Any]:
        """Return the literal constants of a configuration: ``C.name = value`` and ``("name", value)``."""
        out: dict[str, Any] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                name, value = node.targets[0].attr, node.value
            elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.elts[0], ast.Constant):
                name, value = node.elts[0].value, node.elts[1]
            else:
                continue
            with suppress(ValueError):
                out[str(name)] = ast.literal_eval(value)
        return out


def _assigning(body: list[ast.stmt], names: set[str]) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, (ast.With, ast.FunctionDef)):
            yield from _assigning(statement.body, names)
        elif isinstance(statement, (ast.Assign, ast.If)):
            stored = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
            if stored & names:
                yield statement


def _before_backward(body: list[ast.stmt]) -> list[ast.stmt] | None:
    first = next((i for i, s in enumerate(body) if _calls(s, "backward")), None)
    return None if first is None else body[:first]


def _calls(statement: ast.stmt, method: str) -> bool:
    calls = (n.func for n in ast.walk(statement) if isinstance(n, ast.Call))
    return any(isinstance(f, ast.Attribute) and f.attr == method for f in calls)


@contextmanager
def one_cpu_process(collectives: bool = False) -> Iterator[None]:
    """``.cuda()`` stays where it is; collective operations do nothing, as in a single process, unless they are kept."""

    def same(x: Any, *_: Any, **__: Any) -> Any:
        return x

    def nothing(*_: Any, **__: Any) -> None:
        return None

    with ExitStack() as stack:
        for cls in (torch.Tensor, nn.Module):
            stack.enter_context(patch.object(cls, "cuda", same))
        for name in () if collectives else ("all_reduce", "barrier"):
            stack.enter_context(patch.object(torch.distributed, name, nothing))
        yield
