"""One run, killed a hundred times at random moments: does it end in the bytes of the run that nobody touched?

    .venv/bin/python benchmarks/soak.py --method dars --kills 100

Both are the same command on generated scenes, real processes from nothing, SIGKILL after a uniformly random time: among
the moments are imports, the scan, steps, saves, validations, labelling passes and the scoring at the end. The hash
covers every checkpoint, the delivered model, the pictures, the pseudo-labels and the log. The result goes to
results/soak-METHOD.json. A run that ends before it was killed as often as asked shows too little: exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from fewmask.data.scenes import write_scenes
from fewmask.run.environment import environment

RESULTS = Path(__file__).parent / "results"
VARYING = {"data_wait"}  # of a line of the log: the only thing in it that time has a part in


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="dars")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--longest", type=float, default=14.0, help="seconds that a process lives at most")
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()

    shutil.rmtree(args.folder, ignore_errors=True)
    data = args.folder / "data"
    write_scenes(data, labelled=6, unlabelled=24, val=6, test=4, size=(48, 64), seed=3)
    whole, killed = args.folder / "whole", args.folder / "killed"
    began = time.perf_counter()
    subprocess.run(_command(data, whole, args), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    unbroken = time.perf_counter() - began

    moments = random.Random(args.seed)
    places: Counter[str] = Counter()
    lives = kills = 0
    while kills < args.kills and not (killed / "metrics.json").exists():
        process = subprocess.Popen(
            _command(data, killed, args), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        lives += 1
        try:
            process.wait(moments.uniform(0, args.longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        _, told = process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            places[_place(killed)] += 1
        elif process.returncode != 0:
            raise SystemExit(f"life {lives} ended with {process.returncode}: {told}")
        print(f"kill {kills}: {_place(killed)}", flush=True)
    last = subprocess.run(_command(data, killed, args), check=True, capture_output=True, text=True)
    hashes = {name: fingerprint(folder) for name, folder in (("unbroken", whole), ("killed", killed))}
    row: dict[str, Any] = {
        "method": args.method, "steps": args.steps, "kills": kills, "asked": args.kills, "seed": args.seed,
        "longest": args.longest, "seconds_unbroken": round(unbroken, 1), "reached": dict(places), "hashes": hashes,
        "equal": hashes["unbroken"] == hashes["killed"], "last_words": last.stderr.splitlines()[-1],
        "environment": environment(),
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"soak-{args.method}.json").write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps({key: row[key] for key in ("kills", "reached", "hashes", "equal")}, indent=1))
    if kills < args.kills:
        raise SystemExit(f"error: the run ended after {kills} kills of {args.kills}; give more --steps")
    sys.exit(0 if row["equal"] else 1)


def _command(data: Path, out: Path, args: argparse.Namespace) -> list[str]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return [
        sys.executable, "-m", "fewmask", "train", str(data), "--out", str(out), "--method", args.method, "--arch",
        "tiny", "--weights", "none", "--crop", "32", "--batch", "2", "--unlabelled-batch", "2", "--steps",
        str(args.steps), "--precision", "fp32", "--devices", "cpu", "--workers", "0", "--baseline",
        "train.save_every=40", "train.eval_every=200", "train.log_every=5",
    ]  # fmt: skip


def _place(run: Path) -> str:
    """Return how far a run has come, as a word."""
    trainings = [run / "baseline", *sorted((run / "rounds").glob("*"))] or [run]
    busy = next((t for t in trainings if not (t / "metrics.json").exists()), run)
    if not (run / "config.yaml").exists():
        return "before it began"
    if any((busy / "pseudo").glob("**/*.png")) and not (busy / "metrics.jsonl").exists():
        return f"labelling for {busy.name}"
    return "scoring" if busy == run else f"in {busy.name}"


def fingerprint(run: Path) -> str:
    """Return one hash of everything that a run leaves and that time has no part in."""
    digest = hashlib.sha256()
    patterns = ("**/*.safetensors", "**/pictures/*", "**/pseudo/**/*.png", "**/classes.txt")
    for path in sorted({p for pattern in patterns for p in run.glob(pattern) if p.is_file()}):
        digest.update(str(path.relative_to(run)).encode() + path.read_bytes())
    for log in sorted(run.glob("**/metrics.jsonl")):
        for line in log.read_text().splitlines():
            record = {key: value for key, value in json.loads(line).items() if key not in VARYING}
            digest.update(json.dumps(record, sort_keys=True).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
