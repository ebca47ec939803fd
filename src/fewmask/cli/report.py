"""``fewmask report``, ``fewmask curve`` and ``fewmask compare``: what one shows to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fewmask.cli.train import say


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("report", no_args_is_help=True)(report)
    app.command("curve", no_args_is_help=True)(curve)
    app.command("compare", no_args_is_help=True)(compare)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="Default: report.html in the run folder.")
    ] = None,
) -> None:
    """Example: fewmask report runs/photos-fixmatch-001

    Writes the report: one HTML file that opens anywhere. Verdict, scores, curves, classes and pictures are in it, and
    nothing is loaded from a network.
    """
    from fewmask.run.report import write_report

    print(write_report(run, out))


def curve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    draws: Annotated[int, typer.Option(min=1, help="Of each part of the masks; 2 or more can foretell.")] = 2,
    sizes: Annotated[int, typer.Option(min=1, max=6, help="How many: a half, a quarter, an eighth.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask curve runs/photos-fixmatch-001

    Says what twice as many masks would bring. It trains the run's better arm again on parts of its masks, and foretells
    nothing where the parts do not foretell the whole. The same command again continues an interrupted one.
    """
    from fewmask.engine.files import json_text
    from fewmask.run.curve import curve as measure

    found = measure(run, say, draws, sizes)
    if as_json:
        print(json_text(found, indent=2))
        return
    for point in found["points"]:
        score = "not measured" if point["miou"] is None else f"{point['miou']:.2f}"
        print(f"{point['images']:>7g} labelled images, draw {point['draw']}: {score} mIoU")
    print(found["text"])


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Finished runs.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="FILE", help="Also write an HTML file.")] = None,
) -> None:
    """Example: fewmask compare runs/photos-* -o comparison.html

    Puts runs side by side: scores, curves, paired differences. It averages the seeds of a configuration; runs on other
    data, other masks or another protocol stand in tables of their own.
    """
    from fewmask.engine.files import json_text
    from fewmask.report.compare import as_json as for_machines
    from fewmask.run.report import compare_runs, write_comparison

    comparison = compare_runs(runs)
    written = write_comparison(comparison, out) if out is not None else None
    if as_json:
        print(json_text(for_machines(comparison), indent=2))
    else:
        _print(comparison)
    if written is not None:
        say(f"written: {written}")


def _print(comparison: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    from fewmask.report.html import difference_lines, drawn_anew
    from fewmask.report.text import clean

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 1000  # what goes into a file or another program is not folded
    for group in comparison.groups:
        console.print(_scores(group))
        console.print(drawn_anew(group))
        for line in difference_lines(group):
            console.print(Text(clean(line)))
        if (classes := _classes(group)) is not None:
            console.print(classes)
    for note in comparison.notes:
        say(clean(note))


def _scores(group: Any) -> Any:
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    from fewmask.report.compare import gain
    from fewmask.report.html import between, scores, title
    from fewmask.report.text import clean

    # widths of what a narrow terminal folds them to: a score above its deviation, the ends of an interval
    heads = (("seeds", 5), ("on", 4), ("last", 6), ("95 %", 7), ("best", 6), ("gain", 6), ("95 %", 7))
    columns = [Column("mIoU, %", overflow="fold", min_width=10)]
    columns += [Column(head, justify="right", overflow="fold", min_width=width) for head, width in heads]
    data = f"data {group.first.manifest.get('data_hash') or 'not recorded'}"
    heading = Text(clean(f"{title(group)}, {data}"))
    table = Table(*columns, title=heading, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for row in group.rows:
        gained, first = gain(row, group), [row.name, ", ".join(map(str, row.seeds))]
        for role, cells in scores(row):
            mean, *ends = ("", "") if gained is None else between(gained, role)
            moved = [mean, ", ".join(end for end in ends if end)]
            table.add_row(*(Text(clean(cell).replace("± ", "±")) for cell in (*first, role, *cells, *moved)))
            first = ["", ""]
    return table


def _classes(group: Any, most: int = 40) -> Any:
    """Return the IoU of each class on val, else test; None where a terminal would not hold them."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    from fewmask.report.compare import class_scores
    from fewmask.report.text import clean, number

    role = "val" if any(r.metrics.get("val") for row in group.rows for r in row.records) else "test"
    columns = [class_scores(row, role) for row in group.rows]
    names = group.first.classes
    if len(names) > most:
        say(f"{len(names)} classes: -o FILE and --json hold their IoU")
        return None
    heads = (Column(Text(clean(row.name)), justify="right") for row in group.rows)
    table = Table(Column(f"IoU on {role}, last", overflow="fold"), *heads, box=box.SIMPLE)
    for name in names:
        table.add_row(Text(clean(name)), *(number(column[name]["mean"]) for column in columns))
    return table
