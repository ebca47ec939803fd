"""A pool of images, a network's guesses of them, and a labelling pass over them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.data.index import Item
from fewmask.engine.label import write_labels
from fewmask.engine.label_pass import Share, label_file
from fewmask.ops.select import Selection

CLASSES = ("road", "pole", "sky")
SHARE = (0.5, 0.2, 0.3)
RULES = [
    Selection("none"),
    Selection("st", 0.4),
    Selection("cbst", 0.4),
    Selection("da", 0.4),
    Selection("dars", 0.4),
    Selection("dars", 0.4, drop="image"),
]
RELABEL = Selection("cbst", 0.4, relabel=True)


def pool(n: int = 7) -> list[Item]:
    return [Item(f"video/{i}", Path(f"{i}.png")) for i in range(n)]


def guess(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images of several sizes, with many equal confidences; the pole is never seen in the first one."""
    number = int(item.name.split("/")[1])
    rng = np.random.default_rng(number)
    size = (6 + number % 3, 9)
    label = rng.integers(0, 3, size).astype(np.uint8)
    return (np.where(label == 1, 0, label) if number == 0 else label).astype(np.uint8), rng.choice(
        np.float32([0.3, 0.9, 1.0]), size
    )


def written(folder: Path, items: list[Item]) -> list[np.ndarray]:
    return [np.asarray(Image.open(label_file(folder, item))) for item in items]


def label(folder: Path, how: Selection, predict: Callable[..., Any] = guess, **more: Any) -> dict[str, Any]:
    return write_labels(predict, pool(), folder, how, CLASSES, frequency=SHARE, seed=3, **more)


def in_ranks(world: int, job: Callable[[Share], Any]) -> list[Any]:
    """Run a job in threads that sum as ranks do."""
    barrier, box, out = threading.Barrier(world), {}, [None] * world

    def work(rank: int) -> None:
        def total(counts: np.ndarray) -> np.ndarray:
            box[rank] = counts
            barrier.wait(30)
            found = np.sum([box[r] for r in range(world)], axis=0)
            barrier.wait(30)
            return found

        out[rank] = job(Share(rank, world, total))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return out
