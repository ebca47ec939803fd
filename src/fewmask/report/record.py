"""A finished run as the report sees it: what its files say, and what they do not.

Old runs, and runs of other programs, lack some of the files; none of the readers here fails. What a file lacks is
left out of the report, and what could not be read is said in it.
"""

from __future__ import annotations

import csv
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.config import load_json
from fewmask.data.files import flat_name

_PICTURE = re.compile(r"(best|median|worst)-(\d+)-(\d+|nan)-(.*)\.png", re.DOTALL)

KINDS = ("best", "median", "worst")
"""Which validation images a run draws."""


@dataclass(frozen=True)
class Counts:
    """The exact counts behind a score, of one role.

    Attributes:
        matrix_KK: int64, rows truth, columns prediction.
        names: of the N images.
        groups: which group each image belongs to.
        counts_N3K: int64; hits, pixels of the truth, pixels of the prediction, of each image and class.
        seeds: how many runs are summed in it.
        copies: what each image is resampled together with, its group or a copy; empty where only groups are known.
    """

    matrix_KK: np.ndarray
    names: Sequence[str]
    groups: Sequence[str]
    counts_N3K: np.ndarray
    seeds: int = 1
    copies: Sequence[str] = ()

    @property
    def units(self) -> Sequence[str]:
        """What each image is resampled together with, "" = nothing."""
        return self.copies or self.groups


@dataclass(frozen=True)
class Picture:
    """A picture file of a run: image, truth and prediction side by side."""

    file: Path
    kind: str
    number: int
    score: str
    name: str


@dataclass(frozen=True)
class Doubtful:
    """A training mask that the delivered model disagrees with: a row of ``doubtful.csv``, and its picture if there."""

    name: str
    against: float
    reason: str
    picture: Picture | None


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        metrics: of ``metrics.json``; the only file that must be there.
        recipe: ``config.yaml``, or empty.
        manifest: ``data.yaml``, or empty.
        environment: ``environment.json``, or empty.
        log: the lines of ``metrics.jsonl``.
        counts: of each role that ``evaluation.npz`` holds.
        pictures: files below ``pictures/``.
        next_steps: ``NEXT_STEPS.txt``, or empty.
        title: what people call the method.
        paper: its reference, or empty.
        protocol: how an image becomes a prediction, in words, or empty.
        label: what the run is called beside others.
        seeds: where several seeds were run, one record each.
        baseline: the matched supervised run, where it was found.
        notes: what could not be read.
        doubtful: training masks to look at again, the worst first.
        quality: the calibration of the delivered model, with its ``rows``, or empty.
        folds: where it was cross-fitted, the trainings that were scored, one record each.
        curve: the content of ``curve/curve.json``, or empty.
        chosen: why the method was taken, where several were tried, or empty.
    """

    metrics: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    log: Sequence[Mapping[str, Any]] = ()
    counts: Mapping[str, Counts] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    next_steps: str = ""
    title: str = ""
    paper: str = ""
    protocol: str = ""
    label: str = ""
    seeds: Sequence[Record] = ()
    baseline: Record | None = None
    notes: Sequence[str] = ()
    doubtful: Sequence[Doubtful] = ()
    quality: Mapping[str, Any] = field(default_factory=dict)
    folds: Sequence[Record] = ()
    curve: Mapping[str, Any] = field(default_factory=dict)
    chosen: str = ""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their ids."""
        return class_names(self.manifest, self.metrics)

    @property
    def trainings(self) -> list[tuple[str, Record]]:
        """The trainings whose scores the run tells, and which each is: "seed 1", "fold 2", "" of one alone."""
        parts = [(f"seed {r.numbers[0]}", r) for r in self.seeds]
        parts = parts or [(f"fold {n}", r) for n, r in enumerate(self.folds, start=1)]
        found = [(", ".join(filter(None, (name, own))), one) for name, r in parts for own, one in r.trainings]
        return found or [("", self)]

    @property
    def logs(self) -> list[Sequence[Mapping[str, Any]]]:
        """The log of each training."""
        return [r.log for _, r in self.trainings if r.log]

    def role(self, role: str) -> str:
        """Return what the images of a role are called: in a cross-fitted run the labelled ones stand in for val."""
        return "labelled" if role == "val" and self.crossed else role

    def place(self, role: str) -> str:
        """Return what a score of a role is a score on."""
        return "labelled images" if role == "val" and self.crossed else role

    @property
    def crossed(self) -> int:
        """How many folds were scored; 0 = it was not cross-fitted."""
        folds = self.metrics.get("folds")
        return len(folds) if isinstance(folds, list) else 0

    @property
    def numbers(self) -> list[Any]:
        """The seeds that were run; one that is not recorded is None."""
        several = self.metrics.get("seeds")
        return several if isinstance(several, list) and several else [self.metrics.get("seed")]

    @property
    def method(self) -> str:
        """What people call the method."""
        return self.title or str(self.metrics.get("method", "unnamed method"))

    @property
    def data(self) -> str:
        """Name of the data folder."""
        root = str(get(self.recipe, "data", "dir") or self.manifest.get("root") or "")
        return Path(root).name or root or "unnamed data"


def get(tree: Any, *path: str) -> Any:
    """Return what stands at a path of keys, or None where any of them is missing."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def class_names(manifest: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return the class names of a run's data.yaml, else those that its scores name."""
    named = manifest.get("classes")
    if isinstance(named, list):
        return [str(name) for name in named]
    return [str(name) for role in ("val", "test") for name in get(metrics, role, "iou") or ()][: _scored(metrics)]


def _scored(metrics: Mapping[str, Any]) -> int:
    return len(get(metrics, "val", "iou") or get(metrics, "test", "iou") or ())


def read_log(file: Path) -> tuple[list[dict[str, Any]], str]:
    """Return the lines of a metrics.jsonl that are objects with a step, and a note on others.

    A torn last line is what a killed process leaves, and needs no note.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError:
        return [], f"{file.name} is not there: no curves"
    records, bad = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            record = load_json(line)
            if not isinstance(record, dict) or not is_number(record.get("step")):
                raise ValueError
            records.append(record)
        except ValueError:
            bad += number < len(lines)
    return records, f"{bad} lines of {file.name} cannot be read and are left out" if bad else ""


def read_counts(file: Path, classes: int) -> tuple[dict[str, Counts], str]:
    """Return the counts of each role in an evaluation.npz, and a note where it is damaged."""
    found: dict[str, Counts] = {}
    if not file.exists():
        return found, ""
    try:
        # opened here: numpy leaves a damaged file open
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as arrays:
            for role in ("val", "test"):
                if f"{role}_matrix" not in arrays:
                    continue
                parts = [arrays[f"{role}_{part}"] for part in ("matrix", "names", "groups", "counts")]
                matrix, names, groups, counts = parts
                expected = ((classes, classes), (len(names),), (len(names),), (len(names), 3, classes))
                if tuple(part.shape for part in parts) != expected:
                    return {}, f"{file.name} does not fit the run's {classes} classes and is left out"
                units = arrays[f"{role}_units"] if f"{role}_units" in arrays else groups
                together = units.astype(str).tolist() if len(units) == len(names) else []
                found[role] = Counts(
                    matrix, names.astype(str).tolist(), groups.astype(str).tolist(), counts, copies=together
                )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError):
        return {}, f"{file.name} cannot be read: no confusions, no support of the classes"
    return found, ""


def summed(each: Sequence[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Return the counts of several seeds added up, for the roles in which all of them have the same images."""
    out: dict[str, Counts] = {}
    for role in each[0] if each else ():
        found = [counts[role] for counts in each if role in counts]
        first = found[0]
        if len(found) == len(each) and all(list(c.names) == list(first.names) for c in found):
            matrix, counts = sum(c.matrix_KK for c in found), sum(c.counts_N3K for c in found)
            out[role] = Counts(
                np.asarray(matrix), first.names, first.groups, np.asarray(counts), len(found), first.copies
            )
    return out


def read_pictures(folder: Path) -> list[Picture]:
    """Return the pictures of a run, best first, by the names that the run gave them."""
    found = []
    for file in sorted(folder.glob("*.png")) if folder.is_dir() else ():
        if named := _PICTURE.fullmatch(file.name):
            found.append(Picture(file, named[1], int(named[2]), named[3], named[4]))
    return sorted(found, key=lambda p: (KINDS.index(p.kind), p.number, p.name))


def read_doubtful(folder: Path) -> list[Doubtful]:
    """Return the training masks that a run's model disagrees with, the worst first; none where that is not recorded."""
    try:
        with (folder / "doubtful.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows = list(csv.DictReader(file))
        found = [(str(row["name"]), float(row["against"]), str(row["reason"]), int(row["rank"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return []
    out = []
    for name, against, reason, rank in found:
        file = folder / f"{rank:04d}-{flat_name(name)}.png"
        picture = Picture(file, "mask", rank, f"{100 * against:.1f}", name) if file.is_file() else None
        out.append(Doubtful(name, against, reason, picture))
    return out


def is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
