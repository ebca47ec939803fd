"""``fewmask demo``."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
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

    Makes a folder of small scenes, trains on it, and shows the result. Few of the scenes have masks; it trains without
    and with the others, and says what these brought: minutes on two cores, no download. The same command again
    continues, or shows the table at once.
    """
    from fewmask.demo import LABELLED, STEPS, UNLABELLED, demonstrate

    run = demonstrate(out, steps=STEPS if steps is None else steps, seed=seed, settings=settings or (), say=say)
    metrics = run.metrics
    few = f"{LABELLED} masks"
    rows = [] if metrics["baseline"] is None else [("supervised", few, metrics["baseline"])]
    rows.append((metrics["method"], f"{few}, {UNLABELLED} images without", metrics))
    _table(rows)
    if metrics["gain"] is not None:
        print(metrics["gain"]["text"])
    print(f"report, opens in any browser: {run.folder.report}")
    print(f"pictures (image | truth | prediction): {run.folder.pictures}")
    print("next:")
    for words in (
        ["predict", run.path, out / "data" / "images" / "test", "-o", out / "masks"],
        ["evaluate", run.path, "--split", "test"],
    ):
        print("  fewmask " + shlex.join(map(str, words)))
    print("  fewmask check YOUR_FOLDER; fewmask train YOUR_FOLDER")
    _open(run.folder.report)


def _open(page: Path) -> None:
    """Open a page in the browser, where someone sits before a screen."""
    screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.stdout.isatty() and screen:
        webbrowser.open(page.resolve().as_uri())


def _table(rows: list[tuple[str, str, dict[str, Any]]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("method", "learned from", "val", "test", title="mIoU in percent after the last step")
    for name, source, scores in rows:
        found = ("not measured" if scores[r]["miou"] is None else f"{scores[r]['miou']:.2f}" for r in ("val", "test"))
        table.add_row(name, source, *found)
    Console().print(table)
