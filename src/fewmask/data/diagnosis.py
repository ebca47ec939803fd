"""What the split doctor reports: plain data, as JSON and as sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

_MOST_OVERLAPS = 12  # more than this are left to --json


@dataclass(frozen=True)
class ListReport:
    """What one list holds.

    Attributes:
        name: the file's path below the folder that all lists share.
        role: "labelled", "unlabelled", "val", "test", or "" where the file name does not say.
        dialect: see ``lists.py``.
        family: "VOC", "Cityscapes" or "other", by the ids.
        lines: entries in the file.
        images: different images.
        hash: 16 hex digits over the sorted ids, the same in every dialect.
        fine: how many images have one of VOC's 1,464 fine masks; None for other families.
    """

    name: str
    role: str
    dialect: str
    family: str
    lines: int
    images: int
    hash: str
    fine: int | None


@dataclass(frozen=True)
class Overlap:
    """Two lists that share images: how many, and the first of them by id."""

    a: str
    b: str
    shared: int
    first: str


@dataclass(frozen=True)
class Finding:
    """One sentence on the lists; a problem makes the command leave with exit code 3, a note does not.

    Attributes:
        level: "problem" or "note".
        code: what was found, for scripts.
        text: the sentence.
        lists: the lists that it is about.
    """

    level: Literal["problem", "note"]
    code: str
    text: str
    lists: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What ``diagnose`` found."""

    lists: tuple[ListReport, ...]
    overlaps: tuple[Overlap, ...]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """Leaks: what should not be trained or scored with."""
        return tuple(finding for finding in self.findings if finding.level == "problem")

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``json.dumps``."""
        return {**asdict(self), "problems": len(self.problems)}

    def lines(self) -> list[str]:
        """Return the diagnosis as sentences for people, problems last."""
        out = []
        for r in self.lists:
            repeated = f" in {r.lines} lines" if r.lines != r.images else ""
            fine = f", {percent(r.fine, r.images)} fine labels" if r.fine is not None else ""
            role = f", {r.role}" if r.role else ""
            out.append(f"{r.name}: {r.images} images{repeated}, {r.family}{role}{fine}, {r.dialect}, {r.hash}")
        out += [f"{o.a} and {o.b} share {o.shared} image(s)" for o in self.overlaps[:_MOST_OVERLAPS]]
        if len(self.overlaps) > _MOST_OVERLAPS:
            out.append(f"{len(self.overlaps) - _MOST_OVERLAPS} more pairs overlap: see --json")
        ordered = sorted(self.findings, key=lambda finding: finding.level == "problem")
        return out + [f"{finding.level}: {finding.text}" for finding in ordered]


def percent(part: int, whole: int) -> str:
    """Return a share as text, one decimal: ``14.0 %``."""
    return f"{100 * part / whole:.1f} %"
