"""Run studies, and build tables from their results.

    python -m benchmarks.experiments status [STUDY...]
    python -m benchmarks.experiments run STUDY... [--arms NAME...] [--jobs 2] [--keep-older]
    python -m benchmarks.experiments same STUDY... --older TREE
    python -m benchmarks.experiments tables

One finished run is one JSON below ``results/STUDY/``, named by the hashes of its configuration and of the source that
computes it; a run whose JSON is there is not repeated, an interrupted one continues.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.experiments.same import compare, is_current
from benchmarks.experiments.source import source_hash
from benchmarks.experiments.study import HERE, SHARED, WEIGHTS, Experiment, data_folder, read_study

SCRATCH = Path(os.environ.get("FEWMASK_SCRATCH", "runs/experiments"))
"""Where run folders are, until their figures are in the JSON."""


def finished(experiment: Experiment, older: bool) -> list[Path]:
    """Return results of this configuration: of this source or one that is proved to be equal, or of any (``older``)."""
    return _results_of(experiment, experiment.study, older)


def _results_of(experiment: Experiment, study: str, older: bool) -> list[Path]:
    """Return the files of a configuration in a study, or in "*", all of them; see ``finished``."""
    there = sorted((HERE / "results").glob(f"{study}/{experiment.config_key()}-*.json"))
    hashes = [path.stem.rpartition("-")[2] for path in there]
    return [
        path for path, hash in zip(there, hashes, strict=True)
        if older or is_current(experiment.keys, experiment.data, hash)
    ]  # fmt: skip


def adopt(experiment: Experiment, older: bool = False) -> bool:
    """Take over what another study has found with this configuration; return whether there was such.

    Args:
        experiment: the run.
        older: of any source, not of this one alone.
    """
    for path in _results_of(experiment, "*", older):
        record = json.loads(path.read_text(encoding="utf-8"))
        record |= {"study": experiment.study, "arm": experiment.arm}
        _write(HERE / "results" / experiment.study / path.name, record)
        return True
    return False


def _write(target: Path, record: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def carry_out(experiment: Experiment, older: bool = False) -> str:
    """Train one run in a process of its own and write its JSON; return a line for the log."""
    if adopt(experiment, older):  # asked now, not at the start: a run before this one may have been the same
        return f"{experiment.data} {experiment.arm} seed {experiment.keys['train.seed']}: another study has it"
    folder, out = SCRATCH / "data" / experiment.data, SCRATCH / experiment.study / experiment.key()
    recipe = experiment.recipe(str(folder))
    if recipe["model"]["weights"] == WEIGHTS:
        recipe["model"]["weights"] = str(SHARED / "weights" / f"{WEIGHTS}.safetensors")
    if (recipe["data"]["labelled"] or "").endswith(".txt"):
        recipe["data"]["labelled"] = str(folder / recipe["data"]["labelled"])
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "fewmask", "train", str(folder), "--recipe", str(file), "--out", str(out)]
    with out.with_suffix(".log").open("ab") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=environment(), check=False).returncode
    if code:
        return f"FAILED ({code}) {experiment.arm} on {experiment.data}: see {out.with_suffix('.log')}"
    record = collect(experiment, out)
    _write(experiment.result(), record)
    for checkpoints in out.rglob("checkpoints"):  # a hundred MB a run; model/ and pictures/ are what is looked at
        shutil.rmtree(checkpoints)
    scores = {role: s and s["miou"] for role in ("val", "test") for s in [record["metrics"][role]]}
    return f"{experiment.data} {experiment.arm} seed {experiment.keys['train.seed']}: {scores}"


def environment() -> dict[str, str]:
    """One thread for each job: two jobs then share two cores without fighting."""
    return os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def collect(experiment: Experiment, run: Path) -> dict[str, Any]:
    """Return what is kept of a run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    manifest = yaml.safe_load((run / "data.yaml").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    stored = yaml.safe_load((run / "config.yaml").read_text())
    machine = json.loads((run / "environment.json").read_text())
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    names = ("data_hash", "split_hash", "labelled", "unlabelled", "val", "test", "classes", "labelled_names")
    return {
        "study": experiment.study, "arm": experiment.arm, "data": experiment.data, "keys": experiment.keys,
        "config_key": experiment.config_key(), "source_hash": source_hash(experiment.method),
        "commit": git.stdout.strip(), "precision": stored["machine"]["precision"],
        "manifest": {k: manifest[k] for k in names},
        "environment": {k: machine[k] for k in ("fewmask", "python", "packages", "cpu", "cores", "threads", "cuda")},
        "metrics": metrics,
        "curve": [{"step": r["step"], "val": r["val"], "iou": r["val_iou"]} for r in lines if "val" in r],
        "kept": _kept(lines),
    }  # fmt: skip


def _kept(lines: list[dict[str, Any]], points: int = 20) -> list[list[float]]:
    """Return [step, mean share of kept pixels since the point before], for at most ``points`` points."""
    kept = [(r["step"], r["kept"]) for r in lines if "kept" in r]
    size = max(1, -(-len(kept) // points))
    chunks = [kept[i : i + size] for i in range(0, len(kept), size)]
    return [[chunk[-1][0], round(sum(k for _, k in chunk) / len(chunk), 4)] for chunk in chunks]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("status", "run", "same", "tables"))
    parser.add_argument("studies", nargs="*")
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--seeds", nargs="*", type=int, help="only these")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--keep-older", action="store_true", help="skip what an older source has finished")
    parser.add_argument("--older", type=Path, help="another checkout, to compare with")
    parser.add_argument("--lacks", nargs="*", default=[], help="keys that it does not know")
    parser.add_argument("--precision", help="of the steps that same takes, in place of the arms' own")
    args = parser.parse_args()
    if args.action == "tables":
        from benchmarks.experiments.tables import write_tables

        write_tables()
        return
    names = args.studies or sorted(p.stem for p in (HERE / "studies").glob("*.yaml"))
    runs = [e for name in names for e in read_study(name) if args.arms is None or e.arm in args.arms]
    runs = [e for e in runs if args.seeds is None or e.keys["train.seed"] in args.seeds]
    if unknown := {*(args.arms or ())} - {e.arm for e in runs}:
        parser.error(f"no such arm: {', '.join(sorted(unknown))}")
    if args.action == "same":
        if args.older is None:
            parser.error("same needs --older TREE")
        sys.exit(0 if compare(runs, args.older.resolve(), SCRATCH.resolve(), args.lacks, args.precision) else 1)
    open_runs = [e for e in runs if not finished(e, args.keep_older)]
    print(f"{len(runs)} runs, {len(open_runs)} not finished", flush=True)
    if args.action == "status":
        for e in open_runs:
            older = " (an older source has)" if finished(e, older=True) else ""
            print(f"  {e.key()} {e.study}: {e.data} {e.arm} seed {e.keys['train.seed']}{older}")
        return
    for name in {e.data for e in open_runs}:
        data_folder(name, SCRATCH)  # before the jobs, which would make the same links at once
    with ThreadPoolExecutor(args.jobs) as pool:
        failed = 0
        for line in pool.map(partial(carry_out, older=args.keep_older), open_runs):
            failed += line.startswith("FAILED")
            print(line, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
