"""Are labels that ``fewmask suggest`` chooses worth more than random ones? Rounds of labelling, simulated.

    FEWMASK_SHARED=… python -m benchmarks.label_budget run [--data wbc camvid] [--seeds 0 1 2] [--ways random suggest]
    python -m benchmarks.label_budget draw

From a few random training masks (6 of the white blood cells, 10 of CamVid), three rounds of as many more: those that
``suggest`` ranks first with the model of the round before, or random ones. Each round is trained supervised from
scratch, as the tables of docs/results.md are, but in fp32 on every machine, and scored on test images that chose
nothing. One JSON a training, below benchmarks/results/label_budget; what is there is not repeated, and an interrupted
training continues. ``draw`` prints the table and draws the curves of docs/results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure

from benchmarks.experiments.__main__ import SCRATCH, environment
from benchmarks.experiments.study import SHARED, WEIGHTS, data_folder, read_study
from fewmask.ops.rng import Permutation
from fewmask.recipe import read_recipe
from fewmask.run.data import read_data

OUT = Path(__file__).parent / "results" / "label_budget"
FIRST = {"wbc": 6, "camvid": 10}
ROUNDS = 3
WAYS = ("random", "suggest")
FIGURES = Path(__file__).parents[1] / "docs" / "figures"

Scores = dict[tuple[str, int], dict[str, dict[int, float]]]
"""Of a data set and a number of masks: way → seed → mIoU on test."""


def keys_of(data: str) -> dict[str, Any]:
    """Return the recipe of the comparison's supervised arm, but for seed and masks; val stays the same."""
    arm = next(e for e in read_study(data) if e.arm == "supervised")
    ours = {"data.dir": str(SCRATCH / "data" / data), "data.labelled": None, "baseline": False}
    return arm.keys | ours | {"machine.precision": "fp32"}


def names_of(data: str) -> list[str]:
    """Return the training images that have a mask and may be labelled, by name: those that are not drawn for val."""
    found = read_data(read_recipe(None, keys_of(data)), lambda text: None)
    return sorted(item.name for item in found.pools.labelled)


def random_names(pool: Sequence[str], seed: int, count: int) -> list[str]:
    """Return the first ``count`` of an order that a seed draws: smaller sets are parts of larger ones."""
    order = Permutation(len(pool), seed)
    return [pool[order[i]] for i in range(count)]


def train(data: str, seed: int, names: Sequence[str], label: str, ahead: int = 0) -> dict[str, Any]:
    """Train on some masks, unless that was done; return what is kept of the run.

    Args:
        data: the name of a data set.
        seed: of the training.
        names: the images whose masks are used.
        label: what the record is called.
        ahead: so many images that ``suggest`` names next are kept with the record: the run may be gone by then.
    """
    record = OUT / f"{data}-{seed}-{label}.json"
    listed = sorted(names)
    known: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {"names": None}
    if known["names"] == listed and (not ahead or "suggested" in known):
        return known
    run = SCRATCH / "label_budget" / f"{data}-{seed}-{label}-{hashlib.sha256(repr(listed).encode()).hexdigest()[:8]}"
    run.parent.mkdir(parents=True, exist_ok=True)
    run.with_suffix(".txt").write_text("".join(f"{name}\n" for name in listed), encoding="utf-8")
    keys = keys_of(data) | {"data.labelled": str(run.with_suffix(".txt")), "train.seed": seed}
    recipe = read_recipe(None, keys).complete()
    if recipe["model"]["weights"] == WEIGHTS:
        recipe["model"]["weights"] = str(SHARED / "weights" / f"{WEIGHTS}.safetensors")
    run.with_suffix(".yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "fewmask", "train", keys["data.dir"], "--recipe", str(run.with_suffix(".yaml"))]
    with run.with_suffix(".log").open("ab") as log:
        subprocess.run([*command, "--out", str(run)], stdout=log, stderr=log, env=environment(), check=True)
    metrics = json.loads((run / "metrics.json").read_text())
    manifest = yaml.safe_load((run / "data.yaml").read_text())
    found = {
        "data": data, "seed": seed, "label": label, "names": listed, "steps": metrics["steps"], "run": run.name,
        "test": metrics["test"], "split_hash": manifest["split_hash"], "data_hash": manifest["data_hash"],
        "packages": json.loads((run / "environment.json").read_text())["packages"], "seconds": metrics["seconds"],
    }  # fmt: skip
    if ahead:
        found["suggested"] = suggested(run, ahead)
    OUT.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{data} seed {seed} {label}: {len(listed)} masks, test {metrics['test']['miou']:.2f}", flush=True)
    return found


def chain(data: str, seed: int, ways: Sequence[str] = WAYS) -> None:
    """Carry out the rounds of one seed, one way after the other."""
    step, pool = FIRST[data], names_of(data)
    first = random_names(pool, seed, step)
    start = train(data, seed, first, "start", ahead=step)
    for way in ways:
        names, before = list(first), start
        for n in range(1, ROUNDS + 1):
            chosen = way == "suggest"
            names = names + before["suggested"] if chosen else random_names(pool, seed, step * (n + 1))
            before = train(data, seed, names, f"{way}-{n}", ahead=step if chosen and n < ROUNDS else 0)


def suggested(run: Path, count: int) -> list[str]:
    """Return what ``fewmask suggest`` names, in a process of its own: one thread for each job."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["suggest", str(run), "-n", str(count), "-o", f"{folder}/next", "--json"]
        command = [sys.executable, "-m", "fewmask", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True)
    return [one["name"] for one in json.loads(done.stdout)]


def scores() -> Scores:
    """Return what was measured; the first masks are those of both ways."""
    found: Scores = defaultdict(lambda: defaultdict(dict))
    for file in sorted(OUT.glob("*.json")):
        one = json.loads(file.read_text(encoding="utf-8"))
        for way in WAYS if one["label"] == "start" else (one["label"].partition("-")[0],):
            found[one["data"], len(one["names"])][way][one["seed"]] = one["test"]["miou"]
    return found


def table(found: Scores) -> str:
    """Return the scores as Markdown: a row a number of masks, mean ± spread over seeds, and the paired difference.

    Only seeds that were trained both ways count, in every column.
    """
    lines = ["| data | masks | random | suggest | difference, paired | seeds |", "|---|---|---|---|---|---|"]
    for (data, masks), ways in sorted(found.items()):
        both = sorted(ways["random"].keys() & ways["suggest"].keys())
        moved = [ways["suggest"][s] - ways["random"][s] for s in both]
        cells = [_mean([ways[way][s] for s in both]) for way in WAYS]
        lines.append(f"| {data} | {masks} | {' | '.join(cells)} | {_mean(moved, sign=True)} | {len(both)} |")
    return "\n".join(lines)


def draw(found: Scores, folder: Path) -> list[Path]:
    """Draw a figure for each data set, the curve of each way with every seed's points; return the files."""
    with rc_context({"svg.hashsalt": "label-budget", "svg.fonttype": "none"}):
        return [_draw(data, found, folder / f"label-budget-{data}.svg") for data in sorted({d for d, _ in found})]


def _draw(data: str, found: Scores, file: Path) -> Path:
    figure = Figure(figsize=(6, 3.6))
    axes = figure.subplots()
    for way, colour in zip(WAYS, ("tab:gray", "tab:blue"), strict=True):
        points = [(n, v) for (d, n), ways in sorted(found.items()) if d == data for v in ways[way].values()]
        sizes = sorted({n for n, _ in points})
        axes.plot(sizes, [fmean(v for n, v in points if n == size) for size in sizes], color=colour, label=way)
        axes.plot(*zip(*points, strict=True), ".", color=colour, alpha=0.5)
    axes.set(xlabel="masks", ylabel="test mIoU (%)", title=data, xticks=sorted({n for d, n in found if d == data}))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    return file


def _mean(values: Sequence[float], sign: bool = False) -> str:
    if not values:
        return "–"
    text = f"{fmean(values):{'+' if sign else ''}.2f}"
    return text + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    """Run what is missing, or print the table and draw the curves."""
    parser = argparse.ArgumentParser(description="Are labels that suggest chooses worth more than random ones?")
    parser.add_argument("action", choices=("run", "draw"))
    parser.add_argument("--data", nargs="+", default=list(FIRST))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    if args.action == "run":
        for data in args.data:
            data_folder(data, SCRATCH)
        chains = [(data, seed) for data in args.data for seed in args.seeds]
        with ThreadPoolExecutor(args.jobs) as jobs:
            list(jobs.map(lambda one: chain(one[0], one[1], args.ways), chains))
    else:
        draw(scores(), FIGURES)
    print(table(scores()))


if __name__ == "__main__":
    main()
