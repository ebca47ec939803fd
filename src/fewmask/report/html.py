"""The pages: one file each, without a script, a font or anything else from outside.

Everything is escaped where it is put in (``pages``), and a content security policy forbids what would slip through. A
page holds no time and no path of the machine it was made on beside what the run recorded: the same run gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewmask.ops.interval import covers
from fewmask.report import compare as comparing
from fewmask.report.compare import Comparison, Group, Row
from fewmask.report.confusion import confusions
from fewmask.report.curves import loss_chart, pseudo, val_chart, val_series, val_title
from fewmask.report.embed import gallery, look_again
from fewmask.report.expected import expected
from fewmask.report.facts import facts, next_steps, relabel_command
from fewmask.report.figures import Axis, line_chart
from fewmask.report.learning import learning
from fewmask.report.pages import render
from fewmask.report.paired import interval_of
from fewmask.report.record import Record, get
from fewmask.report.rounds import round_rows
from fewmask.report.tables import (
    class_table,
    evenness,
    fold_rows,
    gain_axis,
    score_rows,
    seed_rows,
    shown_sentences,
)
from fewmask.report.text import count, listing, number, plural, signed, span
from fewmask.report.verdict import seeds_text, verdict

_ROLES = ("val", "test")


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
        "aside": _aside(record), "several": len(record.numbers) > 1, "parts": _parts(record),
        "delivered_seed": _delivered_seed(record), "relabel": relabel_command(record.next_steps),
    }  # fmt: skip
    return render("report.html", context)


def compare_page(comparison: Comparison) -> bytes:
    """Return the comparison as one HTML file."""
    groups = [_group(group) for group in comparison.groups]
    runs = sum(len(row.records) for group in comparison.groups for row in group.rows if not row.along)
    return render("compare.html", {"groups": groups, "notes": comparison.notes, "runs": plural(runs, "run")})


def _aside(record: Record) -> str:
    """Say that the delivered model is not the last checkpoint of the method, whose counts the report shows; else ""."""
    if record.crossed:
        return " in the folds, while the delivered model was trained on all of them"
    run, which = get(record.metrics, "delivered", "run"), get(record.metrics, "delivered", "checkpoint")
    best = get(record.metrics, "best", "step") != record.metrics.get("steps")
    return ", which is not the delivered model" if run == "baseline" or (which == "best" and best) else ""


def _delivered_seed(record: Record) -> str:
    """Return the seed whose scores, as the report shows them, are of the delivered model; of no seed, "".

    Shown are scores of the method, and of a cross-fitted run those of its folds.
    """
    told = record.metrics.get("delivered")
    return str(get(told, "seed")) if get(told, "run") == "method" and not record.crossed else ""


def _parts(record: Record) -> str:
    """Return what the trainings of a run are to each other."""
    if len(record.numbers) > 1:
        return "trainings of all seeds and folds" if record.crossed else "seeds"
    return "folds"


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


def _group(group: Group) -> dict[str, Any]:
    gains = [comparing.gain(row, group) for row in group.rows]
    rows = [_row(row, group, gained) for row, gained in zip(group.rows, gains, strict=True)]
    roles = [role for role in _ROLES if any(role in row["scores"] for row in rows)]
    ends = [{role: _ends(gained, role) for role in roles} if gained else {} for gained in gains]
    axis = gain_axis(one for each in ends for one in each.values())
    for row, each in zip(rows, ends, strict=True):
        row["places"] = {role: _places(axis, one) for role, one in each.items()} if axis else {}
    where = {role: group.first.place(role) for role in _ROLES}
    return {
        "where": where, "crossed": group.first.crossed, "leader": group.leader.name,
        "differences": _differences(group, roles),
        "title": title(group), "about": _about_group(group), "rows": rows, "roles": roles, "axis": axis,
        "drawn": drawn_anew(group), "chart": _curves(group), "classes": _class_rows(group, gains),
    }  # fmt: skip


def _differences(group: Group, roles: Sequence[str]) -> dict[str, Any] | None:
    """Return the rows that are set beside the leader, and the axis of their differences; None where there are none."""
    found = [(row.name, told) for row in group.rows if (told := comparing.difference(row, group))]
    axis = gain_axis(_ends(told, role) for _, told in found for role in roles)
    if axis is None:
        return None
    rows = [
        (name, plural(len(told["seeds"]), "seed"),
         {role: (between(told, role), _places(axis, _ends(told, role))) for role in roles})
        for name, told in found
    ]  # fmt: skip
    return {"rows": rows, "axis": axis}


def difference_lines(group: Group) -> list[str]:
    """Return a sentence for each row that is set beside the leader, and each role that both were scored on."""
    found = [(row.name, told) for row in group.rows if (told := comparing.difference(row, group))]
    return [
        f"{name} beside {told['to']} on {group.first.place(role)}: {_in_a_line(between(told, role))}, "
        f"{plural(len(told['seeds']), 'paired seed')}"
        for name, told in found for role in _ROLES if told[role]["n"]
    ]  # fmt: skip


def _in_a_line(cells: Sequence[str]) -> str:
    mean, *ends = cells
    return f"{mean} ({', '.join(end for end in ends if end)})" if any(ends) else mean


def _ends(gained: dict[str, Any], role: str) -> dict[str, Any]:
    return {"gain": gained[role]["mean"], **(gained["interval"][role] or {})}


def _places(axis: Axis, ends: dict[str, Any]) -> list[float | None]:
    """Return where a gain and the ends of its interval lie, in percent."""
    found = (ends.get(key) for key in ("gain", "low", "high"))
    return [None if value is None else axis.at(value) for value in found]


def _row(row: Row, group: Group, gained: dict[str, Any] | None) -> dict[str, Any]:
    told = dict(scores(row))
    return {
        "name": row.name, "seeds": ", ".join(map(str, row.seeds)), "n": len(row.seeds),
        "steps": count(row.records[0].metrics.get("steps")),
        "unlabelled": count(row.records[0].metrics.get("unlabelled")), "runs": [r.label for r in row.records],
        "scores": told, "gain": {} if gained is None else {role: between(gained, role) for role in told},
        "to": "" if gained is None else _paired(gained, group),
    }  # fmt: skip


def scores(row: Row) -> list[tuple[str, list[str]]]:
    """Return each role that was scored, val if none, with "last", its interval, and "best"."""
    roles = [role for role in _ROLES if any(get(r.metrics, role) for r in row.records)]
    return [
        (role, [
            mean_sd(comparing.score(row, role, "last")), span(interval_of(row.records, role)),
            mean_sd(comparing.score(row, role, "best")),
        ])
        for role in roles or _ROLES[:1]
    ]  # fmt: skip


def between(gained: dict[str, Any], role: str) -> list[str]:
    """Return a gain, its interval and its verdict; empty where its runs do not tell."""
    interval = gained["interval"][role]
    return [mean_sd(gained[role], sign=True), span(interval, sign=True), get(interval, "verdict") or ""]


def drawn_anew(group: Group) -> str:
    """Say what the intervals of a group cover."""
    kinds = {covers(counts.groups, 1)[0] for counts in group.first.counts.values()}
    if not kinds:
        return "No intervals: the runs did not keep the counts of single images (evaluation.npz)."
    return (
        f"95 % intervals cover which {listing(sorted(kinds))} were drawn, and from three seeds on the seeds. With "
        "fewer, a gain may be chance between trainings: it is not shown."
    )


def _paired(gained: dict[str, Any], group: Group) -> str:
    """Say over which seeds a gain is paired, and with which row where there are several to choose from."""
    seeds = plural(len(gained["seeds"]), "paired seed")
    rivals = [row for row in group.rows if row.supervised]
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
    return line_chart(val_title(group.first), lines, unit="%")


def _class_rows(group: Group, gains: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Return role → rows of a class, each with a cell a configuration; the highest is marked."""
    out = {}
    for role in _ROLES:
        columns = [comparing.class_scores(row, role) for row in group.rows]
        if not any(cell["n"] for column in columns for cell in column.values()):
            continue
        rows = []
        for k, name in enumerate(group.first.classes):
            means = [column[name]["mean"] for column in columns]
            texts = [number(m) for m in means]
            best = number(max((m for m in means if m is not None), default=None))
            moved = [get(gained, "iou", role, name) for gained in gains]
            cells = [
                {
                    "text": text, "sd": column[name]["sd"], "best": text == best and texts.count(best) < len(texts),
                    "gained": gained is not None, "gain": signed(get(more, "gain")), "between": span(more, sign=True),
                }
                for text, column, gained, more in zip(texts, columns, gains, moved, strict=True)
            ]  # fmt: skip
            rows.append({"name": name, "index": k, "cells": cells})
        out[role] = rows
    return out
