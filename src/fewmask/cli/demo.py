"""``fewmask demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from fewmask.cli.train import say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any recipe key, for both trainings.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the scenes and the runs.")] = Path("demo"),
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of each training.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and the trainings.")] = 0,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Example: fewmask demo

    Makes a folder of small scenes, few of them with masks, and trains on it without and with the others: minutes on
    two cores, no download. The same command again continues, or shows the table at once.
    """
    from fewmask.demo import METHODS, STEPS, demonstrate

    runs = demonstrate(out, steps=STEPS if steps is None else steps, seed=seed, settings=settings or (), say=say)
    _table(runs, METHODS)
    for run in runs.values():
        print(f"pictures (image | truth | prediction): {run.folder.pictures}")
    last = list(runs.values())[-1].path
    print("next:")
    for words in (
        ["predict", last, out / "data" / "images" / "test", "-o", out / "masks"],
        ["evaluate", last, "--split", "test"],
    ):
        print("  fewmask " + shlex.join(map(str, words)))
    print("  fewmask check YOUR_FOLDER; fewmask train YOUR_FOLDER")


def _table(runs: dict[str, Any], sources: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "learned from", "val", "test", title="mIoU in percent after the last step")
    for name, run in runs.items():
        m = run.metrics
        scores = ("not measured" if m[role]["miou"] is None else f"{m[role]['miou']:.2f}" for role in ("val", "test"))
        table.add_row(name, sources[name], *scores)
    Console().print(table)
