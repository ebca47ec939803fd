"""``fewmask bench``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fewmask.cli.train import say


class Kind(StrEnum):
    """What can be timed."""

    step = "step"
    data = "data"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", no_args_is_help=True)(bench)


def bench(
    kind: Annotated[Kind, typer.Argument(metavar="step|data", help="Steps of training, or reading of images.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any recipe key: model.encoder=resnet50")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="A data folder; default: generated scenes.")] = None,
    methods: Annotated[str | None, typer.Option(help="all, or names with commas; supervised is always there.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each is timed, in turn.", min=1)] = 7,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write it; - = to stdout.")] = None,
    compare: Annotated[Path | None, typer.Option(metavar="FILE", help="Ratios to an earlier --json FILE.")] = None,
) -> None:
    """Example: fewmask bench step --methods fixmatch,cps

    How long a step of each method takes beside a supervised one, or how fast images are read: ratios within one
    process, since times of one machine say little about another. About a minute on two cores.
    """
    from fewmask.engine.files import json_text, write_atomic
    from fewmask.run.bench import bench as measure
    from fewmask.run.bench import compare as beside
    from fewmask.run.bench import names_of

    found = measure(kind.value, data, names_of(methods), settings or (), rounds, say)
    if compare is not None:
        found["compared"] = beside(found, compare)
    text = json_text(found, indent=2)
    if str(json_file) == "-":
        print(text)
        return
    if json_file is not None:
        write_atomic(json_file, text + "\n")
    (_step_table if kind is Kind.step else _data_table)(found["rows"])
    for row in found.get("compared", ()):
        print(f"{row['method']} {row['what']}: {row['then']:g} then, {row['now']:g} now, ratio {row['ratio']:.3f}")


def _step_table(rows: list[dict[str, Any]]) -> None:
    title = "a step beside a supervised one: R = time, L = FLOPs, G = R / L"
    _table(title, ("method", "ms", "R", "low", "high", "L", "G", "ops", "syncs", "state MB"), [
        (
            row["method"], f"{1000 * row['seconds']['median']:.1f}", f"{row['R']['median']:.2f}",
            f"{row['R']['low']:.2f}", f"{row['R']['high']:.2f}", f"{row['L']:.2f}", f"{row['G']:.2f}",
            str(row["ops"]), f"{row['syncs']:g}", f"{row['state_mb']:.1f}",
        )
        for row in rows
    ])  # fmt: skip


def _data_table(rows: list[dict[str, Any]]) -> None:
    _table("views of images that one process makes", ("method", "views a step", "a second", "first", "core-ms"), [
        (
            row["method"], str(row["views"]), f"{row['images_per_second']['median']:.0f}",
            f"{row['images_per_second_first']['median']:.0f}", f"{row['core_ms']['median']:.2f}",
        )
        for row in rows
    ])  # fmt: skip


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # what goes into a file or another program is not folded
    table = Table(*(Column(head, justify="left" if head == "method" else "right") for head in heads), title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
