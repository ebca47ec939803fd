"""Which training masks to look at again: ``fewmask suggest --relabel``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.bands import shown
from fewmask.data.files import flat_name
from fewmask.data.folds import hold_out
from fewmask.data.images import read_item
from fewmask.data.index import DataIndex, Item, MaskCode, Pools
from fewmask.data.masks import read_mask
from fewmask.data.writers import WRITERS, Tool
from fewmask.engine.progress import Ticker
from fewmask.ops.rng import Permutation
from fewmask.report.pictures import save_png, side_by_side
from fewmask.run.data import by_fold, make_pools, open_folder
from fewmask.run.folder import RunFolder
from fewmask.run.model import Model
from fewmask.run.notes import Say
from fewmask.run.written import annotated, copy_images, refuse_full, refuse_names, write_files

TABLE = "doubtful.csv"
_SURE = 0.9  # probability of another class from which a pixel speaks against its mask


@dataclass(frozen=True)
class Doubt:
    """One mask to look at again.

    Attributes:
        rank: from 1.
        name: of the image.
        score: mean cross-entropy of the model's prediction against the mask.
        against: share of the pixels where the model is sure of another class.
        reason: the same in words.
    """

    rank: int
    name: str
    score: float
    against: float
    reason: str


def relabel(
    run: Path, count: int, out: Path, say: Say, most: int | None = None, tools: Sequence[Tool] = ()
) -> list[Doubt]:  # fmt: skip
    """Rank the training masks of a run by how much its model disagrees, and write pictures of the worst.

    In a cross-fitted run that is the model of the mask's fold, which has not seen it.

    Args:
        run: a finished run.
        count: how many.
        out: the output; may not exist, or be empty.
        say: receives sentences.
        most: look at so many masks at most, drawn; None = at all.
        tools: formats in which the masks are written, too, as they are, with their images.

    Raises:
        CheckpointError: no finished run.
        ConfigError: ``out`` holds files.
        DataError: the run's data cannot be read; a tool cannot have a class of that name.
        WriteError: the disk refused.
    """
    refuse_full(out)
    folder = RunFolder(run)
    index, pools = pools_of(folder, say)
    classes = index.classes or tuple(folder.manifest()["classes"])  # names that nobody gave are those of the run
    refuse_names(tools, classes)
    drawn, doubts = Permutation(len(pools.labelled), seed=0), list[Doubt]()
    seen = [pools.labelled[drawn[i]] for i in range(min(len(pools.labelled), most or len(pools.labelled)))]
    judges = by_fold(folder, seen) or [(folder.model, item) for item in seen]
    model_of = cache(Model.load)  # at most one for each fold
    with Ticker("looking at the masks", say) as tick:
        for place, item in judges:
            doubts.append(_doubt(model_of(place), item, index.code))
            tick(len(doubts), len(seen))
    judge = {item.name: place for place, item in judges}
    doubts = sorted(doubts, key=lambda d: (-d.score, d.name))[:count]
    doubts = [replace(doubt, rank=rank) for rank, doubt in enumerate(doubts, start=1)]
    items = {item.name: item for item in seen}
    write_files(out, [(TABLE, csv_bytes(doubts))])
    for doubt in doubts:
        item = items[doubt.name]
        assert item.mask is not None
        image = read_item(item)
        prediction = model_of(judge[item.name]).predict(image)
        picture = side_by_side(shown(image, item.code.bands), read_mask(item.mask, index.code), prediction)
        save_png(picture, out / f"{doubt.rank:04d}-{flat_name(doubt.name)}.png")
    chosen = [items[doubt.name] for doubt in doubts]
    for tool in tools:
        write_files(out, WRITERS[tool]([annotated(item, index) for item in chosen], classes, False))
    if tools:
        copy_images(chosen, out)
    say(f"{len(doubts)} of {len(seen)} masks in {out}: image, mask and prediction, the most doubtful first")
    return doubts


def pools_of(folder: RunFolder, say: Say) -> tuple[DataIndex, Pools]:
    """Return the data of a run as they are now, and its labelled and unlabelled images."""
    recipe = folder.recipe()
    index, _ = open_folder(recipe, folder)
    pools = make_pools(index, recipe, say, folder)
    return hold_out(index, pools, folder.folds[recipe.fold - 1]) if recipe.fold else (index, pools)


def csv_bytes(rows: Sequence[Any]) -> bytes:
    """Return dataclasses of one kind as a table, floats with five digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(rows[0])] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 5) if isinstance(v, float) else v for k, v in asdict(row).items()} for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _doubt(model: Model, item: Item, code: MaskCode) -> Doubt:
    assert item.mask is not None
    mask, classes = read_mask(item.mask, code), len(model.classes)
    pixels, loss = 0, 0.0
    against = np.zeros((classes, classes), np.int64)  # [class of the mask, class that the model is sure of]
    for row, p in model.bands(read_item(item)):
        part = mask[row : row + p.shape[1]]
        known = part < classes
        true = part[known].astype(np.int64)
        own, label = p[:, known][true, np.arange(len(true))], p.argmax(0)[known]
        pixels += len(true)
        loss -= float(np.log(np.maximum(own, 1e-6)).sum(dtype=np.float64))
        sure = (label != true) & (p.max(0)[known] > _SURE)
        np.add.at(against, (true[sure], label[sure]), 1)
    if not pixels:
        return Doubt(0, item.name, 0.0, 0.0, "the mask holds no class")
    share = int(against.sum()) / pixels
    reason = f"the model is sure of another class at {100 * share:.1f}% of the pixels"
    if share:
        said, other = divmod(int(against.argmax()), classes)
        reason += f", mostly {model.classes[other]} where the mask says {model.classes[said]}"
    return Doubt(0, item.name, loss / pixels, share, reason)
