"""Does ``predict`` expect the right thing? Calibrated on val, checked on images that nothing was chosen or trained on.

    python -m benchmarks.expected_accuracy RUN... --json FILE

Each RUN is a finished run whose data folder holds masks of training images that the run did not use, or test images.
Printed for each: how often the interval (eight of ten) holds the true pixel accuracy, the mean absolute difference, the
rank correlation, and the differences of a guess that is the same for all images (the mean of val).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from fewmask.data.index import Item
from fewmask.run.doubt import pools_of
from fewmask.run.folder import RunFolder
from fewmask.run.model import Model
from fewmask.run.quality import fit, measure

_MOST = 200


def check(run: Path) -> list[dict[str, float | int | str]]:
    """Return one row for each kind of images that the run has not seen."""
    folder = RunFolder(run)
    index, pools = pools_of(folder, lambda text: None)
    model, used = Model.load(folder.model, "cpu"), {item.name for item in pools.labelled}
    val = [pair for item in index.items["val"] if (pair := measure(model, item, index)) is not None]
    quality = fit(*zip(*val, strict=True))
    mean = float(np.mean([accuracy for _, accuracy in val]))
    kinds: dict[str, list[Item]] = {
        "training images without labels": [i for i in index.labelled if i.name not in used],
        "test images": list(index.items["test"]),
    }
    rows = []
    for kind, items in kinds.items():
        step = max(1, len(items) // _MOST)
        found = [pair for item in items[::step] if (pair := measure(model, item, index)) is not None]
        if not found:
            continue
        x, y = (np.array(values) for values in zip(*found, strict=True))
        told = np.array([quality.of(float(value)) for value in x])
        inside = (told[:, 1] <= y) & (y <= told[:, 2])
        rows.append({
            "run": folder.recipe().data.dir.rpartition("/")[2], "method": folder.recipe().method_name,
            "seed": folder.recipe().train.seed, "images": kind, "val": len(val), "n": len(x),
            "inside": round(float(inside.mean()), 3), "difference": round(float(np.abs(y - told[:, 0]).mean()), 2),
            "of_the_mean": round(float(np.abs(y - mean).mean()), 2),
            "rank_correlation": round(float(np.asarray(spearmanr(x, y))[0]), 2),
        })  # fmt: skip
    return rows


def main() -> None:
    """Check some runs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [row for run in args.runs for row in check(run)]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
