"""``fewmask bench``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fewmask.cli.train import say


class Kind(StrEnum):
    """What can be timed."""

    step = "step"
    kernels = "kernels"
    data = "data"
    select = "select"
    evaluate = "evaluate"
    scale = "scale"
    resume = "resume"
    leaderboard = "leaderboard"


Cell = Callable[[dict[str, Any]], str]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", no_args_is_help=True)(bench)


def bench(
    kind: Annotated[Kind, typer.Argument(metavar="|".join(Kind), help="What is timed; see below.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any recipe key: model.encoder=resnet50")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A data folder; default: generated scenes.")] = None,
    methods: Annotated[str | None, typer.Option(help="all, or names with commas; supervised is always there.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each is timed, in turn.", min=1)] = 7,
    seeds: Annotated[int, typer.Option(help="leaderboard: how many.", min=1)] = 3,
    out: Annotated[Path, typer.Option(metavar="DIR", help="leaderboard: its runs.")] = Path("runs/leaderboard"),
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write it; - = to stdout.")] = None,
    compare: Annotated[Path | None, typer.Option(metavar="FILE", help="Ratios to an earlier --json FILE.")] = None,
) -> None:
    """Example: fewmask bench step --methods fixmatch,cps

    Times methods and parts of training beside each other. What it prints are ratios within one process, since times of
    one machine say little about another. About a minute each on two cores.

    step: a step of each method beside a supervised one, and beside its networks alone. kernels: what is computed in
    another form than the obvious one. data: reading and augmenting. select: labelling beside predicting. evaluate:
    scoring beside its forward passes. scale: growth with pool, bank, classes and pixels. resume: saving and going back.
    leaderboard: trains every method on the folder at equal steps; the same command again continues.
    """
    from fewmask.bench import bench as measure
    from fewmask.bench import compare as beside
    from fewmask.bench import names_of, rank
    from fewmask.engine.files import json_text, write_atomic

    names, words = names_of(methods), settings or ()
    if kind is Kind.leaderboard:
        found = rank(data, names, words, seeds, out, say)
    else:
        found = measure(kind.value, data, names, words, rounds, say)
    if compare is not None:
        found["compared"] = beside(found, compare)
    text = json_text(found, indent=2)
    if str(json_file) == "-":
        print(text)
        return
    if json_file is not None:
        write_atomic(json_file, text + "\n")
    title, columns = _TABLES[kind]
    _table(title, columns, found["rows"])
    for row in found.get("compared", ()):
        print(f"{row['name']} {row['what']}: {row['then']:g} then, {row['now']:g} now, ratio {row['ratio']:.3f}")


def _middle(name: str, form: str = ".2f", factor: float = 1.0) -> Cell:
    return lambda row: format(factor * row[name]["median"], form)


def _range(name: str) -> dict[str, Cell]:
    """Return three columns of a ratio: median, low, high."""
    return {
        name: _middle(name),
        f"{name} low": lambda row: f"{row[name]['low']:.2f}",
        f"{name} high": lambda row: f"{row[name]['high']:.2f}",
    }


def _plain(name: str, form: str = "") -> Cell:
    return lambda row: format(row[name], form)


def _yes(row: dict[str, Any]) -> str:
    return "yes" if row["equal"] else "NO"


def _many(name: str, form: str) -> Cell:
    def cell(row: dict[str, Any]) -> str:
        values = [v["median"] if isinstance(v, dict) else v for v in row.get(name, ())]
        return " ".join(format(1000 * v if name == "seconds" else v, form) for v in values)

    return cell


def _score(role: str) -> Cell:
    def cell(row: dict[str, Any]) -> str:
        mean, sd = row[role], row[f"{role}_sd"]
        return "" if mean is None else f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"

    return cell


def _gain(row: dict[str, Any]) -> str:
    if (gain := row["gain"]) is None:
        return ""
    between = "" if gain["low"] is None else f" ({gain['low']:+.2f} to {gain['high']:+.2f})"
    return f"{gain['miou']:+.2f}{between}, {gain['verdict']}"


_METHOD = {"method": _plain("method")}
_NAME = {"name": _plain("name")}
_MS = {"ms": _middle("seconds", ".1f", 1000)}

_TABLES: Mapping[Kind, tuple[str, Mapping[str, Cell]]] = {
    Kind.step: (
        "a step: N = beside its networks alone, R = beside a supervised one, L = its FLOPs, G = R / L",
        _METHOD | _MS | _range("N") | _range("R")
        | {"L": _plain("L", ".2f"), "G": _plain("G", ".2f"), "ops": _plain("ops"), "syncs": _plain("syncs", "g")}
        | {"state MB": _plain("state_mb", ".1f")},
    ),
    Kind.kernels: (
        "V = the obvious form beside ours",
        _NAME | _range("V") | {"equal": _yes} | _MS | {"size": _plain("size"), "obvious": _plain("slow_form")},
    ),
    Kind.data: (
        "views of images that one process makes",
        _METHOD | {
            "views a step": _plain("views"), "a second": _middle("images_per_second", ".0f"),
            "first": _middle("images_per_second_first", ".0f"), "core-ms": _middle("core_ms"),
        },
    ),
    Kind.select: ("P = a labelling pass beside predicting alone", _NAME | _range("P") | _MS),
    Kind.evaluate: (
        "E = scoring beside its forward passes",
        _NAME | _range("E") | {"passes": _plain("passes"), "a second": _middle("images_per_second", ".1f")},
    ),
    Kind.scale: (
        "slope 0 = does not grow, 1 = grows in proportion",
        _NAME | {"over": _plain("over"), "slope": _plain("slope", ".2f"), "sizes": _many("sizes", "g")}
        | {"ms": _many("seconds", ".3g"), "ops": _many("ops", "g")},
    ),
    Kind.resume: (
        "saving and going back, in steps",
        _METHOD | {"save": _middle("save"), "load": _middle("load"), "equal": _yes} | _MS
        | {"state MB": _plain("state_mb", ".1f")},
    ),
    Kind.leaderboard: (
        "mIoU of the last checkpoint, %",
        _METHOD | {"val": _score("val"), "test": _score("test"), "gain on val": _gain}
        | {"steps": _plain("steps"), "seeds": lambda row: str(len(row["seeds"])), "s": _plain("seconds", ".0f")},
    ),
}  # fmt: skip


def _table(title: str, columns: Mapping[str, Cell], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # what goes into a file or another program is not folded
    left = ("method", "name", "over", "size", "obvious")
    table = Table(*(Column(head, justify="left" if head in left else "right") for head in columns), title=title)
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    console.print(table)
