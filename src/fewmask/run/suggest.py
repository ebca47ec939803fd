"""What to label next: ``fewmask suggest``."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from fewmask.data.bands import shown
from fewmask.data.duplicates import kin, thumbnail
from fewmask.data.images import read_item
from fewmask.data.index import Item
from fewmask.data.writers import WRITERS, Annotated, Tool
from fewmask.engine.files import write_atomic
from fewmask.engine.progress import Ticker
from fewmask.errors import ConfigError, DataError
from fewmask.method import Task
from fewmask.nets.segmenter import Segmenter
from fewmask.ops.rank import by_covered_worth, distance, nearest_to
from fewmask.ops.rng import Permutation
from fewmask.run.again import init_command
from fewmask.run.doubt import csv_bytes, pools_of
from fewmask.run.folder import RunFolder
from fewmask.run.guesses import FILE, guess_bytes
from fewmask.run.look import SIDE, Look
from fewmask.run.model import Model
from fewmask.run.notes import Say
from fewmask.run.written import SUGGESTIONS, copy_images, refuse_full, refuse_names, write_files

_BATCH = 16
_MOST_KIN = 20_000  # pictures that are compared with each other


@dataclass(frozen=True)
class Suggestion:
    """One image to label.

    Attributes:
        rank: from 1.
        name: of the image.
        score: what share of the pool's worth it brings close to a label, worth being the root of uncertainty · rarity:
            what the order follows.
        uncertainty: mean entropy of its pixels, as a share of the greatest possible, 0..1.
        rarity: how rare its predicted classes are among the labelled pixels; 1 = as they are there.
        distance: to what is labelled and was chosen before it, (1 - cosine) / 2 of the encoder's features.
        near: unlabelled images, itself too, that are nearer to it than to any other that is labelled or chosen.
        copies: images of the pool that show nearly the same, and are not suggested beside it.
        reason: the same in words.
    """

    rank: int
    name: str
    score: float
    uncertainty: float
    rarity: float
    distance: float
    near: int
    copies: int
    reason: str


@dataclass
class _Seen:
    """What one pass over images found: vectors [N, D], mean probabilities [N, K], entropies [N], thumbnails."""

    vectors: Tensor
    shares: np.ndarray
    entropy: np.ndarray
    thumbnails: list[Any]
    places: list[int]


def suggest(run: Path, count: int, out: Path | None, tools: Sequence[Tool], say: Say) -> list[Suggestion]:
    """Rank the unlabelled images of a run and write the best with the model's masks, for a labelling tool.

    The order is greedy: each is the one that brings most of the pool's worth close to a label (``ops.rank``). An
    image's worth is the root of uncertainty · rarity; the root, because a network of few masks is often wrong about
    both (benchmarks/suggest_rules.py).

    Args:
        run: a finished run; its delivered model predicts.
        count: how many.
        out: the output; may not exist, or be empty; None = nothing is written.
        tools: formats of the masks.
        say: receives sentences.

    Raises:
        CheckpointError: no finished run.
        ConfigError: ``out`` holds files; no image is asked for.
        DataError: the run's data cannot be read, or nothing is unlabelled; a tool cannot have a class of that name.
        WriteError: the disk refused.
    """
    folder, model = RunFolder(run), Model.load(RunFolder(run).model)
    if out is not None:
        refuse_full(out)
        refuse_names(tools, model.classes)
    index, pools = pools_of(folder, say)
    pool = list(pools.unlabelled)
    if not pool:
        raise DataError("every image of the run's data has a mask", where=index.root, todo="add images")
    if count < 1:
        raise ConfigError(f"-n {count} of {len(pool)} unlabelled images", todo="use 1 or more")
    if count > len(pool):
        say(f"-n {count}: only {len(pool)} images are unlabelled")
        count = len(pool)
    before, seen = _look(model, pools.labelled, say, "labelled"), _look(model, pool, say, "unlabelled", skip=True)
    pixels = list(folder.manifest()["labelled_pixels"].values())
    frequency = np.array(Task.of(pixels).frequency or [1.0] * len(pixels))
    rarity = rarity_of(seen.shares, frequency)
    same = _kin(seen, before, say)
    worth, usual = (
        torch.from_numpy(np.sqrt(seen.entropy * rarity)),
        float(distance(seen.vectors.double(), before.vectors.double()).median()),
    )
    order, covers, far, inside = _order(seen.vectors, before.vectors, worth, same, count, say)
    near = nearest_to(seen.vectors.double(), seen.vectors[order].double(), before.vectors.double())
    found = [
        Suggestion(
            rank, pool[seen.places[i]].name, score, float(seen.entropy[i]), float(rarity[i]), away, many,
            len(inside[i]), _why(i, seen, frequency, model.classes, away > usual, many, len(inside[i])),
        )
        for rank, (i, score, away, many) in enumerate(
            zip(order.tolist(), covers.tolist(), far.tolist(), near.tolist(), strict=True), start=1
        )
    ]  # fmt: skip
    if len(found) < count:
        say(f"{len(found)} images, not {count}: the others are near-duplicates of these or of labelled ones")
    if out is None:
        return found
    chosen = [pool[seen.places[i]] for i in order.tolist()]
    _write(out, chosen, found, model, tools, run, index.root)
    say(f"{len(found)} of {len(pool)} unlabelled images in {out}; what to do with them: {out / 'NEXT_STEPS.txt'}")
    return found


def _order(
    seen_ND: Tensor, before_MD: Tensor, worth_N: Tensor, same: Sequence[Sequence[int]], count: int, say: Say
) -> tuple[Tensor, Tensor, Tensor, list[list[int]]]:  # fmt: skip
    """Return the places of the best images, what each covers, how far it is from those before it, and near-duplicates.

    Args:
        seen_ND: vectors of the unlabelled images.
        before_MD: those of the labelled ones.
        worth_N: what a label of each is worth.
        same: as ``_kin`` returns them; images that are near-duplicates of labelled ones are passed over.
        count: how many.
        say: receives sentences.
    """
    fresh = [i for i, others in enumerate(same) if all(o < len(same) for o in others)]
    if known := len(same) - len(fresh):
        say(f"{known} unlabelled images are near-duplicates of labelled ones and are passed over")
    place, kept = {i: n for n, i in enumerate(fresh)}, torch.tensor(fresh, dtype=torch.int64)
    inside = [[o for o in others if o in place] for others in same]
    among = None
    if len(fresh) > _MOST_KIN:
        drawn = Permutation(len(fresh), 0)
        among = torch.tensor(sorted(drawn[n] for n in range(_MOST_KIN)))
        say(f"{_MOST_KIN} of {len(fresh)} images, drawn, stand for all of them where it is counted what is covered")
    order, covers, far = by_covered_worth(
        seen_ND[kept].double(), worth_N[kept], before_MD.double(), min(count, len(fresh)),
        [[place[o] for o in inside[i]] for i in fresh], among,
    )  # fmt: skip
    return kept[order], covers, far, inside


def _look(model: Model, items: Sequence[Item], say: Say, what: str, skip: bool = False) -> _Seen:
    """Predict every image once; files are read ahead."""
    assert isinstance(model.net, Segmenter), "build makes Segmenters"
    look = Look(model.net, model.device, model.card.channels)
    seen = _Seen(torch.empty(0), np.empty(0), np.empty(0), [], [])
    vectors, shares, entropy, small = list[Tensor](), list[np.ndarray](), list[float](), list[Tensor]()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads, Ticker(f"looking at {what} images", say) as tick:
        for place, pixels in enumerate(_ahead(threads, items, skip)):
            if pixels is not None:
                share, bits = _share_and_entropy(model, pixels)
                shares.append(share)
                entropy.append(bits)
                tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
                small.append(TF.resize(tensor, [SIDE, SIDE], antialias=True))
                seen.thumbnails.append(thumbnail(Image.fromarray(shown(pixels, model.card.channels)).convert("L")))
                seen.places.append(place)
            if len(small) == _BATCH or (small and place + 1 == len(items)):
                vectors.append(look.vectors(small))
                small = []
            tick(place + 1, len(items))
    if lost := len(items) - len(seen.places):
        say(f"WARNING: {lost} {what} images cannot be read and are passed over")
    seen.vectors = torch.cat(vectors) if vectors else torch.empty(0, 1)
    seen.shares, seen.entropy = np.array(shares), np.array(entropy)
    return seen


def _share_and_entropy(model: Model, pixels: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the mean probabilities [K] of an image and its mean entropy, as a share of the greatest possible."""
    total, bits = np.zeros(len(model.classes)), 0.0
    for _, p in model.bands(pixels):
        total += p.sum((1, 2), dtype=np.float64)
        bits -= float((p * np.log(np.maximum(p, 1e-12))).sum(dtype=np.float64))
    count = pixels.shape[0] * pixels.shape[1]
    return total / count, bits / (count * math.log(max(2, len(total))))


def _ahead(threads: ThreadPoolExecutor, items: Sequence[Item], skip: bool) -> Iterator[np.ndarray | None]:
    """Yield the pixels of each image, a few read ahead."""

    def read(item: Item) -> np.ndarray | None:
        try:
            return read_item(item)
        except DataError:
            if skip:
                return None
            raise

    rest = iter(items)
    waiting = [threads.submit(read, item) for item in islice(rest, 4)]
    while waiting:
        done = waiting.pop(0)
        waiting += [threads.submit(read, item) for item in islice(rest, 1)]
        yield done.result()


def rarity_of(shares_NK: np.ndarray, frequency_K: np.ndarray) -> np.ndarray:
    """Return how rare the predicted classes of each image are, 1 = as among the labelled pixels, at most 4.

    A class weighs 1/√frequency, so that one of a thousandth of the pixels counts ten times one of a tenth, and no class
    everything.
    """
    weight = 1 / np.sqrt(np.maximum(frequency_K, 1e-4))
    return np.clip((shares_NK @ weight) / float(frequency_K @ weight), 0.25, 4.0)


def _kin(seen: _Seen, before: _Seen, say: Say) -> list[list[int]]:
    """Return near-duplicates by place; places from the number of unlabelled images on are labelled ones."""
    both = [*seen.thumbnails, *before.thumbnails]
    if len(both) > _MOST_KIN:
        say(f"near-duplicates were not looked for: {len(both)} images are more than {_MOST_KIN}")
        return [[] for _ in seen.places]
    return kin(both)[: len(seen.places)]


def _why(
    i: int, seen: _Seen, frequency: np.ndarray, classes: Sequence[str], unlike: bool, near: int, copies: int
) -> str:  # fmt: skip
    """Return the reason in words: whom it stands for, and what is out of the ordinary."""
    below = 100 * float((seen.entropy < seen.entropy[i]).mean())
    said = [f"less certain than {below:.0f}% of the pool"] if below >= 50 else []
    ratio = seen.shares[i] / np.maximum(frequency, 1e-4)
    rare = [k for k in np.argsort(-ratio) if ratio[k] > 1.5 and seen.shares[i, k] > 0.005 and frequency[k] < 0.1]
    if rare:
        parts = [f"{classes[k]} ({100 * seen.shares[i, k]:.1f}%, else {100 * frequency[k]:.1f}%)" for k in rare[:2]]
        said.append(f"may show {' and '.join(parts)}")
    if unlike:
        said.append("unlike what is labelled")
    if copies:
        said.append(f"stands for {copies} near-duplicates")
    if near > 1:
        said.append(f"the nearest to {near - 1} others of the pool")
    return "; ".join(said) or f"entropy {100 * seen.entropy[i]:.0f}% of the greatest possible"


def _write(
    out: Path, items: Sequence[Item], found: Sequence[Suggestion], model: Model, tools: Sequence[Tool], run: Path,
    root: Path,
) -> None:  # fmt: skip
    ones = [Annotated(i.name, f"{i.name}{i.image.suffix}", model.predict(read_item(i))) for i in items]
    write_files(out, [(SUGGESTIONS, csv_bytes(found)), (FILE, guess_bytes(ones, model.classes))])
    copy_images(items, out)
    for tool in tools:
        write_files(out, WRITERS[tool](ones, model.classes, True))
    q = [shlex.quote(str(path)) for path in (out, root)]
    again = init_command(RunFolder(run).recipe(), run)
    source, what = (q[0], ", those in masks/") if "png" in tools else ("EXPORTED.zip", ": what the tool exports")
    text = _NEXT.format(out=q[0], root=q[1], count=len(items), again=again, source=source, what=what)
    write_atomic(out / "NEXT_STEPS.txt", text)


_NEXT = """\
# {count} images to label next, in images/; why each: suggestions.csv
# Their masks are the model's guesses. Correct them in your tool, or draw your own:
#   png          masks/ are index PNGs, the line of a class in classes.txt is its id (0 first)
#   cvat         a task with images/, then Actions, Upload annotations, "Segmentation mask 1.1": cvat.zip
#   coco         annotations/instances_default.json, for CVAT, FiftyOne and others
#   labelstudio  a project with interface.xml, local storage {out}, then import tasks.json

# take the corrected masks back{what}
fewmask labels import {source} {root}

# train again, from the networks of this run
{again}
"""
