"""Which images ``fewmask predict`` reads, and where it writes: over nothing, and never into what it reads next time."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fewmask.config import load_json
from fewmask.data.files import image_names
from fewmask.data.mosaic import is_mosaic
from fewmask.engine.files import clean_leftovers, json_text, write_atomic, write_errors
from fewmask.errors import ConfigError, DataError

Targets = dict[str, Path]
Named = tuple[Path, str]
"""A file, and the name of what is written of it."""

_MARK = ".predict.json"
_IDLE = 3600.0  # seconds: several processes may write into one folder


def chosen(inputs: Sequence[Path], out: Path) -> tuple[list[Named], int]:
    """Return the images of files and folders, and how many are left out that an earlier call has written.

    The name is the path below the folder without extension; with it, where several images would have one name.

    Args:
        inputs: files, which are taken whatever they are, and folders.
        out: the folder that is written to: what lies there is no image of a folder above it.

    Raises:
        DataError: no such file or folder, or no images in it.
    """
    found: list[Named] = []
    skipped, own = 0, cache(_own_files)
    for entry in inputs:
        named = list(image_names([entry]))
        kept = [one for one in named if not (entry.is_dir() and _is_written(one[0], entry, out, own))]
        if not kept:
            raise DataError("predict wrote all images in the folder", where=entry, todo="give a folder of photos")
        skipped += len(named) - len(kept)
        found += kept
    times = Counter(name for _, name in found)
    return [(file, name if times[name] == 1 else f"{name}{file.suffix}") for file, name in found], skipped


def _is_written(file: Path, entry: Path, out: Path, own: Any) -> bool:
    here, top, target = (Path(os.path.abspath(path)) for path in (file, entry, out))
    if top in target.parents and target in here.parents:
        return True
    folders = [folder for folder in here.parents if folder == top or top in folder.parents]
    return any(here in own(folder) for folder in folders)


def _own_files(folder: Path) -> set[Path]:
    """Return the pictures that calls of predict have written into a folder."""
    names = _mark_of(folder).get("names", [])
    places = ("{}.png", "{}.tif", "colour/{}.png", "overlay/{}.png")
    return {folder / place.format(name) for name in names for place in places}


def _mark_of(folder: Path) -> dict[str, Any]:
    """Return what a folder says of the calls that have written to it; empty = nothing, or nothing that can be read."""
    try:
        found = load_json((folder / _MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and isinstance(found.get("names"), list)
    return found if whole and all(isinstance(name, str) for name in found["names"]) else {}


def mark(out: Path, model: str, folder: Path, names: Iterable[str]) -> None:
    """Note in a folder whose masks lie there, and of which images.

    Args:
        out: the folder.
        model: ``digest_of`` it.
        folder: the model's.
        names: of the images of this call; those of earlier calls stay.

    Raises:
        WriteError: the disk refused.
    """
    every = sorted({*_mark_of(out).get("names", []), *names})
    with write_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    said = {"format": 1, "model": model, "folder": str(folder.resolve()), "names": every}
    write_atomic(out / _MARK, json_text(said) + "\n")


def refuse_other_model(out: Path, model: str, table: str) -> None:
    """Do nothing where a folder holds masks of no model but this one.

    Args:
        out: the folder.
        model: ``digest_of`` it.
        table: name of the file with a row an image, which earlier versions wrote without a note of the model.

    Raises:
        ConfigError: it has masks of another one.
    """
    said = _mark_of(out)
    if said and said.get("model") != model:
        what = f"the folder holds predictions of another model ({said.get('folder')})"
        raise ConfigError(what, where=out, todo="give another -o")
    if not said and (out / table).exists():
        what = "the file is there, and nothing says of which model"
        raise ConfigError(what, where=out / table, todo="give another -o")


def targets_of(out: Path, name: str, file: Path, probs: bool) -> Targets:
    """Return what is written of an image: kind of file to its path; "tiff" only if the image has a place on earth.

    Of an image that is read in windows: "tiff", and "overlay" as a small preview.
    """
    tiff = file.suffix.lower() in (".tif", ".tiff")
    if tiff and is_mosaic(file):
        return {"tiff": out / f"{name}.tif", "overlay": out / "overlay" / f"{name}.png"} | _probs(out, name, probs)
    paths = {"mask": out / f"{name}.png"} | {kind: out / kind / f"{name}.png" for kind in ("colour", "overlay")}
    return paths | ({"tiff": out / f"{name}.tif"} if tiff else {}) | _probs(out, name, probs)


def _probs(out: Path, name: str, wanted: bool) -> Targets:
    return {"probs": out / "probs" / f"{name}.npy"} if wanted else {}


def refuse_meeting(files: Sequence[Named], targets: Sequence[Targets]) -> None:
    """Do nothing if every file that is to be written is of one image.

    Args:
        files: the images.
        targets: what is written of each.

    Raises:
        ConfigError: with the names of both.
    """
    seen: dict[Path, Path] = {}
    for (file, _), paths in zip(files, targets, strict=True):
        for target in paths.values():
            if target in seen:
                what = f"two images would write the same file: {seen[target]} and {file}"
                raise ConfigError(what, where=target, todo="predict one of them in another call with another -o")
            seen[target] = file


def make_room(targets: Sequence[Path], own: Collection[Path] = ()) -> None:
    """Refuse to write over a file; remove what killed processes left unfinished.

    Args:
        targets: what is to be written.
        own: what an earlier call of the same has written, and may be written over.

    Raises:
        ConfigError: with its name.
    """
    for target in targets:
        if target not in own and target.exists():
            raise ConfigError("the file exists; nothing is written over", where=target, todo="give another -o")
    for folder in {target.parent for target in targets}:
        clean_leftovers(folder, idle=_IDLE)


def failure(failed: Mapping[Path, DataError], count: int) -> DataError | None:
    """Return one error for the images that could not be predicted; None = all were.

    Args:
        failed: them.
        count: of all images of the call.
    """
    if len(failed) < 2:
        return next(iter(failed.values()), None)
    first = "; ".join(f"{file.name}: {error.what}" for file, error in list(failed.items())[:3])
    what = f"{len(failed)} of {count} images are not predicted, first {first}"
    todos = {error.todo for error in failed.values()}
    todo = f"{todos.pop() if len(todos) == 1 else 'mend or remove them'}; then the same command does the rest"
    return DataError(what, where=next(iter(failed)).parent, todo=todo)
