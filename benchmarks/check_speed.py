"""Speed of ``fewmask check``: processor time a pair of an image and a mask, of the size of PASCAL VOC.

    .venv/bin/python benchmarks/check_speed.py [--pairs 1000] [--rounds 3] [--json FILE]

JPEG photographs of 500×375 pixels and about 100 kB, as VOC's, and paletted PNG masks are made in a temporary folder:
drawn shapes over grain, every one another. Each measurement is a forked process of its own with one thread: *cold* has
no memory of an earlier check, *warm* is the same check again, and *decoding* is Pillow alone opening the same files,
the least that looking at every pixel costs. The time is the processor's (user and system, without imports), since
other work on the machine would be counted otherwise. Even so it grows where other work takes the caches; the ratio of
cold to decoding, measured in turns, hardly does. The files lie in the page cache of the system, so the disk is not
measured. The target is 10,000 pairs in 60 s a core, 6 ms a pair.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fewmask.data.check import check
from fewmask.run.environment import environment

WIDTH, HEIGHT, CLASSES = 500, 375, 21
GRAIN = 14.0  # standard deviation in grey levels: JPEGs of quality 90 then have the bytes of VOC's
TARGET = 60 / 10_000  # seconds a pair


def make_pair(folder: Path, n: int, role: str) -> None:
    """Write image and mask ``n``: a few ellipses of a class on a ground with a gradient."""
    rng = np.random.default_rng(n)
    picture, mask = Image.new("RGB", (WIDTH, HEIGHT)), Image.new("L", (WIDTH, HEIGHT))
    on_picture, on_mask = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    on_picture.rectangle((0, 0, WIDTH, HEIGHT), fill=tuple(rng.integers(40, 200, 3).tolist()))
    for _ in range(int(rng.integers(2, 7))):
        x, y, w, h = (int(v) for v in rng.integers((0, 0, 40, 40), (WIDTH, HEIGHT, 250, 200)))
        box = (x - w // 2, y - h // 2, x + w // 2, y + h // 2)
        on_picture.ellipse(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
        on_mask.ellipse(box, fill=int(rng.integers(1, CLASSES)), outline=255, width=3)
    ramp = np.linspace(-30, 30, WIDTH)[None, :, None]
    pixels = np.asarray(picture) + ramp + rng.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"images/{role}/{n:05}.jpg", quality=90)
    mask.putpalette([c for i in range(256) for c in (i * 37 % 256, i * 91 % 256, i * 151 % 256)])
    mask.save(folder / f"masks/{role}/{n:05}.png")


def make_data(folder: Path, pairs: int) -> Path:
    """Write a data folder: nine of ten pairs for training, the others for validation."""
    for role in ("train", "val"):
        for kind in ("images", "masks"):
            (folder / kind / role).mkdir(parents=True)
    for n in range(pairs):
        make_pair(folder, n, "val" if n % 10 == 9 else "train")
    (folder / "classes.txt").write_text("\n".join(f"class {i}" for i in range(CLASSES)) + "\n")
    return folder


def one_check(folder: Path, memory: Path, pairs: int) -> float:
    """Check the folder once, in this process; return processor seconds."""
    start = time.process_time()
    report = check(folder, cache=memory, threads=1)
    seconds = time.process_time() - start
    assert report.opened == pairs and not report.problems and report.encodings == {"PNG, palette index": pairs}
    return seconds


def decoding(folder: Path) -> float:
    """Decode every file once by Pillow alone; return processor seconds."""
    start = time.process_time()
    for path in sorted(folder.rglob("*.jpg")) + sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            image.load()
    return time.process_time() - start


def measure(folder: Path, pairs: int, rounds: int) -> dict[str, Any]:
    """Return processor milliseconds a pair of each kind over the rounds, and cold over decoding."""
    found: dict[str, list[float]] = {"decoding": [], "cold": [], "warm": []}
    for n in range(rounds):
        memory = folder.parent / f"memory-{n}"
        for kind, times in found.items():
            with get_context("fork").Pool(1) as pool:
                job = (decoding, (folder,)) if kind == "decoding" else (one_check, (folder, memory, pairs))
                times.append(pool.apply(*job) / pairs)
        assert any(memory.iterdir())
    ratios = [cold / least for cold, least in zip(found["cold"], found["decoding"], strict=True)]
    return {"cold_over_decoding": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}} | {
        kind: {
            "ms_a_pair": {"median": 1000 * statistics.median(t), "low": 1000 * min(t), "high": 1000 * max(t)},
            "seconds_for_10000": 10_000 * statistics.median(t),
        }
        for kind, t in found.items()
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = make_data(Path(name) / "data", args.pairs)
        size = sum(f.stat().st_size for f in folder.rglob("*.jpg")) / args.pairs / 1000
        time.sleep(2.5)  # a file that has just changed is not remembered
        rows = measure(folder, args.pairs, args.rounds)
    rows |= {"pairs": args.pairs, "rounds": args.rounds, "kb_an_image": size, "target_ms_a_pair": 1000 * TARGET}
    print(json.dumps(rows, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps({"environment": environment(), **rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
