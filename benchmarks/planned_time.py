"""How long a run takes beside what it said before it began, and how long ``--time`` makes it.

    .venv/bin/python benchmarks/planned_time.py [--minutes 3] [--methods fixmatch dars]

The demo's scenes and network, from the command to its last line, with the matched baseline: once with the demo's steps,
for each method, and once with ``--time``, which chooses the steps. Another program that uses the machine now and then
makes the ratio worse than it is. The result goes to results/planned_time.json; off by more than a quarter: exit code 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fewmask.data.scenes import write_scenes
from fewmask.demo import LABELLED, NETWORK, STEPS, UNLABELLED
from fewmask.run.environment import environment

OUT = Path(__file__).parent / "results" / "planned_time.json"
OFF = 0.25


def timed(method: str, data: Path, run: Path, words: list[str]) -> dict[str, Any]:
    """Run ``fewmask train`` and return what it planned and what it took, in seconds."""
    keys = [f"{key}={json.dumps(value)}" for key, value in NETWORK.items()]
    command = [
        sys.executable,
        "-m",
        "fewmask",
        "train",
        str(data),
        "--out",
        str(run),
        "--method",
        method,
        *words,
        *keys,
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    took = time.perf_counter() - began
    plan = json.loads((run / "plan.json").read_text(encoding="utf-8"))
    planned = plan["expected"]["seconds"]
    return {
        "method": method, "words": " ".join(words), "steps": plan["steps"], "given": plan["time"], "planned": planned,
        "took": round(took, 1), "ratio": round(took / planned, 3),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="for --time")
    parser.add_argument("--methods", nargs="+", default=["fixmatch", "dars"])
    parser.add_argument("--folder", type=Path, default=Path("runs/planned-time"))
    args = parser.parse_args()

    shutil.rmtree(args.folder, ignore_errors=True)
    data = write_scenes(args.folder / "data", labelled=LABELLED, unlabelled=UNLABELLED, seed=0)
    jobs = [(method, ["--steps", str(STEPS)]) for method in args.methods]
    jobs.append((args.methods[0], ["--time", f"{60 * args.minutes:.0f}s"]))
    rows = []
    for n, (method, words) in enumerate(jobs):
        rows.append(timed(method, data, args.folder / f"run-{n}", words))
        print(
            "{method} {words}: planned {planned:.0f} s, took {took:.0f} s, ratio {ratio:.2f}".format(**rows[-1]),
            flush=True,
        )
    OUT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(abs(row["ratio"] - 1) <= OFF for row in rows) else 1)


if __name__ == "__main__":
    main()
