"""The pages: one file each, without a script, a font or anything else from outside.

Every name comes from a user's folder, so everything is escaped where it is put in: the environment escapes all
templates, no filter marks text as safe, and a content security policy forbids what would slip through. A page holds no
time and no path of the machine it was made on beside what the run recorded: the same run gives the same bytes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fewmask._version import __version__
from fewmask.report import compare as comparing
from fewmask.report.compare import Comparison, Group, Row
from fewmask.report.confusion import confusions
from fewmask.report.curves import loss_chart, pseudo, val_chart, val_series
from fewmask.report.embed import gallery, look_again
from fewmask.report.expected import expected
from fewmask.report.facts import facts, next_steps
from fewmask.report.figures import line_chart
from fewmask.report.learning import learning
from fewmask.report.record import Record, get
from fewmask.report.rounds import round_rows
from fewmask.report.tables import class_table, colour, evenness, fold_rows, score_rows, seed_rows, shown_sentences
from fewmask.report.text import UNMEASURED, count, listing, number, plural, signed, span
from fewmask.report.verdict import seeds_text, verdict


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("fewmask.report", "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals |= {"version": __version__, "unmeasured": UNMEASURED}
    made.filters |= {"count": count, "listing": listing, "class_colour": colour}
    return made


def report_page(record: Record) -> bytes:
    """Return the report of a run as one HTML file."""
    table, even, section = class_table(record), evenness(record), confusions(record)
    context: dict[str, Any] = {
        "record": record, "verdict": verdict(record), "scores": score_rows(record), "seeds": seed_rows(record),
        "folds": fold_rows(record),
        "classes": table, "said": shown_sentences(table), "even": even, "confusions": section,
        "charts": [chart for chart in (val_chart(record), loss_chart(record)) if chart],
        "pseudo": pseudo(record), "rounds": round_rows(record), "gallery": gallery(record), "look": look_again(record),
        "expected": expected(record), "learning": learning(record),
        "facts": facts(record),
        "steps": next_steps(record.next_steps), "about": _about(record), "seeds_text": seeds_text(record),
        "several": len(record.numbers) > 1, "delivered_seed": str(get(record.metrics, "delivered", "seed")),
    }  # fmt: skip
    return _render("report.html", context)


def compare_page(comparison: Comparison) -> bytes:
    """Return the comparison as one HTML file."""
    groups = [
        {
            "first": group.first, "title": title(group), "rows": [_row(row, group) for row in group.rows],
            "chart": _curves(group), "classes": _class_rows(group), "about": _about_group(group),
        }
        for group in comparison.groups
    ]  # fmt: skip
    runs = sum(len(row.records) for group in comparison.groups for row in group.rows)
    return _render("compare.html", {"groups": groups, "notes": comparison.notes, "runs": plural(runs, "run")})


def _render(template: str, context: dict[str, Any]) -> bytes:
    # a name that is not UTF-8 on disk reaches Python as lone surrogates, which no file can hold
    return _environment().get_template(template).render(context).encode("utf-8", "replace")


def _about(record: Record) -> list[str]:
    metrics = record.metrics
    model = record.recipe.get("model") or {}
    network = " + ".join(str(model[key]) for key in ("arch", "encoder") if model.get(key))
    parts = [
        plural(len(record.classes), "class", "classes"), f"{count(metrics.get('labelled'))} labelled images",
        f"{count(metrics.get('unlabelled'))} unlabelled", network, f"{count(metrics.get('steps'))} steps",
        seeds_text(record),
    ]  # fmt: skip
    return [part for part in parts if part]


def title(group: Group) -> str:
    """Return what the runs of a group have in common, in words."""
    metrics = group.first.metrics
    return f"{group.first.data}, {count(metrics.get('labelled'))} labelled images, protocol {metrics.get('protocol')}"


def _about_group(group: Group) -> list[str]:
    manifest = group.first.manifest
    parts = [plural(len(group.first.classes), "class", "classes")]
    parts += [f"{count(manifest[role])} {role} images" for role in ("val", "test") if manifest.get(role)]
    parts.append(f"data hash {manifest.get('data_hash') or 'not recorded'}")
    return parts


def _row(row: Row, group: Group) -> dict[str, Any]:
    gained = comparing.gain(row, group)
    return {
        "name": row.name, "seeds": ", ".join(map(str, row.seeds)), "n": len(row.seeds),
        "steps": count(row.records[0].metrics.get("steps")),
        "unlabelled": count(row.records[0].metrics.get("unlabelled")), "runs": [r.label for r in row.records],
        "cells": [mean_sd(comparing.score(row, role, which)) for role in ("val", "test") for which in ("last", "best")],
        "gain": "" if gained is None else mean_sd(gained["val"], sign=True),
        "between": "" if gained is None else between(gained),
        "to": "" if gained is None else _paired(gained, group),
    }  # fmt: skip


def between(gained: dict[str, Any]) -> str:
    """Return the interval of a gain on val, or nothing where its runs do not tell."""
    return span(gained["interval"]["val"], sign=True)


def _paired(gained: dict[str, Any], group: Group) -> str:
    """Say over which seeds a gain is paired, and with which row where there are several to choose from."""
    seeds = plural(len(gained["seeds"]), "paired seed")
    rivals = [row for row in group.rows if row.records[0].metrics.get("method") == comparing.SUPERVISED]
    return seeds if len(rivals) == 1 else f"to {gained['to']}, {seeds}"


def mean_sd(found: dict[str, Any], *, sign: bool = False) -> str:
    """Return "48.03 ± 0.61", without a deviation where there is one value."""
    show = signed if sign else number
    return show(found["mean"], 2) + (f" ± {number(found['sd'], 2)}" if found["sd"] is not None else "")


def _curves(group: Group) -> Any:
    lines = []
    for n, row in enumerate(group.rows):
        joined = Record(row.records[0].metrics, seeds=row.records)
        lines.append(val_series(joined, row.name, n))
    return line_chart("mIoU on val", lines, unit="%")


def _class_rows(group: Group) -> dict[str, Any] | None:
    """Return class → a cell a configuration, on test where that is measured, else val; the highest is marked."""
    tables = {
        role: [comparing.class_scores(row, role) for row in group.rows] for role in ("val", "test")
    }  # fmt: skip
    out = {}
    for role, columns in tables.items():
        if not any(cell["n"] for column in columns for cell in column.values()):
            continue
        rows = []
        for k, name in enumerate(group.first.classes):
            means = [column[name]["mean"] for column in columns]
            texts = [number(m) for m in means]
            best = number(max((m for m in means if m is not None), default=None))
            cells = [
                {"text": text, "sd": column[name]["sd"], "best": text == best and texts.count(best) < len(texts)}
                for text, column in zip(texts, columns, strict=True)
            ]
            rows.append({"name": name, "index": k, "cells": cells})
        out[role] = rows
    return out
