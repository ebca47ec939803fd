"""``fewmask check`` and ``fewmask split``: looking at data without training."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewmask.cli.train import UNLABELLED, UNLABELLED_BY, DataYamlFile, declared_in, say
from fewmask.errors import ConfigError, DataError, WriteError

if TYPE_CHECKING:
    from fewmask.data.datayaml import DataYaml
    from fewmask.data.findings import Finding
    from fewmask.data.index import DataIndex


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("check", no_args_is_help=True)(check)
    app.command("split", no_args_is_help=True)(split)


def check(
    dir: Annotated[Path | None, typer.Argument(metavar="[DIR]", help="Folder of images and masks.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of images, with --masks instead of DIR.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks, with --images instead of DIR.")] = None,
    data_yaml: DataYamlFile = None,
    write: Annotated[bool, typer.Option("--write", help="Write what was found to data.yaml beside the data.")] = False,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write it to this file instead.")] = None,
    group_by: Annotated[str | None, typer.Option(help="REGEX, folder, names, time or FILE.")] = None,
    sample: Annotated[
        int | None, typer.Option(help="Open only this many images, and this many of --unlabelled; else all.")
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="An index file of unlabelled images (POOL.jsonl) to look at too.")
    ] = None,
    outside: Annotated[bool, typer.Option("--outside", help="The index file may name images anywhere.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask check photos/

    Says what the data are: layout, classes, mask encoding, counts, groups, doubts. Never trains. Exit code 3 if
    something must be settled before training.
    """
    from fewmask.data.check import check as look
    from fewmask.engine.progress import Ticker

    root, declared = _place(dir, images, masks, declared_in(data_yaml))
    pool = _index_file(unlabelled)
    with Ticker("looking at the files", say) as tick:
        report = look(
            root, groups=group_by, sample=sample, pool=pool, outside=outside, declared=declared, tick=tick
        )  # fmt: skip
    if as_json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        for line in report.lines():
            print(line)
    if write or out is not None:
        questions = [one for one in report.problems if "data.yaml" in one.todo]
        _write_yaml(report.index, declared, group_by, root / "data.yaml" if out is None else out, questions)
    if report.problems:
        first, more = report.problems[0], len(report.problems) - 1
        rest = f"(and {more} more, listed on stdout)" if more else ""
        raise DataError(first.what, where=first.where, todo=" ".join(part for part in (first.todo, rest) if part))


def _index_file(unlabelled: Path | None) -> Path | None:
    """Return the file, if it is an index file: what other lists name stands in the folder."""
    from fewmask.data.pool import SUFFIX

    if unlabelled is not None and unlabelled.suffix != SUFFIX:
        raise ConfigError(
            f"--unlabelled {unlabelled} is no index file ({SUFFIX})", where="command line",
            todo="leave it away: check looks at every image of the folder, and split --check at lists",
        )  # fmt: skip
    return unlabelled


def _place(
    dir: Path | None, images: Path | None, masks: Path | None, declared: DataYaml | None
) -> tuple[Path, DataYaml | None]:
    """Return the data folder, and what counts in place of its data.yaml: a file, or two folders that were named."""
    from fewmask.data.datayaml import DataYaml

    if dir is not None and images is None and masks is None:
        return dir, declared
    if dir is not None or images is None or masks is None:
        raise ConfigError("check takes DIR, or --images and --masks", where="command line", todo="give one of them")
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError("data folder does not exist", where=folder, todo="check the path")
    root = Path(os.path.commonpath([images.resolve(), masks.resolve()]))
    places = [folder.resolve().relative_to(root).as_posix() for folder in (images, masks)]
    return root, (declared or DataYaml()).model_copy(update={"images": places[0], "masks": places[1]})


def _write_yaml(
    index: DataIndex, declared: DataYaml | None, group_by: str | None, path: Path, questions: Sequence[Finding]
) -> None:  # fmt: skip
    """Write a data.yaml that says what was found, and what it must be asked; a person edits it."""
    from fewmask.data.datayaml import FILE_NAME, DataYaml
    from fewmask.data.declared import load_data_yaml
    from fewmask.data.describe import describe
    from fewmask.engine.files import write_atomic

    said = declared or load_data_yaml(index.root) or DataYaml()
    if questions and said.classes is None and not (index.root / "classes.txt").is_file():
        index = replace(index, classes=())  # named after ids that may not be the right ones
    inside = path.resolve() == index.root.resolve() / FILE_NAME
    text = describe(index, said, group_by, questions, aside=not inside)
    if path.exists():
        raise ConfigError("the file exists; nothing is written over", where=path, todo="edit it, or give -o FILE")
    try:
        write_atomic(path, text)
    except WriteError as error:
        elsewhere = "give -o FILE in another place, which the other commands take as --data-yaml FILE"
        raise WriteError(error.what, where=path, todo=elsewhere if inside else error.todo) from error
    use = "" if inside else f"; the other commands take it as --data-yaml {shlex.quote(str(path))}"
    say(f"written: {path}; its paths are relative to {index.root}{use}")


def split(
    dirs: Annotated[list[Path], typer.Argument(metavar="DIR | LIST...", help="A data folder; with --check, lists.")],
    data_yaml: DataYamlFile = None,
    labelled: Annotated[str | None, typer.Option(help="N, N%, 1/16, or a list file.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help=UNLABELLED)] = None,
    unlabelled_by: Annotated[str | None, typer.Option(help=UNLABELLED_BY)] = None,
    encoder: Annotated[str | None, typer.Option(help="With --unlabelled-by: what looks at the images.")] = None,
    weights: Annotated[str | None, typer.Option(help="With --unlabelled-by: of the encoder.")] = None,
    split_seed: Annotated[int, typer.Option(help="Which images the draw holds.")] = 0,
    group_by: Annotated[str | None, typer.Option(help="REGEX, folder, names, time or FILE.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder for labelled.txt and unlabelled.txt.")] = None,
    doctor: Annotated[bool, typer.Option("--check", help="Examine published or own lists instead.")] = False,
    val: Annotated[Path | None, typer.Option(help="With --check: the list that is only evaluated on.")] = None,
    data: Annotated[Path | None, typer.Option(help="With --check: the images; finds absent classes and twins.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object on stdout.")] = False,
) -> None:
    """Example: fewmask split photos/ --labelled 1/16 -o splits/16

    Draws a labelled set and writes both lists, or checks lists. With --check it looks for leaks, overlaps and
    incomparable families.
    """
    if doctor:
        drawn = {"--labelled": labelled, "--unlabelled": unlabelled, "--unlabelled-by": unlabelled_by, "-o": out}
        _refuse(drawn, "--check examines lists and draws none")
        if data is None:
            _refuse({"--data-yaml": data_yaml}, "--check reads it with --data DIR")
        _check_lists(dirs, val, data, declared_in(data_yaml), as_json)
    else:
        _refuse({"--val": val, "--data": data}, "only --check reads it")
        if len(dirs) != 1 or labelled is None or out is None:
            raise ConfigError(
                "split takes one folder, --labelled and -o", where="command line", todo="see fewmask split --help"
            )
        keys = {
            "data.dir": str(dirs[0]), "data.data_yaml": data_yaml and str(data_yaml),
            "data.labelled": labelled, "data.unlabelled": unlabelled,
            "data.unlabelled_by": unlabelled_by, "data.split_seed": split_seed, "data.group_by": group_by,
            "model.encoder": encoder, "model.weights": weights,
        }  # fmt: skip
        _draw(keys, out, as_json)


def _refuse(given: dict[str, Any], why: str) -> None:
    """Refuse flags that would have no effect."""
    flag = next((flag for flag, value in given.items() if value is not None), None)
    if flag is not None:
        raise ConfigError(f"{flag} has no effect here: {why}", where="command line", todo="see fewmask split --help")


def _check_lists(
    lists: list[Path], val: Path | None, data: Path | None, declared: DataYaml | None, as_json: bool
) -> None:  # fmt: skip
    from fewmask.data.coverage import look
    from fewmask.data.doctor import diagnose
    from fewmask.data.layouts import read_folder

    diagnosis = diagnose(lists, val=val)
    seen = look(lists, read_folder(data, declared=declared)) if data is not None else []
    if as_json:
        print(json.dumps(diagnosis.to_json() | {"data": seen}, indent=2))
    else:
        for line in [*diagnosis.lines(), *(f"note: {text}" for text in seen)]:
            print(line)
    if diagnosis.problems:
        first = diagnosis.problems[0]
        more = f" (and {len(diagnosis.problems) - 1} more)" if len(diagnosis.problems) > 1 else ""
        raise DataError(f"{first.text}{more}", where="the lists", todo="take the images out of one of them")


def _draw(keys: dict[str, Any], out: Path, as_json: bool) -> None:
    from fewmask.data.divide import write_lists
    from fewmask.recipe import read_recipe
    from fewmask.run.data import make_pools, open_folder
    from fewmask.run.notes import Notes

    asked = read_recipe(None, keys)
    with Notes(say) as notes:
        index, _ = open_folder(asked)
        for note in index.notes:
            notes(note)
        pools = make_pools(index, asked, notes)
    counts = {"labelled": len(pools.labelled), "unlabelled": len(pools.unlabelled)}
    for path, count in zip(write_lists(pools, out), counts.values(), strict=True):
        say(f"{path}: {count} images")
    print(json.dumps({"out": str(out), **counts, "hash": pools.hash()}, indent=2) if as_json else pools.hash())
