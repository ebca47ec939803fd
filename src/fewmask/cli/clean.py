"""``fewmask clean``: disk space back from finished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fewmask.cli.train import say


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("clean")(clean)


def clean(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN|FOLDER...]", help="Runs, or folders of runs; default: runs.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are listed only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask clean runs --yes

    Lists the checkpoints of finished runs, and with --yes removes them. Scores, reports and delivered models stay; runs
    that are not finished keep everything.
    """
    from fewmask.run.clean import find_spare, remove_spare

    spare = find_spare(places or [Path("runs")], say)
    freed = remove_spare(spare, say) if yes else 0
    total = sum(one.bytes for one in spare)
    if as_json:
        runs = [{"run": str(one.run), "bytes": one.bytes} for one in spare]
        print(json.dumps({"runs": runs, "bytes": total, "freed": freed}, indent=2))
        return
    for one in spare:
        print(f"{one.bytes / 1e6:10.1f} MB  {one.run}")
    if yes:
        say(f"{freed / 1e6:.1f} MB freed")
    elif spare:
        say(
            f"{total / 1e6:.1f} MB of checkpoints that {len(spare)} finished runs do not need; --yes removes them, and "
            "with them evaluate --which last, best and baseline, and all but the delivered model of --init"
        )
    else:
        say("no finished run holds checkpoints")
