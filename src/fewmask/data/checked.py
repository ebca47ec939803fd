"""The report of ``fewmask check``: as an object for scripts, and as text for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from fewmask.data.doubts import ClassRow
from fewmask.data.findings import KINDS, TITLES, Finding, Remark
from fewmask.data.groups import SUGGESTED_BY, Source
from fewmask.data.index import DataIndex
from fewmask.errors import printable

_SHOWN = 20  # groups in the text for people; the JSON has all


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` found.

    Attributes:
        root: the data folder.
        layout: the layout it was read as.
        roles: role to {"images", "labelled", "unlabelled"}.
        classes: one row a class; where nothing names them, one an id.
        uncounted: share of the mask pixels that do not count, 0-1.
        sizes: {"min", "median", "max"} as [height, width], by area, and the number of "distinct" ones; of the
            images that were opened.
        encodings: kind of mask file to number of masks.
        groups: group to {role: images}; empty where there are none.
        groups_from: "declared", or "names" or "time" where they are only proposed; None without groups.
        duplicates: sets of images with the same pixels, each a list of "role/name".
        opened: images that were opened; fewer than there are with ``sample``.
        notes: how the folder was read.
        doubts: what is worth a look.
        problems: what must be settled before training; a caller leaves with exit code 3 if there are any.
        index: the data set as a training would see it, classes included.
        pool: {"file", "images", "opened"} of an index file of unlabelled images; None without one.
    """

    root: str
    layout: str
    roles: dict[str, dict[str, int]]
    classes: tuple[ClassRow, ...]
    sizes: dict[str, Any]
    encodings: dict[str, int]
    groups: dict[str, dict[str, int]]
    groups_from: Source | None
    duplicates: tuple[tuple[str, ...], ...]
    opened: int
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    problems: tuple[Finding, ...]
    index: DataIndex
    uncounted: float = 0.0
    pool: dict[str, Any] | None = None

    def findings(self) -> list[tuple[Literal["problem", "doubt", "note"], Finding]]:
        """Return all that was found, problems first, each level grouped by kind."""
        levels: dict[Literal["problem", "doubt", "note"], Sequence[Finding]] = {
            "problem": self.problems, "doubt": _of(self.doubts), "note": _of(self.notes)
        }  # fmt: skip
        return [(level, one) for level, found in levels.items() for one in sorted(found, key=_rank)]

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers, without the index.

        ``findings`` holds all of them, each with its ``level``; ``problems`` those of that level, ``doubts`` and
        ``notes`` the sentences.
        """
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("index", "classes", "problems")}
        return found | {
            "classes": [asdict(row) for row in self.classes],
            "problems": [asdict(problem) for problem in self.problems],
            "findings": [{"level": level} | asdict(one) for level, one in self.findings()],
        }

    def lines(self) -> list[str]:
        """Return the report as text for humans, without control characters."""
        return [printable(line) for line in self._lines()]

    def _lines(self) -> Iterator[str]:
        yield f"{self.root}: layout {self.layout}, {sum(r['images'] for r in self.roles.values())} images"
        for role, n in self.roles.items():
            yield f"  {role:<6} {n['images']:>6} images: {n['labelled']} labelled, {n['unlabelled']} unlabelled"
        if self.sizes:
            low, middle, high = ("{1}x{0}".format(*self.sizes[k]) for k in ("min", "median", "max"))
            yield f"image sizes (width x height): {low} to {high}, median {middle}; {self.sizes['distinct']} different"
        yield "masks: " + (", ".join(f"{n} {kind}" for kind, n in self.encodings.items()) or "none could be read")
        if self.classes:
            wide = max(5, *(len(c.name) for c in self.classes))
            value = max(5, *(len(c.value) for c in self.classes))
            yield f"  {'value':>{value}} {'class':<{wide}} {'pixels':>8}   masks that hold it"
            for c in self.classes:
                held = ", ".join(f"{n} {role}" for role, n in c.images.items() if n)
                yield f"  {c.value:>{value}} {c.name:<{wide}} {c.share:>8.2%}   {held or 'none'}"
            if self.uncounted:
                yield f"{self.uncounted:.1%} of all pixels in masks do not count"
        if self.groups:
            assert self.groups_from is not None  # there are groups
            suggested = SUGGESTED_BY.get(self.groups_from)
            how = f"proposed from the {suggested}" if suggested else "declared"
            named = [f"{group} ({sum(n.values())})" for group, n in self.groups.items()]
            yield f"groups, {how}: {', '.join(named[:_SHOWN])}{', ...' if len(named) > _SHOWN else ''}"
        for level, sentences in (("note", self.notes), ("doubt", self.doubts)):
            for sentence in sorted(sentences, key=lambda s: min(map(_rank, _of([s])), default=-1)):
                yield f"{level}: {sentence}"
                for one in _of([sentence]):
                    yield from _told(one, "  ", without=sentence)
        for kind in KINDS:
            alike: dict[str, list[Finding]] = defaultdict(list)
            for problem in self.problems:
                if problem.kind == kind:
                    alike[problem.todo].append(problem)
            if alike:
                yield f"problems, {TITLES[kind]}: {sum(map(len, alike.values()))}"
            for todo, same in alike.items():
                for one in same:
                    yield from _told(one if len(same) == 1 else replace(one, todo=""), "problem: ")
                if len(same) > 1 and todo:
                    yield f"  for these {len(same)}: {todo}"


def _of(sentences: Sequence[str]) -> list[Finding]:
    return [one for sentence in sentences if isinstance(sentence, Remark) for one in sentence.findings]


def _rank(finding: Finding) -> int:
    return KINDS.index(finding.kind)


def _told(finding: Finding, before: str, without: str = "") -> Iterator[str]:
    """Yield a finding's line, and one for each of the items that it is about; the sentence above is not repeated."""
    parts = ("" if finding.what == without else finding.what, finding.where, finding.todo)
    yield before + "; ".join(part for part in parts if part)
    yield from (f"    {name}" for name in finding.names)
