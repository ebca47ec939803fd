"""``fewmask suggest`` and ``fewmask labels``: what to label next, and masks on their way to a tool and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fewmask.cli.train import DataYamlFile, declared_in, say


class ToolName(StrEnum):
    """Formats that labelling tools import."""

    png = "png"
    cvat = "cvat"
    coco = "coco"
    labelstudio = "labelstudio"


class Blank(StrEnum):
    """What masks are that hold background only."""

    labelled = "labelled"
    unlabelled = "unlabelled"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("suggest", no_args_is_help=True)(suggest)
    group = typer.Typer(
        no_args_is_help=True,
        help="Example: fewmask labels diff old-photos/ photos/\n\nMasks to a labelling tool and back.",
    )
    group.command("export", no_args_is_help=True)(export)
    group.command("import", no_args_is_help=True)(import_)
    group.command("diff", no_args_is_help=True)(diff)
    app.add_typer(group, name="labels")


def suggest(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for images and masks; new, or empty.")],
    count: Annotated[int, typer.Option("-n", help="How many.", min=1)] = 20,
    to: Annotated[
        list[ToolName] | None,
        typer.Option(help="Format of the masks, may be repeated; default: png, with --relabel none."),
    ] = None,
    relabel: Annotated[bool, typer.Option("--relabel", help="Rank the masks that are there by doubt instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list on stdout.")] = False,
) -> None:
    """Example: fewmask suggest runs/photos-fixmatch-001 -n 20 --to cvat -o next

    Says which images to label next, and writes the model's masks of them. First come those that stand
    for many others of which the model is unsure or which may show rare classes; each is written with the reason, its
    mask to be corrected in a labelling tool.
    """
    from fewmask.run.doubt import relabel as doubt
    from fewmask.run.suggest import suggest as rank

    found: list[Any]
    if relabel:
        found = doubt(run, count, out, say, tools=[tool.value for tool in to or []])
    else:
        found = rank(run, count, out, [tool.value for tool in to or [ToolName.png]], say)
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            print(f"{one.rank:4d}  {one.name}: {one.reason}")


def export(
    dir: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images and masks.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write; new, or empty.")],
    data_yaml: DataYamlFile = None,
    to: Annotated[ToolName, typer.Option(help="Format.")] = ToolName.png,
    images: Annotated[bool, typer.Option("--images", help="Copy the images, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask labels export photos/ --to cvat -o for-cvat

    Writes the masks of a folder as a labelling tool imports them. What does not count becomes the label "void".
    """
    from fewmask.run.label_export import export_labels

    found = export_labels(dir, out, to.value, images, say, declared_in(data_yaml))
    if as_json:
        print(json.dumps(found, indent=2))


def import_(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What the tool exported: a folder, zip or JSON.")],
    dir: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of images/ and masks/.")],
    data_yaml: DataYamlFile = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put masks in the place of those that differ; these are kept.")
    ] = False,
    empty: Annotated[
        Blank | None,
        typer.Option(help="Masks that hold background only: labelled takes them, unlabelled leaves them out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask labels import cvat-export.zip photos/

    Takes masks into a data folder: images by name, classes by name. Without --replace no mask that is there changes.
    """
    from fewmask.run.label_import import import_labels

    found = import_labels(source, dir, replace, say, declared_in(data_yaml), empty.value if empty else None)
    if as_json:
        print(json.dumps(found, indent=2))


def diff(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="A data folder, or an export beside its images/.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Another one, or what a tool exported.")],
    data_yaml: Annotated[
        Path | None, typer.Option("--data-yaml", metavar="FILE", help="Read in place of BEFORE/data.yaml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list on stdout.")] = False,
) -> None:
    """Example: fewmask labels diff photos/ cvat-export.zip

    Says which masks are new, gone or changed, and which classes became which.
    """
    from fewmask.run.label_diff import diff_labels, total_moves

    changes = diff_labels(before, after, declared_in(data_yaml), say)
    if as_json:
        rows = [asdict(c) | {"moves": [[*move, n] for move, n in sorted(c.moves.items())]} for c in changes]
        print(json.dumps(rows, indent=2))
        return
    for change in changes:
        share = f", {100 * change.pixels / change.of:.2f}% of the pixels" if change.state == "changed" else ""
        print(f"{change.state:8s}{change.name}{share}")
    for (old, new), pixels in total_moves(changes).most_common(20):
        print(f"        {pixels} pixels: {old} -> {new}")
    say(f"{len(changes)} masks differ" if changes else "no mask differs")
