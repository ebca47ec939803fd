"""DARS's selection: memory, time and disk of a labelling pass, and what the selection adds to plain inference.

    .venv/bin/python benchmarks/selection.py [--json FILE]

Growth: predictions of 300 and of 600 images of 480×360 with 11 classes are drawn instead of computed, each pass in a
process of its own, interleaved; peak memory is that of the process. Overhead: the dilated PSPNet with ResNet-50 on a
few such images, labelled by DARS and predicted alone. Times are of the processor, one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewmask.data.index import Item
from fewmask.engine.evaluate import Pictures
from fewmask.engine.infer import Protocol
from fewmask.engine.label import confident, write_labels
from fewmask.nets import IMAGENET_MEAN, IMAGENET_STD, Builder
from fewmask.ops.select import Selection
from fewmask.run.environment import environment

HEIGHT, WIDTH, CLASSES = 360, 480, 11
COUNTS = (300, 600)
HOW = Selection("dars", 0.5)
SHARES = (np.arange(1, CLASSES + 1) ** 2.0) / (np.arange(1, CLASSES + 1) ** 2.0).sum()
"""Of the labelled pixels: the largest class has 121 times the smallest one's."""


def drawn(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return a prediction that costs nearly nothing: classes in blocks, many confidences close to 1."""
    rng = np.random.default_rng(int(item.name))
    blocks = rng.choice(CLASSES, (HEIGHT // 20, WIDTH // 20), p=SHARES).astype(np.uint8)
    confidence = 1 - rng.random((HEIGHT, WIDTH), dtype=np.float32) ** 4 * 0.6
    return np.kron(blocks, np.ones((20, 20), np.uint8)), confidence


def one_pass(count: int) -> dict[str, float]:
    """Label ``count`` images; return processor seconds and peak memory in MB."""
    items = [Item(str(n), Path(f"{n}.png")) for n in range(count)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_labels(drawn, items[:2], folder / "warm", HOW, [str(k) for k in range(CLASSES)], frequency=tuple(SHARES))
        start = time.process_time()
        write_labels(drawn, items, folder, HOW, [str(k) for k in range(CLASSES)], frequency=tuple(SHARES))
        seconds = time.process_time() - start
        made = json.loads((folder / "manifest.json").read_text())
        assert made["kept"] == made["wanted"] and made["divergence"] < 5e-4
    return {"seconds": seconds, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def growth(rounds: int) -> dict[str, Any]:
    """Return the slope of time over images, and the difference of peak memory, over interleaved processes."""
    found: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    for n in range(rounds):
        for count in COUNTS if n % 2 else COUNTS[::-1]:
            words = [sys.executable, __file__, "--one", str(count)]
            found[count].append(json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout))
    few, many = (found[count] for count in COUNTS)
    slopes = [
        math.log(b["seconds"] / a["seconds"]) / math.log(COUNTS[1] / COUNTS[0]) for a, b in zip(few, many, strict=True)
    ]
    return {
        "slope": {"median": statistics.median(slopes), "low": min(slopes), "high": max(slopes)},
        "memory_mb": {str(c): statistics.median(r["memory_mb"] for r in found[c]) for c in COUNTS},
        "ms_an_image": statistics.median(r["seconds"] for r in many) / COUNTS[1] * 1000,
        "bytes_a_pixel": bytes_a_pixel(), "rounds": rounds,
    }  # fmt: skip


def bytes_a_pixel() -> float:
    """Return what lies on disk when a pass has written all its labels and removed nothing, an image's pixel."""
    items = [Item(str(n), Path(f"{n}.png")) for n in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder, most = Path(name), 0.0

        def measured() -> str:
            nonlocal most
            most = max(most, sum(f.stat().st_size for f in folder.rglob("*") if f.suffix in (".bin", ".png")))
            return ""

        write_labels(
            drawn, items, folder, HOW, [str(k) for k in range(CLASSES)], frequency=tuple(SHARES), stop=measured
        )
        assert most > sum(f.stat().st_size for f in folder.glob("*.png"))
        return most / len(items) / HEIGHT / WIDTH


def overhead(images: int, rounds: int) -> dict[str, Any]:
    """Return processor time of labelling by DARS over that of predicting alone, with the network of the paper."""
    torch.set_num_threads(1)
    net = Builder("pspnet_dilated", "tu-resnet50s", CLASSES, weights="none", seed=0)("net").eval()
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    pixels = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8)
    pictures = Pictures(lambda i: pixels, lambda i: pixels[0], mean, std, torch.device("cpu"), nullcontext)
    predict = confident(net, pictures, Protocol())
    items = [Item(str(n), Path(f"{n}.png")) for n in range(images)]

    def alone() -> None:
        for item in items:
            predict(item)

    def labelling() -> None:
        with tempfile.TemporaryDirectory() as name:
            write_labels(
                predict, items, Path(name), HOW, [str(k) for k in range(CLASSES)], frequency=tuple(SHARES)
            )  # fmt: skip

    both: tuple[Callable[[], None], ...] = (alone, labelling)
    seconds: dict[str, list[float]] = {"alone": [], "labelling": []}
    for n in range(rounds + 1):
        for job in both if n % 2 else both[::-1]:
            start = time.process_time()
            job()
            if n:  # the first round warms up
                seconds[job.__name__].append(time.process_time() - start)
    ratios = [b / a for a, b in zip(seconds["alone"], seconds["labelling"], strict=True)]
    return {
        "ratio": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
        "ms_an_image": statistics.median(seconds["alone"]) / images * 1000, "images": images, "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--one", type=int, help="one pass over so many images, in this process")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one_pass(args.one)))
        return
    rows = {"growth": growth(args.rounds), "overhead": overhead(args.images, args.rounds)}
    print(json.dumps(rows, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps({"environment": environment(), **rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
