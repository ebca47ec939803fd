"""``fewmask train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewmask.errors import printable

if TYPE_CHECKING:
    from fewmask.data.datayaml import DataYaml

UNLABELLED = "N, a list or index file, N:FILE for that many of it, or none."
UNLABELLED_BY = "Which N: random, near-labelled (most like the labelled images), or diverse (unlike each other)."

DataYamlFile = Annotated[
    Path | None, typer.Option("--data-yaml", metavar="FILE", help="Read in place of DIR/data.yaml; see docs/data.md.")
]
"""The option of every command that takes a data folder."""


def declared_in(file: Path | None) -> DataYaml | None:
    """Return what ``--data-yaml`` says; None without it: the folder's own file counts."""
    from fewmask.data.declared import read_data_yaml

    return None if file is None else read_data_yaml(file)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", no_args_is_help=True)(train)


def say(text: str) -> None:
    """Print one line for people: stdout belongs to --json."""
    print(printable(text), file=sys.stderr, flush=True)


def train(
    dir: Annotated[str, typer.Argument(metavar="DIR", help="Folder of images and masks.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Any recipe key: optim.lr=0.01 method.lam=1.5")
    ] = None,
    data_yaml: DataYamlFile = None,
    recipe: Annotated[Path | None, typer.Option(help="A complete recipe; flags and key=value override it.")] = None,
    method: Annotated[
        str | None, typer.Option(help="A name of `fewmask methods`, package.module:Class, or auto.")
    ] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture: see `fewmask models`.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Encoder; timm names take the prefix tu-.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="imagenet, none, or a .safetensors file of encoder tensors.")
    ] = None,
    init: Annotated[str | None, typer.Option(help="Start from the networks of a run or file.")] = None,
    labelled: Annotated[
        str | None, typer.Option(help="How many masks may be used: N, N%, 1/16, or a list file.")
    ] = None,
    unlabelled: Annotated[str | None, typer.Option(help=UNLABELLED)] = None,
    unlabelled_by: Annotated[str | None, typer.Option(help=UNLABELLED_BY)] = None,
    split_seed: Annotated[int | None, typer.Option(help="Which images a drawn labelled set holds.")] = None,
    group_by: Annotated[str | None, typer.Option(help="REGEX, folder, names, time, FILE: kept whole.")] = None,
    seed: Annotated[int | None, typer.Option(help="Initialisation and streams.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Train K seeds; three or more can show a gain.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="Without val images: score every mask by networks that have not seen it.")
    ] = None,
    crop: Annotated[str | None, typer.Option(help="192 or 160x192 (height x width).")] = None,
    resize: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Network input, or long:1024: its longer side. Scores use the original mask grid."
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Labelled images a step, over all processes.")] = None,
    unlabelled_batch: Annotated[int | None, typer.Option(help="Unlabelled images a step.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    devices: Annotated[str | None, typer.Option(help="auto, cpu, cpu:N processes, or a number of GPUs.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16, fp16.")] = None,
    workers: Annotated[str | None, typer.Option(help="Loader processes: auto or N.")] = None,
    protocol: Annotated[str | None, typer.Option(help="How it is scored; default: whole.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="[RUN]", help="Beside it a matched supervised run (default), or this one.")
    ] = None,
    no_baseline: Annotated[bool, typer.Option("--no-baseline", help="Without the supervised run.")] = False,
    time: Annotated[
        str | None, typer.Option(metavar="2h", help="In place of steps: as many as fit into it, measured.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Write RUN/plan.json, print it, and stop.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; an unfinished run there is continued.")] = None,
    new: Annotated[bool, typer.Option("--new", help="Start another run in any case.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json on stdout.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Example: fewmask train photos/ --method fixmatch --steps 2000

    Trains on a folder of images, a few with masks. The same command again continues an interrupted run.
    """
    from fewmask.engine.launch import is_first_process
    from fewmask.recipe import for_its_length, read_recipe
    from fewmask.run.ahead import plan_only
    from fewmask.run.execute import execute

    keys: dict[str, Any] = {
        "data.dir": dir, "data.data_yaml": data_yaml and str(data_yaml), "method": method, "model.arch": arch,
        "model.encoder": encoder, "model.weights": weights,
        "model.init": init, "data.labelled": labelled, "data.unlabelled": unlabelled, "data.split_seed": split_seed,
        "data.unlabelled_by": unlabelled_by,
        "data.group_by": group_by, "train.seed": seed, "data.crop": crop, "data.resize": resize, "data.batch": batch,
        "data.unlabelled_batch": unlabelled_batch, "train.steps": steps, "machine.devices": devices,
        "machine.precision": precision, "machine.workers": None if workers == "auto" else workers,
        "protocol": protocol, "seeds": seeds, "folds": folds, "baseline": _baseline(baseline, no_baseline),
    }  # fmt: skip
    words = [*(settings or ()), *(["machine.workers=null"] if workers == "auto" else ())]
    asked = read_recipe(recipe, keys, words)
    if time is not None and steps is None and not any(word.startswith("train.steps=") for word in words):
        asked = asked.without("train", "steps")  # a recipe's own
    asked = for_its_length(asked)
    if plan:
        print(json.dumps(plan_only(asked, out, say, time), indent=2))
        return
    run = execute(asked, out, new=new, say=say, time=time)
    if not is_first_process():
        return  # one of several speaks
    if as_json:
        print(json.dumps(run.metrics, indent=2))
    else:
        _summary(run)


ON = "on"
"""What ``--baseline`` means that is given without a run."""


def spell_out(arguments: list[str]) -> list[str]:
    """Give ``--baseline`` its value where it has none; typer knows no option whose value may be left out."""
    out = list(arguments)
    for i, word in enumerate(out):
        following = out[i + 1] if i + 1 < len(out) else "-"
        if word == "--baseline" and (following.startswith("-") or "=" in following):
            out[i] = f"--baseline={ON}"
    return out


def _baseline(run: str | None, off: bool) -> bool | str | None:
    from fewmask.errors import ConfigError

    if off and run is not None:
        raise ConfigError("--baseline and --no-baseline contradict each other", where="command line", todo="give one")
    return False if off else True if run == ON else run


def _summary(run: Any) -> None:
    metrics = run.metrics
    say(f"run: {run.path}")
    several = f", mean of {len(metrics['seeds'])} seeds" if "seeds" in metrics else ""
    several += f", {len(metrics['folds'])} folds" if "folds" in metrics else ""
    for role in ("val", "test"):
        if metrics[role] is not None:
            best, last = metrics["best"][role]["miou"], metrics[role]["miou"]
            both = f" (last), {_percent(best)} (best on val)" if "folds" not in metrics else ""
            inside = (metrics.get("interval") or {}).get(role)
            sure = f"; 95 % interval {inside['low']:.1f} to {inside['high']:.1f}" if inside else ""
            say(f"{role} mIoU{several}, protocol {metrics['protocol']}: {_percent(last)}{both}{sure}")
    if metrics["baseline"] is not None:
        val, test = (metrics["baseline"][role] and metrics["baseline"][role]["miou"] for role in ("val", "test"))
        say(f"supervised baseline: val {_percent(val)}" + ("" if test is None else f", test {_percent(test)}"))
    if metrics["gain"] is not None:
        say(metrics["gain"]["text"])
    delivered = metrics["delivered"]
    arm = metrics["method"] if delivered["run"] == "method" else "the supervised baseline, which scores better on val"
    say(f"delivered: {arm}, {delivered['checkpoint']} checkpoint (step {delivered['step']})")
    if run.folder.report.exists():  # else a warning has said why not
        say(f"report: {run.folder.report}")
    say(f"next: {run.folder.next_steps}")


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"
