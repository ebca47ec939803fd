"""Start-up on an index file of unlabelled images: time and memory to the first batch, and what the sampler holds.

    .venv/bin/python benchmarks/index_start.py [--entries 10000 100000 1000000] [--rounds 3] [--json FILE]

A training's data of ``--unlabelled POOL.jsonl``, from nothing to its first batch: the folder is read, every line of the
index is read once and checked, the labelled images are scanned, the pools are hashed, and step 0's images are decoded.
Each measurement is a forked process of its own with one thread; the time is the processor's (user and system, without
imports), since other work on the machine would be counted otherwise. Every line has a name of its own; the images are
eight small files, so the disk is not measured. The target is below 10 s at a million entries.

The sampler has no state: which image stands at a slot is a function of (seed, step, slot). Shown: the memory that one
look takes at each size, and the time of a look at step 0 and at step 10⁹.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import tempfile
import time
import tracemalloc
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewmask.batch import Stream
from fewmask.data.stream import ItemLoader, StepDataset, plan_slots
from fewmask.data.views import Augment
from fewmask.ops.rng import order
from fewmask.recipe import read_recipe
from fewmask.run.data import read_data
from fewmask.run.environment import environment

FILES = 8
BATCH = 4
STREAMS = {"l": Stream("labelled", ("weak",)), "u": Stream("unlabelled", ("weak", "strong"))}


def make_data(root: Path) -> Path:
    """Write eight images with masks for training, four for validation, and eight without, of 64×48 pixels."""
    rng = np.random.default_rng(0)
    for role, count in (("images/train", 8), ("images/val", 4), ("pool", FILES)):
        for n in range(count):
            path = root / role / f"{n:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
            if role != "pool":
                mask = root / role.replace("images", "masks") / f"{n:06}.png"
                mask.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 2, (48, 64), dtype=np.uint8)).save(mask)
    (root / "classes.txt").write_text("ground\ncell\n")
    return root


def make_index(root: Path, entries: int) -> Path:
    """Write an index file of so many lines."""
    path = root / f"{entries}.jsonl"
    with path.open("w") as file:
        for n in range(entries):
            file.write(f'{{"image": "pool/{n % FILES:06}.jpg", "name": "2026/05/cam1/{n:09}"}}\n')
    return path


def one_start(root: Path, index: Path) -> dict[str, float]:
    """Go from nothing to the first batch; return processor seconds, and megabytes that the process has grown by."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    data = read_data(read_recipe(None, {"data.dir": str(root), "data.unlabelled": str(index)}), lambda text: None)
    name = data.pools.hash()
    pools = time.process_time() - start
    slots = plan_slots(STREAMS, data.pools, BATCH, BATCH)
    steps = StepDataset(data.pools, STREAMS, slots, ItemLoader(data.index.code, None), (32, 32), Augment(), seed=0)
    batch = steps[0]
    seconds = time.process_time() - start
    assert len(name) == 16 and batch["u"].views[0].shape == (BATCH, 3, 32, 32)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {"seconds": seconds, "to_the_pools": pools, "memory_mb": grown, "images": len(data.pools.unlabelled)}


def sampler(entries: int) -> dict[str, float]:
    """Return the peak of memory of one look, and the median time of one, at step 0 and at step 10⁹."""
    tracemalloc.start()
    order(entries, 10**9 * BATCH, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    times: dict[int, list[float]] = {0: [], 10**9: []}
    for slot in range(200):
        for step, found in times.items():
            start = time.perf_counter()
            order(entries, step * BATCH + slot, seed=0)
            found.append(1e6 * (time.perf_counter() - start))
    first, last = (statistics.median(found) for found in times.values())
    return {"peak_bytes": peak, "us_at_step_0": first, "us_at_step_1e9": last}


def measure(sizes: list[int], rounds: int) -> dict[str, Any]:
    """Return one row an index size, and the slope of the seconds over the two largest."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = make_data(Path(name))
        for entries in sizes:
            index, found = make_index(root, entries), list[dict[str, float]]()
            for _ in range(rounds):
                with get_context("fork").Pool(1) as pool:
                    found.append(pool.apply(one_start, (root, index)))
            assert {row["images"] for row in found} == {entries}
            seconds = [row["seconds"] for row in found]
            rows.append({
                "entries": entries,
                "seconds": {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)},
                "to_the_pools": statistics.median(row["to_the_pools"] for row in found),
                "memory_mb": statistics.median(row["memory_mb"] for row in found), "sampler": sampler(entries),
            })  # fmt: skip
    out: dict[str, Any] = {"rows": rows, "rounds": rounds, "target_seconds_at_1e6": 10}
    if len(rows) > 1:
        few, many = rows[-2:]
        grown = math.log(many["seconds"]["median"] / few["seconds"]["median"])
        out["slope"] = grown / math.log(many["entries"] / few["entries"])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    rows = measure(args.entries, args.rounds)
    print(json.dumps(rows, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps({"environment": environment(), **rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
