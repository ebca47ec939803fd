"""What was found on each image of a role, and what is kept of it for intervals: evaluation.npz."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewmask.data.index import Item, Role
from fewmask.engine.evaluate import Pictures, confusion_of
from fewmask.engine.files import write_atomic
from fewmask.engine.infer import Forward, Protocol
from fewmask.errors import CheckpointError


@dataclass(frozen=True)
class Evaluation:
    """One predictor's results on the images of a role.

    Attributes:
        matrix: confusion matrix int64 [K, K], rows truth.
        names: of the images, [N].
        groups: of the images, "" = none, [N].
        counts: int64 [N, 3, K]: each image's hits, truth pixels and predicted pixels of each class.
        copies: what each image is resampled together with, its group or what shows the same, "" = nothing, [N]; empty
            where only the groups are known.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    groups: tuple[str, ...]
    counts: np.ndarray
    copies: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """What each image is resampled together with, "" = nothing, [N]."""
        return self.copies or self.groups

    @property
    def truth(self) -> np.ndarray:
        """Truth pixels of each class in each image, [N, K]: equal for every model that is scored on these masks."""
        return self.counts[:, 1]


def joined(parts: Sequence[Evaluation]) -> Evaluation:
    """Return results on several sets of images as those on one, by name."""
    names = [name for one in parts for name in one.names]
    groups = [group for one in parts for group in one.groups]
    units = [unit for one in parts for unit in one.units]
    order = sorted(range(len(names)), key=names.__getitem__)
    counts = np.concatenate([one.counts for one in parts])[order]
    matrix = np.sum([one.matrix for one in parts], axis=0)
    return Evaluation(
        matrix, tuple(names[i] for i in order), tuple(groups[i] for i in order), counts, tuple(units[i] for i in order)
    )


def counted(
    forward: Forward, items: Sequence[Item], pictures: Pictures, classes: int, protocol: Protocol,
    mine: Sequence[Item] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the confusion matrix of ``confusion_of`` and the counts of ``Evaluation``, on the CPU.

    Args:
        forward: as in ``confusion_of``, and the arguments below but one.
        items: all images that are scored.
        pictures: reads them.
        classes: K.
        protocol: how an image becomes a prediction.
        mine: those that this process scores; the others count nothing. None = all.
    """
    place = {item.name: n for n, item in enumerate(items)}
    counts = torch.zeros(len(items), 3, classes, dtype=torch.int64)

    def note(item: Item, matrix: Tensor) -> None:
        counts[place[item.name]] = torch.stack((matrix.diagonal(), matrix.sum(1), matrix.sum(0)))

    matrix = confusion_of(forward, items if mine is None else mine, pictures, classes, protocol, note)
    return matrix, counts


def save_evaluations(path: Path, found: Mapping[Role, Evaluation | None]) -> None:
    """Write evaluation.npz: for each role ROLE_matrix, ROLE_names, ROLE_groups, ROLE_counts, ROLE_units."""
    arrays: dict[str, Any] = {}
    for role, one in found.items():
        if one is not None:
            arrays |= {
                f"{role}_matrix": one.matrix, f"{role}_names": np.array(one.names, dtype=np.str_),
                f"{role}_groups": np.array(one.groups, dtype=np.str_), f"{role}_counts": one.counts,
                f"{role}_units": np.array(one.units, dtype=np.str_),
            }  # fmt: skip
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def load_evaluation(path: Path, role: Role) -> Evaluation | None:
    """Return one role of evaluation.npz; None where it was not scored.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            if f"{role}_matrix" not in file:
                return None
            parts = {name: file[f"{role}_{name}"] for name in ("matrix", "names", "groups", "counts")}
            # older versions wrote them as groups
            parts["units"] = file[f"{role}_units"] if f"{role}_units" in file else parts["groups"]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(
            "the run's scores of single images are missing or damaged", where=path,
            todo="remove metrics.json of that run and repeat its train command: it scores again",
        ) from error  # fmt: skip
    names, groups, units = (tuple(parts[name].tolist()) for name in ("names", "groups", "units"))
    return Evaluation(parts["matrix"], names, groups, parts["counts"], units)
