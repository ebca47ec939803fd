"""What is taken for what: the confusion matrix, and its largest cells in words."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fewmask.report.record import Record
from fewmask.report.tables import miou
from fewmask.report.text import count, number, percent

READABLE = 24
"""Up to so many classes the matrix is a table of numbers; beyond, a picture."""

_INK = (60, 130, 220)  # reads on white and on near-black; the share is its opacity


@dataclass(frozen=True)
class Confusion:
    """A cell of the matrix in words."""

    truth: str
    called: str
    share: str
    pixels: str
    cost: str


@dataclass(frozen=True)
class Cell:
    """A cell of the table: its share of the row as text and as opacity."""

    text: str
    level: float
    right: bool


@dataclass(frozen=True)
class Confusions:
    """The section: ``rows`` for few classes, ``image`` (a data URI) for many; ``miou`` is that of the matrix."""

    place: str
    largest: list[Confusion]
    names: list[str]
    rows: list[tuple[str, list[Cell] | None]]
    image: str
    hidden: str
    seeds: int
    miou: str


def confusions(record: Record) -> Confusions | None:
    """Return the confusions on val, else test; None where they are not recorded."""
    role = next((r for r in ("val", "test") if r in record.counts), None)
    if role is None:
        return None
    matrix, names = record.counts[role].matrix_KK, record.classes
    few = len(names) <= READABLE
    worst = largest(matrix, names)
    off = matrix.sum() - np.trace(matrix)
    told = sum(matrix[i, j] for i, j, _ in _costs(matrix)[: len(worst)])
    hidden = f"Together they are {percent(told / off)} of all wrong pixels." if off else ""
    shares = row_shares(matrix)
    rows = [(name, _cells(shares[k], k) if matrix[k].sum() else None) for k, name in enumerate(names)] if few else []
    return Confusions(
        record.place(role), worst, names, rows, "" if few else heat_map(shares), hidden,
        record.counts[role].seeds, number(miou(np.stack((matrix.diagonal(), matrix.sum(1), matrix.sum(0))))),
    )  # fmt: skip


def row_shares(matrix_KK: np.ndarray) -> np.ndarray:
    """Return each row over its sum; rows without pixels are 0."""
    total = matrix_KK.sum(1, keepdims=True)
    return np.divide(matrix_KK, total, out=np.zeros(matrix_KK.shape), where=total > 0)


def largest(matrix_KK: np.ndarray, names: Sequence[str], limit: int = 10) -> list[Confusion]:
    """Return the confusions that cost the most mIoU, in words."""
    totals = matrix_KK.sum(1)
    return [
        Confusion(
            names[i], names[j], percent(matrix_KK[i, j] / totals[i]), count(int(matrix_KK[i, j])), number(cost, 2)
        )
        for i, j, cost in _costs(matrix_KK)[:limit]
    ]  # fmt: skip


def _costs(matrix_KK: np.ndarray) -> list[tuple[int, int, float]]:
    """Return (truth, called, points of mIoU) of the cells off the diagonal, the dearest first.

    Pixels of class i that were called j stand in the unions of both, so the cell takes n/union_i + n/union_j of the
    summed IoU; over all cells that is the whole distance of the mIoU from 100. A class without truth is not measured.
    """
    truth, predicted = matrix_KK.sum(1), matrix_KK.sum(0)
    union = (truth + predicted - matrix_KK.diagonal()).astype(np.float64)
    weight = np.divide(1.0, union, out=np.zeros(len(union)), where=truth > 0)
    cost = matrix_KK * (weight[:, None] + weight[None]) * 100 / max(1, int((truth > 0).sum()))
    np.fill_diagonal(cost, 0)
    order = np.argsort(-cost, axis=None, kind="stable")[:64]
    cells = [(int(at) // len(union), int(at) % len(union)) for at in order]
    return [(i, j, float(cost[i, j])) for i, j in cells if cost[i, j] > 0]


def _cells(shares_K: np.ndarray, own: int) -> list[Cell]:
    return [
        Cell(f"{100 * s:.0f}" if s >= 0.005 else "", round(float(s), 3), j == own) for j, s in enumerate(shares_K)
    ]  # fmt: skip


def heat_map(shares_KK: np.ndarray) -> str:
    """Return a picture of the matrix as a data URI: one colour, whose opacity is the root of the share.

    The root, because the cells off the diagonal would not be seen beside it.
    """
    pixels = np.empty((*shares_KK.shape, 4), np.uint8)
    pixels[..., :3] = _INK
    pixels[..., 3] = np.rint(255 * np.sqrt(np.clip(shares_KK, 0, 1)))
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(target.getvalue()).decode()}"
