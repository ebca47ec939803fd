"""An unlabelled pool of nothing but noise: does the alarm sound, what is lost, and what does the verdict say?

    .venv/bin/python benchmarks/noise_pool.py [--steps 800] [--seeds 3] [--methods fixmatch mean_teacher cps]

The demo's scenes and network; its unlabelled images are replaced by as many pictures of uniform noise. Each method runs
as ``train`` would run it, beside its matched baseline, with three seeds. Finished methods are kept in
results/noise_pool.json and not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fewmask.data.scenes import write_scenes
from fewmask.demo import LABELLED, METHOD, NETWORK, UNLABELLED
from fewmask.recipe import read_recipe
from fewmask.run.environment import environment
from fewmask.run.execute import execute

OUT = Path(__file__).parent / "results" / "noise_pool.json"
WARNING = "WARNING: step"
"""How the monitor begins what it says."""


def noisy_data(folder: Path) -> Path:
    """Write scenes with masks, and pictures of noise of the same size without."""
    data = write_scenes(folder, labelled=LABELLED, unlabelled=0, seed=0)
    with Image.open(next((data / "images/train").iterdir())) as file:
        width, height = file.size
    rng = np.random.default_rng(0)
    for n in range(UNLABELLED):
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(data / "images/train" / f"noise-{n:03}.png")
    return data


def measure(method: str, data: Path, folder: Path, steps: int, seeds: int) -> dict[str, Any]:
    """Train a method and its baseline on noise; return what came of it."""
    own = METHOD if method == METHOD["method.name"] else {"method.name": method}
    keys = NETWORK | own | {
        "data.dir": str(data), "train.steps": steps, "seeds": seeds, "train.eval_every": 0, "machine.devices": "cpu",
        "machine.precision": "fp32",
    }  # fmt: skip
    said: list[str] = []
    run = execute(read_recipe(None, keys), folder / method, say=said.append)
    metrics = run.metrics
    return {
        "method": method, "steps": steps, "seeds": seeds, "alarms": [line for line in said if line.startswith(WARNING)],
        "val": metrics["val"]["miou"], "baseline": metrics["baseline"]["val"]["miou"], "gain": metrics["gain"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["fixmatch", "mean_teacher", "cps"])
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    told = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {"rows": []}
    for method in args.methods:
        if any(r["method"] == method and (r["steps"], r["seeds"]) == (args.steps, args.seeds) for r in told["rows"]):
            continue
        with tempfile.TemporaryDirectory() as name:
            row = measure(method, noisy_data(Path(name) / "data"), Path(name), args.steps, args.seeds)
        told["rows"].append(row)
        print(json.dumps(row, indent=1), flush=True)
        args.json.write_text(json.dumps(told | {"environment": environment()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
