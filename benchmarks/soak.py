"""One run, killed a hundred times at random moments: does it end in the bytes of the run that nobody touched?

    .venv/bin/python benchmarks/soak.py --method dars --kills 100

Both are the same command on generated scenes, real processes from nothing. The moments are uniform over the time that
the unbroken run is at work: from the first file that it writes (its imports are over then) to metrics.json. That run
is watched, so that each moment is known as a place: a training, a count of labels, a length of the log, and the time
since. A process gets SIGKILL that long after it has come to the place of its moment; the next one continues, and goes
for the next moment. So the kills are spread over steps, saves, validations, labelling passes and scoring as their time
is, however long a start takes.

The hash covers every checkpoint, the delivered model, the pictures, the pseudo-labels and the log. The result goes to
results/soak-METHOD.json, with the place of every kill, and for each phase its share of the time and of the kills. A run
that ends before it was killed as often as asked shows too little: exit code 1.
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
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fewmask.config import load_yaml
from fewmask.data.scenes import write_scenes
from fewmask.run.environment import environment

RESULTS = Path(__file__).parent / "results"
_END = "end"
_PAUSE = 0.02  # seconds between two looks at a run folder
VARYING = {"data_wait"}  # of a line of the log: the only thing in it that time has a part in


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--method", default="dars")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, default=Path("runs/soak"))
    args = parser.parse_args()

    shutil.rmtree(args.folder, ignore_errors=True)
    data = args.folder / "data"
    write_scenes(data, labelled=6, unlabelled=24, val=6, test=4, size=(48, 64), seed=3)
    # not side by side: the one would take over the baseline of the other
    whole, killed, told = args.folder / "whole" / "run", args.folder / "killed" / "run", args.folder / "stderr"
    timeline = _watch(_start(_command(data, whole, args), told), whole, told)
    began, ended = timeline[0][0], timeline[-1][0]
    draw = random.Random(args.seed)
    moments = sorted(draw.uniform(began, ended) for _ in range(args.kills))
    kills: list[dict[str, Any]] = []
    for moment in moments:
        reached, place = [pair for pair in timeline if pair[0] <= moment][-1]
        process = _start(_command(data, killed, args), told)
        found = _kill(process, killed, told, place.order, moment - reached)
        if found is None:
            break
        kills.append({"moment": round(moment - began, 2), "aimed": vars(place) | {"after": round(moment - reached, 2)}}
                     | {"fell": found})  # fmt: skip
        print(f"kill {len(kills)}: {found}", flush=True)
    last = subprocess.run(_command(data, killed, args), check=True, capture_output=True, text=True)
    hashes = {name: fingerprint(folder) for name, folder in (("unbroken", whole), ("killed", killed))}
    row: dict[str, Any] = {
        "method": args.method, "steps": args.steps, "kills": len(kills), "asked": args.kills, "seed": args.seed,
        "seconds_at_work": round(ended - began, 1), "phases": _phases(timeline, kills), "places": kills,
        "hashes": hashes, "equal": hashes["unbroken"] == hashes["killed"], "last_words": last.stderr.splitlines()[-1],
        "environment": environment(),
    }  # fmt: skip
    args.results.mkdir(exist_ok=True, parents=True)
    (args.results / f"soak-{args.method}.json").write_text(json.dumps(row, indent=1) + "\n")
    print(json.dumps({key: row[key] for key in ("kills", "phases", "hashes", "equal")}, indent=1))
    if len(kills) < args.kills:
        raise SystemExit(f"error: the run ended after {len(kills)} kills of {args.kills}")
    sys.exit(0 if row["equal"] else 1)


@dataclass(frozen=True)
class Place:
    """How far a run has come, as far as its folder tells.

    Attributes:
        order: grows while a run works: trainings that are finished, labels of the next one, bytes of its log.
        phase: in words, such as "training" or "labelling".
        training: folder of the training, "." = the run's own, "" = none.
        step: the last one in its log.
    """

    order: tuple[int, int, int]
    phase: str
    training: str
    step: int


def _place(run: Path) -> Place:
    trainings = [*(p for p in [run / "baseline"] if p.is_dir()), *sorted((run / "rounds").glob("*"))]
    trainings += [] if (run / "rounds").is_dir() else [run]  # of several rounds its own folder is no training
    done = [t for t in trainings if (t / ("DONE" if t.parent.name == "rounds" else "metrics.json")).exists()]
    busy = next((t for t in trainings if t not in done), None)
    if busy is None:
        return Place((len(done), 0, 0), _END if (run / "metrics.json").exists() else "between trainings", "", 0)
    raw, labels = (sum(1 for _ in (busy / "pseudo").glob(pattern)) for pattern in (".raw/*", "**/*.png"))
    made = raw + labels if raw else 2 * labels  # what is raw goes when all labels are there
    log = (busy / "metrics.jsonl").read_bytes() if (busy / "metrics.jsonl").exists() else b""
    lines = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith(b"\n")]
    step = lines[-1]["step"] if lines else 0
    asked = load_yaml((busy / "config.yaml").read_bytes()) if (busy / "config.yaml").exists() else None
    scoring = asked is not None and step == asked["train"]["steps"]
    phase = "scoring" if scoring else "training" if lines else "labelling" if made else "start of a training"
    return Place((len(done), made, len(log)), phase, busy.relative_to(run).as_posix(), step)


def _start(command: list[str], told: Path) -> subprocess.Popen[bytes]:
    with told.open("wb") as out:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=out)


def _written(run: Path) -> float:
    """Return when the run folder was last written to, but for its lock."""
    times = []
    for folder, _, files in os.walk(run):
        for name in files:
            with suppress(OSError):  # a temporary file has gone
                times += [] if name.startswith(".lock") else [os.stat(os.path.join(folder, name)).st_mtime]
    return max(times, default=0.0)


def _watch(process: subprocess.Popen[bytes], run: Path, told: Path) -> list[tuple[float, Place]]:
    """Return when an unbroken run came to each place, from its first file to its end."""
    found: list[tuple[float, Place]] = []
    while process.poll() is None:
        if run.is_dir() and _written(run):
            with suppress(FileNotFoundError):
                if (place := _place(run)) not in [p for _, p in found[-1:]]:
                    found.append((time.monotonic(), place))
        time.sleep(_PAUSE)
    if process.returncode:
        raise SystemExit(f"the unbroken run ended with {process.returncode}: {told.read_text()}")
    # the report, which follows metrics.json, is no part of what is continued
    return list(found[: 1 + next(n for n, (_, place) in enumerate(found) if place.phase == _END)])


def _kill(
    process: subprocess.Popen[bytes], run: Path, told: Path, order: tuple[int, int, int], after: float
) -> dict[str, Any] | None:  # fmt: skip
    """Kill a process some time after it has come to a place; return where it fell, or None where the run has ended."""
    before, began, reached = _written(run), time.monotonic(), 0.0
    while process.poll() is None:
        with suppress(FileNotFoundError):
            # what is on disk from the process before it is no sign that this one is at work
            if not reached and _written(run) > before and _place(run).order >= order:
                reached = time.monotonic()
        if reached and time.monotonic() - reached >= after:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(min(_PAUSE, max(0.0, reached + after - time.monotonic())) if reached else _PAUSE)
    if process.wait() == -signal.SIGKILL:
        saving = any(True for _ in run.rglob(".tmp-*"))
        at = {"life": round(time.monotonic() - began, 1), "half_written": saving}
        return {k: v for k, v in vars(_place(run)).items() if k != "order"} | at
    if process.returncode:
        raise SystemExit(f"a process ended with {process.returncode}: {told.read_text()}")
    return None


def _phases(timeline: list[tuple[float, Place]], kills: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return for each phase its share of the unbroken run's time, and how many kills fell into it."""
    spent: defaultdict[str, float] = defaultdict(float)
    for (start, place), (end, _) in pairwise(timeline):
        spent[place.phase] += end - start
    fell, whole = Counter(kill["fell"]["phase"] for kill in kills), sum(spent.values())
    return {
        phase: {"time": round(spent[phase] / whole, 3), "kills": fell[phase]}
        for phase in dict.fromkeys([*spent, *fell])
    }


def _command(data: Path, out: Path, args: argparse.Namespace) -> list[str]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return [
        sys.executable, "-m", "fewmask", "train", str(data), "--out", str(out), "--method", args.method, "--arch",
        "tiny", "--weights", "none", "--crop", "32", "--batch", "2", "--unlabelled-batch", "2", "--steps",
        str(args.steps), "--precision", "fp32", "--devices", "cpu", "--workers", "0", "--baseline",
        "train.save_every=40", "train.eval_every=200", "train.log_every=5",
    ]  # fmt: skip


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
