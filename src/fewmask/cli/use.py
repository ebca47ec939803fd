"""``fewmask evaluate``, ``predict`` and ``pseudolabel``: what one does with a finished run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fewmask.cli.train import DataYamlFile, declared_in, say
from fewmask.errors import ConfigError


class Split(StrEnum):
    """Roles that can be scored."""

    val = "val"
    test = "test"


class Rule(StrEnum):
    """Which pixels become pseudo-labels."""

    none = "none"
    st = "st"
    cbst = "cbst"
    da = "da"
    dars = "dars"


class WhichModel(StrEnum):
    """Models of a run."""

    delivered = "delivered"
    last = "last"
    best = "best"
    baseline = "baseline"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("evaluate", no_args_is_help=True)(evaluate)
    app.command("predict", no_args_is_help=True)(predict)
    app.command("pseudolabel", no_args_is_help=True)(pseudolabel)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    dir: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Other data with the same classes.")] = None,
    data_yaml: DataYamlFile = None,
    split: Annotated[Split, typer.Option(help="Which images.")] = Split.val,
    which: Annotated[WhichModel, typer.Option(help="Which model of the run.")] = WhichModel.delivered,
    trust_code: Annotated[
        bool, typer.Option(help="Import the run's own method (package.module:Class), for last, best and baseline.")
    ] = False,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Also how well outlines are met: the boundary F-measure.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask evaluate runs/photos-fixmatch-001 --split test

    Scores a run's model on whole images. They are scored on the grid of their original masks.
    """
    from fewmask.run.rescore import rescore

    if data_yaml is not None and dir is None:
        raise ConfigError(
            "--data-yaml has no effect here: a run has noted what its own data declare", where="command line",
            todo="leave it away, or name other data: fewmask evaluate RUN DIR",
        )  # fmt: skip
    result = rescore(run, dir, split.value, which.value, trust_code, boundary, say, declared_in(data_yaml))
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        _table(result)


def _table(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heads, columns, means = ["IoU %"], [result["iou"]], [result["miou"]]
    for head, key in (("Dice %", "dice"), ("boundary F %", "boundary_f")):
        if (found := result[key]) is not None:
            heads, columns, means = [*heads, head], [*columns, found["classes"]], [*means, found["mean"]]
    what = f"{result['split']}, {result['images']} images, {result['which']} model, protocol {result['protocol']}"
    table = Table("class", *heads, title=what)
    for name in result["iou"]:
        table.add_row(Text(name), *(_percent(values[name]) for values in columns))
    table.add_section()
    table.add_row("mean", *map(_percent, means), style="bold")
    Console().print(table)
    if (between := result["interval"]) is not None:
        over = " and ".join(between["covers"])
        print(f"mIoU: 95 % interval {between['low']:.1f} to {between['high']:.1f} over {over}")


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run, or a model folder of one.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE|DIR...", help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the masks; files there are not replaced.")],
    probs: Annotated[
        bool, typer.Option("--probs", help="Also write probabilities, float16 [K, H, W] as .npy.")
    ] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side of tiles, 0 = the image at once; default: 2048 or less, of large images and many classes.", min=0
        ),
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirror image's probabilities.")] = False,
    scales: Annotated[
        str | None, typer.Option(metavar="0.75,1,1.25", help="Average the probabilities of the image in these sizes.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask predict runs/photos-fixmatch-001 new-photos/ -o masks

    Predicts masks of images of any size. It writes for every image: OUT/NAME.png (class ids, paletted; 16-bit grey
    where an id needs that), OUT/colour/NAME.png, OUT/overlay/NAME.png, of a georeferenced TIFF OUT/NAME.tif too; and
    keeps a line in OUT/quality.csv: the pixel accuracy to expect. OUT/quality-summary.json has it of all images of the
    call together, and names the least sure. Images that cannot be read do not stop the others: the error at the end
    names them. What an earlier predict wrote is left out. Of a TIFF of more than 300 million pixels, which is read in
    windows: OUT/NAME.tif, and a small OUT/overlay/NAME.png.
    """
    from fewmask.run.model import Model
    from fewmask.run.outputs import failure
    from fewmask.run.predict import predict_files
    from fewmask.run.result import load

    alone = (run / "config.json").is_file()  # a model folder, as it is handed on
    folder = run if alone else load(run).folder.model
    model = Model.load(folder)
    how = model.views(flip, _numbers(scales))
    averaged = flip or scales is not None
    rows, together, failed = predict_files(
        model, folder, inputs, out, tile, how, probs=probs, averaged=averaged, say=say, along=_progress
    )
    if rows:
        say(f"{len(rows)} masks in {out}")
    if together is not None:
        _tell(out, together)
    if as_json:
        views = {"protocol": how.name, "flip": how.flip, "scales": list(how.scales)}
        print(json.dumps({"out": str(out), **views, "expected": together, "images": rows}, indent=2))
    if (error := failure(failed, len(rows) + len(failed))) is not None:
        raise error


def _numbers(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{text!r} are no scales", where="--scales", todo="write for example 0.75,1,1.25") from error


def _tell(out: Path, found: dict[str, Any]) -> None:
    from fewmask.report.text import clean

    say(f"expected pixel accuracy {found['expected_pixel_accuracy']:.1f}% on average ({found['caveat']})")
    below, beyond = found["below"], found["beyond"]
    text = (
        f"{below['images']} of {found['images']} below {below['accuracy']:.1f}%, which nine of ten of the images that "
        "it was learned from reach"
    )
    say(text + (f"; {beyond} less sure than any of those, where it is a guess" if beyond else ""))
    least = (f"{clean(one['name'])} ({one['expected']['pixel_accuracy']:.1f}%)" for one in found["least_sure"])
    say(f"least sure: {', '.join(least)}; each image: {out / 'quality.csv'}")


def pseudolabel(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the labels; files there are not replaced.")],
    select: Annotated[
        Rule,
        typer.Option(
            help="none: every pixel; st: the surest of all pixels; cbst: of each predicted class; da, dars: as many of "
            "each class as the labelled images have."
        ),
    ] = Rule.dars,
    ratio: Annotated[float, typer.Option(help="Share of the pixels that are wanted (none: all).", min=0, max=1)] = 0.5,
    temperature: Annotated[float, typer.Option(help="Divides the logits before the softmax.", min=1e-3)] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the random drop of dars.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest on stdout.")] = False,
) -> None:
    """Example: fewmask pseudolabel runs/photos-supervised-001 photos/images -o labels --select dars --ratio 0.2

    Labels images for another training. It writes OUT/NAME.png with class ids, 255 where there is no label (if a class
    has that id, the manifest names another one: "nothing"), and OUT/manifest.json. The same command continues an
    interrupted labelling. Started by torchrun or srun, several processes divide the images, and write the same files.
    """
    from fewmask.data.files import image_names
    from fewmask.engine.launch import is_first_process
    from fewmask.run.pseudolabel import pseudolabel as label

    found = label(run, list(image_names(inputs)), out, select.value, ratio, temperature, seed, say)
    if as_json and is_first_process():
        print(json.dumps(found, indent=2))


def _progress(files: list[Any]) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return iter(track(files, "predict", console=console, transient=True, disable=not console.is_terminal))
