"""How often does the verdict say "helped" where nothing can have helped? Supervised against supervised, other seeds.

    .venv/bin/python benchmarks/null_gain.py --comparisons 20

Each comparison has generated scenes of its own and three seeds a side: the command's own gain, interval and verdict.
Finished comparisons are kept in the JSON and not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import torch

from fewmask.data.scenes import write_scenes
from fewmask.recipe import read_recipe
from fewmask.run.evaluation import load_evaluation
from fewmask.run.execute import execute
from fewmask.run.folder import RunFolder
from fewmask.run.gain import gain_over

OUT = Path(__file__).parent / "results" / "null_gain.json"
KEYS = {
    "method": "supervised", "model.arch": "small", "model.encoder": "small", "model.weights": "none",
    "data.crop": "48x64", "data.augment.scale": [0.8, 1.3], "optim.lr": 3e-3, "optim.head_lr_mult": 1.0,
    "train.eval_every": 0, "train.save_every": 100000, "machine.precision": "fp32", "machine.devices": "cpu",
}  # fmt: skip
SEEDS = 3
"""Of each side; no seed serves twice, since it fixes the random start, which is good or bad for all scenes."""


def compare(number: int, steps: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = write_scenes(root / "data", labelled=8, unlabelled=0, val=24, test=0, size=(48, 64), seed=1000 + number)
        runs: dict[int, RunFolder] = {}
        first = 2 * SEEDS * number
        sides = range(first, first + SEEDS), range(first + SEEDS, first + 2 * SEEDS)
        for seed in (*sides[0], *sides[1]):
            keys = KEYS | {"data.dir": str(data), "train.steps": steps, "train.seed": seed}
            execute(read_recipe(None, keys), root / str(seed), say=lambda _: None)
            runs[seed] = RunFolder(root / str(seed))
        ours, theirs = ([runs[seed] for seed in side] for side in sides)
        classes = list(ours[0].read_metrics()["val"]["iou"])
        gain = gain_over([load_evaluation(r.evaluation, "val") for r in ours], theirs, classes)
        assert gain is not None
        scores = [runs[seed].read_metrics()["val"]["miou"] for seed in sorted(runs)]
    return {"scenes": 1000 + number, "steps": steps, "val": [round(s, 3) for s in scores], **gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--comparisons", type=int, default=20)
    parser.add_argument("--steps", type=int, default=150)
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = json.loads(OUT.read_text()) if OUT.is_file() else []
    done = [row for row in done if row["steps"] == args.steps]
    for number in range(len(done), args.comparisons):
        done.append(compare(number, args.steps))
        OUT.write_text(json.dumps(done, indent=1) + "\n")
        row = done[-1]
        print(
            f"{number + 1}: {row['miou']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}) {row['verdict']}", flush=True
        )
    verdicts = [row["verdict"] for row in done]
    print({verdict: verdicts.count(verdict) for verdict in ("helped", "hurt", "not shown")})


if __name__ == "__main__":
    main()
