"""The demo over several seeds: other scenes, other starts. Each is what ``fewmask demo --seed N`` prints.

    .venv/bin/python benchmarks/demo_seeds.py --out runs/demo-seeds

Finished demos below ``--out`` are read and not repeated. The figures go to results/demo_seeds.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev

from fewmask.demo import demonstrate

OUT = Path(__file__).parent / "results" / "demo_seeds.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    rows = []
    for seed in range(args.seeds):
        run = demonstrate(args.out / str(seed), seed=seed)
        ours, theirs = run.metrics, run.metrics["baseline"]
        row: dict[str, object] = {"seed": seed, "steps": ours["steps"], "method": ours["method"]}
        for role in ("val", "test"):
            row[role] = {"supervised": round(theirs[role]["miou"], 2), "method": round(ours[role]["miou"], 2)}
        rows.append(row | {"environment": json.loads(run.folder.environment.read_text(encoding="utf-8"))["packages"]})
        OUT.write_text(json.dumps(rows, indent=1) + "\n")
    for role in ("val", "test"):
        gains = [row[role]["method"] - row[role]["supervised"] for row in rows]
        print(role, [f"{g:+.2f}" for g in gains], f"mean {fmean(gains):+.2f} ± {stdev(gains):.2f}")


if __name__ == "__main__":
    main()
