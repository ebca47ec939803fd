"""Masks of images as files: what ``fewmask predict`` writes of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.data.bands import shown
from fewmask.data.files import image_names
from fewmask.data.geo import mask_bytes
from fewmask.data.images import georeference, loses_place
from fewmask.data.masks import id_type
from fewmask.data.mosaic import Mosaic, is_mosaic, opened_mosaic, preview_step
from fewmask.engine.files import clean_leftovers, json_text, write_atomic, write_errors
from fewmask.engine.geotiff import mask_file
from fewmask.engine.infer import Protocol
from fewmask.engine.tiles import npy_file
from fewmask.errors import ConfigError, DataError
from fewmask.report.pictures import colour_image, index_image, overlay
from fewmask.run.journal import Journal
from fewmask.run.model import Model
from fewmask.run.notes import Say
from fewmask.run.quality import FEWEST, SUMMARY, add_row, summary
from fewmask.run.quality import load as load_quality

Targets = dict[str, Path]
_IDLE = 3600.0  # seconds: several processes may write into one folder


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


def predict_files(
    model: Model, folder: Path, inputs: Sequence[Path], out: Path, tile: int | None, how: Protocol, *, probs: bool,
    averaged: bool, say: Say, along: Callable[[list[tuple[Path, str]]], Iterable[tuple[Path, str]]] = iter,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:  # fmt: skip
    """Predict images and folders of images; where the same call was stopped before, the rest of them.

    Args:
        model: the network.
        folder: its model folder.
        inputs: files and folders.
        out: the folder that is written to.
        tile: side of tiles, see ``Model.bands``.
        how: what becomes of an image, or a tile.
        probs: write probabilities too.
        averaged: over views that the expected accuracy was not learned from.
        say: receives sentences.
        along: goes through (file, name), showing how far it is.

    Returns:
        Of each image {"image", "name"} and what ``predict_file`` returns, "expected" filled in where it is known; and
        ``quality.summary`` of all of them, which is written to quality-summary.json, or None.

    Raises:
        ConfigError: a file is there already, or two images would write the same one.
        DataError: an image cannot be read.
        WriteError: the disk refused.
    """
    files = list(image_names(inputs))
    targets = {name: targets_of(out, name, file, probs) for file, name in files}
    journal = Journal(out, folder, inputs, {"probs": probs, "tile": tile, "how": how.model_dump(mode="json")})
    done = {name for name, paths in targets.items() if name in journal.rows and _all_there(paths)}
    if journal.begun:
        say(f"continuing: {len(done)} of {len(files)} images are done")
    ahead = [targets[name] for _, name in files if name not in done]
    make_room([path for paths in ahead for path in paths.values()], journal.own(targets))
    journal.begin(targets)
    if any("tiff" in targets[name] and loses_place(file) for file, name in files):
        say("WARNING: these images lie on a map, their masks will not: pip install 'fewmask[geo]'")
    quality, without = load_quality(folder), f"the model has no quality.json, which takes {FEWEST} validation images"
    if quality is not None and averaged:
        quality, without = None, "that was learned from predictions without --flip and --scales"
    for file, name in along(files):
        if name in done:
            continue
        row = {"image": str(file), "name": name, **predict_file(model, file, targets[name], tile, how)}
        if quality is not None:
            values = quality.of(row["confidence"])
            add_row(out / "quality.csv", name, row["confidence"], values)
            row["expected"] = dict(zip(("pixel_accuracy", "low", "high"), values, strict=True))
        journal.add(row)
    rows = [journal.rows[name] for _, name in files]
    together = None if quality is None else summary(quality, rows)
    if quality is None:
        say(f"no accuracy is expected: {without}")
    if together is not None:
        write_atomic(out / SUMMARY, json_text(together, indent=2) + "\n")
    journal.end()
    return rows, together


def _all_there(paths: Targets) -> bool:
    """Return whether all files of an image are there; a "tiff" only those on a map have."""
    return all(path.exists() for kind, path in paths.items() if kind != "tiff")


def predict_file(model: Model, file: Path, paths: Targets, tile: int | None, how: Protocol) -> dict[str, Any]:
    """Predict one image and write its files, each under its own name when it is whole.

    Args:
        model: the network.
        file: the image.
        paths: as ``targets_of`` returns them.
        tile: side of tiles, see ``Model.bands``.
        how: what becomes of an image, or a tile.

    Returns:
        {"mask", "height", "width", "confidence", "pixels": class → number, "expected": None}; pixels that hold nothing,
        of an image that is read in windows, are not counted.

    Raises:
        DataError: the image cannot be read.
        WriteError: the disk refused.
    """
    return (_picture if "mask" in paths else _mosaic)(model, file, paths, tile, how)


def _picture(model: Model, file: Path, paths: Targets, tile: int | None, how: Protocol) -> dict[str, Any]:
    ids, image = np.array(model.ids, id_type(model.ids)), model.read(file)
    mask, sure = np.empty(image.shape[:2], np.uint8), 0.0
    with npy_file(paths["probs"], (len(ids), *image.shape[:2])) if "probs" in paths else nullcontext() as keep:
        for row, p in model.bands(image, tile, protocol=how):
            mask[row : row + p.shape[1]] = p.argmax(0)
            sure += float(p.max(0).sum(dtype=np.float64))
            if keep is not None:
                keep(row, p)
    _save(index_image(ids[mask]), paths["mask"])
    _save(colour_image(mask), paths["colour"])
    _save(overlay(shown(image, model.card.channels), mask), paths["overlay"])
    if "tiff" in paths and (place := georeference(file)):
        write_atomic(paths["tiff"], mask_bytes(ids[mask], place))
    counts = np.bincount(mask.ravel(), minlength=len(ids))
    return _told(model, paths["mask"], mask.shape, sure / mask.size, counts)


def _mosaic(model: Model, file: Path, paths: Targets, tile: int | None, how: Protocol) -> dict[str, Any]:
    """Predict what is read in windows; a band of rows is in memory at a time."""
    with opened_mosaic(file, model.card.image_code()) as image:
        if not (model.tile_for(image, how) if tile is None else tile):
            raise DataError(
                "an image of this size is predicted in tiles, which this model or --tile 0 rules out", where=file,
                todo="cut it into smaller images",
            )  # fmt: skip
        return _windows(model, image, paths, tile, how)


def _windows(model: Model, image: Mosaic, paths: Targets, tile: int | None, how: Protocol) -> dict[str, Any]:
    ids, (height, width, _) = np.array(model.ids, id_type(model.ids)), image.shape
    nothing = _free_id(model.ids, ids.dtype)
    step, preview = preview_step(height, width), list[tuple[np.ndarray, np.ndarray]]()
    counts, sure = np.zeros(len(ids), np.int64), 0.0
    paths["tiff"].parent.mkdir(parents=True, exist_ok=True)
    keeping = npy_file(paths["probs"], (len(ids), height, width)) if "probs" in paths else nullcontext()
    with mask_file(paths["tiff"], (height, width), ids.dtype, nothing, image.place) as write, keeping as keep:
        for row, p in model.bands(image, tile, protocol=how):
            rows = (slice(row, row + p.shape[1]), slice(None))
            mask, empty = p.argmax(0).astype(np.uint8), image.empty(rows)
            write(np.where(empty, np.array(nothing, ids.dtype), ids[mask]))
            counts += np.bincount(mask[~empty], minlength=len(ids))
            sure += float(p.max(0)[~empty].sum(dtype=np.float64))
            first = -row % step  # rows of the preview are evenly spaced over all bands
            if first < p.shape[1]:
                lines = [image[row + n : row + n + 1, :][:, ::step] for n in range(first, len(mask), step)]
                # copies: a view would keep what it is a part of
                preview.append((np.concatenate(lines), mask[first::step, ::step].copy()))
            if keep is not None:
                keep(row, p)
    small, seen = (np.concatenate(parts) for parts in zip(*preview, strict=True))
    _save(overlay(shown(small, model.card.channels), seen), paths["overlay"])
    return _told(model, paths["tiff"], (height, width), sure / max(1, int(counts.sum())), counts)


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG that has its name when it is whole."""
    content = BytesIO()
    image.save(content, format="PNG")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())


def _free_id(ids: Any, dtype: np.dtype[Any]) -> int:
    """Return the largest number that is no class's id, for pixels that hold nothing."""
    return max(set(range(int(np.iinfo(dtype).max) + 1)) - {int(i) for i in ids})


def _told(model: Model, mask: Path, shape: tuple[int, ...], confidence: float, counts: np.ndarray) -> dict[str, Any]:
    return {
        "mask": str(mask), "height": shape[0], "width": shape[1], "confidence": confidence,
        "pixels": dict(zip(model.classes, counts.tolist(), strict=True)), "expected": None,
    }  # fmt: skip


def make_room(targets: list[Path], own: Collection[Path] = ()) -> None:
    """Refuse to write over a file, or two images into one; remove what killed processes left unfinished.

    Args:
        targets: what is to be written.
        own: what an earlier call of the same has written, and may be written over.

    Raises:
        ConfigError: with its name.
    """
    seen: set[Path] = set()
    for target in targets:
        if target in seen:
            raise ConfigError("two images would write the same file", where=target, todo="predict them in two calls")
        if target not in own and target.exists():
            raise ConfigError("the file exists; nothing is written over", where=target, todo="give another -o")
        seen.add(target)
    for folder in {target.parent for target in targets}:
        clean_leftovers(folder, idle=_IDLE)
