"""Masks of images as files: what ``fewmask predict`` writes of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.batch import IGNORE
from fewmask.data.bands import shown
from fewmask.data.geo import mask_bytes
from fewmask.data.images import georeference
from fewmask.data.masks import id_type
from fewmask.data.mosaic import Mosaic, opened_mosaic, pixels_without_content, preview_step
from fewmask.engine.files import json_text, write_atomic, write_errors
from fewmask.engine.geotiff import mask_file
from fewmask.engine.infer import Protocol
from fewmask.engine.tiles import npy_file
from fewmask.errors import DataError, WriteError
from fewmask.report.pictures import colour_image, index_image, overlay
from fewmask.run.journal import Journal, digest_of
from fewmask.run.model import Model
from fewmask.run.notes import Say
from fewmask.run.outputs import Named, Targets, chosen, make_room, mark, refuse_meeting, refuse_other_model, targets_of
from fewmask.run.places import Places
from fewmask.run.quality import FEWEST, FILE, SUMMARY, TABLE, Quality, summary, write_table
from fewmask.run.quality import load as load_quality


def predict_files(
    model: Model, folder: Path, inputs: Sequence[Path], out: Path, tile: int | None, how: Protocol, *, probs: bool,
    averaged: bool, say: Say, along: Callable[[list[tuple[Path, str]]], Iterable[tuple[Path, str]]] = iter,
) -> tuple[list[dict[str, Any]], dict[str, Any] | None, dict[Path, DataError]]:  # fmt: skip
    """Predict images and folders of images; where the same call was stopped before, the rest of them.

    An image that cannot be read does not stop the others.

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
        Of each image {"image", "name"} and what ``predict_file`` returns, "expected" filled in where it is known;
        ``quality.summary`` of all of them, which is written to quality-summary.json, or None; and what is wrong with
        the images that could not be read, which do not stop the others.

    Raises:
        ConfigError: a file is there already, two images would write the same one, or it is another model's folder.
        DataError: there are no images.
        WriteError: the disk refused.
    """
    every, skipped = chosen(inputs, out)
    failed: dict[Path, DataError] = {}
    files, targets = _planned(every, out, probs, failed)
    digest = digest_of(folder)
    journal = Journal(out, digest, inputs, {"probs": probs, "tile": tile, "how": how.model_dump(mode="json")})
    done = {name for name, paths in targets.items() if name in journal.rows and _all_there(paths)}
    if journal.begun:
        say(f"continuing: {len(done)} of {len(files)} images are done")
    ahead = [(file, name) for file, name in files if name not in done]
    make_room([path for _, name in ahead for path in targets[name].values()], journal.own(targets))
    refuse_other_model(out, digest, TABLE)
    if skipped:
        say(f"{skipped} images that predict wrote, or that lie in {out}, are left out")
    quality, why_not = _calibration(folder, averaged)
    places = Places(model.card.image_code(), len(every))

    def one(file: Path, name: str) -> dict[str, Any]:
        row = {"image": str(file), "name": name, **predict_file(model, file, targets[name], tile, how)}
        places.look(file, targets[name])
        if quality is not None:
            values = quality.of(row["confidence"])
            row["expected"] = dict(zip(("pixel_accuracy", "low", "high"), values, strict=True))
        return row

    journal.begin(targets)
    try:
        for n, row in enumerate(_rows(one, along(ahead), failed)):
            if not n:
                mark(out, digest, folder, targets)
            journal.add(row)
    except BaseException:
        with suppress(WriteError):  # the first error is the one to tell
            _tabulate(out, journal)
        raise
    _tabulate(out, journal)
    places.tell(say)
    rows = [journal.rows[name] for file, name in files if file not in failed]
    together = None if quality is None else summary(quality, rows)
    if quality is None and rows:
        say(f"no accuracy is expected: {why_not}")
    if together is not None:
        write_atomic(out / SUMMARY, json_text(together, indent=2) + "\n")
    if not failed:
        journal.end()
    return rows, together, failed


def _rows(
    one: Callable[[Path, str], dict[str, Any]], ahead: Iterable[Named], failed: dict[Path, DataError]
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Yield what ``one`` returns of each image; those that cannot be read go to ``failed``."""
    for file, name in ahead:
        try:
            row = one(file, name)
        except DataError as error:
            failed[file] = error
        else:
            yield row


def _calibration(folder: Path, averaged: bool) -> tuple[Quality | None, str]:
    """Return what tells the accuracy to expect, or None and why nothing does."""
    if (quality := load_quality(folder)) is None:
        return None, f"the model has no {FILE}, which takes {FEWEST} validation images"
    if averaged:
        return None, "that was learned from predictions without --flip and --scales"
    return quality, ""


def _planned(
    every: Sequence[Named], out: Path, probs: bool, failed: dict[Path, DataError]
) -> tuple[list[Named], dict[str, Targets]]:  # fmt: skip
    """Return the images that can be looked at, and what is written of each by name; the others go to ``failed``."""
    files, targets = list[Named](), list[Targets]()
    for file, name in every:
        try:
            targets.append(targets_of(out, name, file, probs))
            files.append((file, name))
        except DataError as error:
            failed[file] = error
    refuse_meeting(files, targets)
    return files, {name: paths for (_, name), paths in zip(files, targets, strict=True)}


def _tabulate(out: Path, journal: Journal) -> None:
    """Write the row of each image that is done, where something is expected of any."""
    if any(row["expected"] is not None for row in journal.rows.values()):
        write_table(out / TABLE, journal.rows.values())


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
        {"mask", "height", "width", "confidence", "pixels": class → number, "expected": None}; pixels that hold nothing
        are not counted.

    Raises:
        DataError: the image cannot be read.
        WriteError: the disk refused.
    """
    return (_picture if "mask" in paths else _mosaic)(model, file, paths, tile, how)


def _picture(model: Model, file: Path, paths: Targets, tile: int | None, how: Protocol) -> dict[str, Any]:
    image, mask_ids = model.read(file), _ids_by_class(model)
    (height, width), sure = image.shape[:2], 0.0
    mask = np.empty((height, width), np.uint8)
    found = pixels_without_content(file, model.card.image_code()) if "tiff" in paths else None
    empty = np.zeros(mask.shape, bool) if found is None else found
    with npy_file(paths["probs"], (len(model.ids), height, width)) if "probs" in paths else nullcontext() as keep:
        for row, p in model.bands(image, tile, protocol=how):
            rows = slice(row, row + p.shape[1])
            mask[rows] = np.where(empty[rows], IGNORE, p.argmax(0))
            sure += float(p.max(0)[~empty[rows]].sum(dtype=np.float64))
            if keep is not None:
                keep(row, p)
    _save(index_image(mask_ids[mask]), paths["mask"])
    _save(colour_image(mask), paths["colour"])
    _save(overlay(shown(image, model.card.channels), mask), paths["overlay"])
    if "tiff" in paths and (place := georeference(file)):
        write_atomic(paths["tiff"], mask_bytes(mask_ids[mask], place, int(mask_ids[IGNORE])))
    counts = np.bincount(mask.ravel(), minlength=IGNORE)[: len(model.ids)]
    return _told(model, paths["mask"], mask.shape, sure / max(1, int(counts.sum())), counts)


def _ids_by_class(model: Model) -> np.ndarray:
    """Return the ids that masks have for class indices, and for ``IGNORE``, pixels that hold nothing, a free one."""
    ids = np.array(model.ids, id_type(model.ids))
    found = np.full(IGNORE + 1, _free_id(model.ids, ids.dtype), ids.dtype)
    found[: len(ids)] = ids
    return found


def _mosaic(model: Model, file: Path, paths: Targets, tile: int | None, how: Protocol) -> dict[str, Any]:
    """Predict what is read in windows; a band of rows is in memory at a time."""
    with model.refusing(), opened_mosaic(file, model.card.image_code()) as image:
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
