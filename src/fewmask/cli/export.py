"""``fewmask export``: a model as one file for other programs."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fewmask.cli.train import say


class Form(StrEnum):
    """Formats of the file."""

    onnx = "onnx"
    torch_export = "torch-export"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", no_args_is_help=True)(export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The file; it may not exist.")],
    form: Annotated[Form, typer.Option("--format", help="onnx needs the extra onnx.")] = Form.onnx,
    size: Annotated[
        str | None, typer.Option(metavar="480x640", help="Images of this size only (height x width); default: any.")
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE|DIR", help="Compare on these, may be repeated; default: images of the run."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask export runs/photos-fixmatch-001 --format onnx -o model.onnx

    Writes the delivered model as ONNX or for torch.export. Normalisation is inside, and beside it lies an example that
    runs it without fewmask. Both networks are compared on real images; the largest difference is printed.
    """
    from fewmask.data.files import image_names
    from fewmask.data.sizes import parse_size
    from fewmask.run.export import export as write

    files = [file for file, _ in image_names(images or [])]
    found = write(run, out, form.value, say, parse_size(size) if size else None, files)
    if as_json:
        print(json.dumps(found, indent=2))
