"""How often does the forecast of a learning curve hold the score that twice the masks then reach?

    FEWMASK_SHARED=… python -m benchmarks.curve_coverage [--masks 24 48] [--draws 50]

As ``interval_coverage``: networks are logistic regressions on features of the shipped encoder, so that a draw takes
seconds. Of each draw of N training images of the white blood cells a half, a quarter and an eighth are trained on
twice, nested, and all of them once, as ``fewmask curve`` does; all are scored on the same 60 other images. What is
foretold for 2·N masks, if anything is, meets the score of a training with N further ones. Writes
results/curve_coverage-cpu2.json.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.experiments.__main__ import SCRATCH
from benchmarks.experiments.study import data_folder
from benchmarks.interval_coverage import Cells
from fewmask.data.layouts import read_folder
from fewmask.ops.interval import mean_iou
from fewmask.ops.learning import FURTHEST, LEVEL, forecast
from fewmask.ops.rng import Permutation
from fewmask.run.environment import environment

OUT = Path(__file__).parent / "results" / "curve_coverage-cpu2.json"
VAL = 60
PARTS = (8, 4, 2)
DRAWS_OF_PART = 2


def draw(cells: Cells, masks: int, number: int) -> dict[str, Any]:
    """Return the points of one draw, what came, and {"why_not"} or {"miou", "low", "high"}."""
    order = Permutation(len(cells.items), 1000 * masks + number)
    everything = [order[i] for i in range(len(cells.items))]
    val, pool = everything[:VAL], everything[VAL:]
    few, many = pool[:masks], pool[: round(FURTHEST * masks)]

    def score(chosen: list[int]) -> float:
        return float(mean_iou(cells.counts(cells.fit(chosen), val).sum(0)))

    points = [(float(masks), score(few))]
    for n in range(DRAWS_OF_PART):
        inner = Permutation(masks, number, n)
        nested = [few[inner[i]] for i in range(masks)]
        points += [(float(round(masks / of)), score(nested[: round(masks / of)])) for of in PARTS]
    seen = {"points": points, "came": score(many), "had": points[0][1]}
    found = forecast(*zip(*points, strict=True))
    if found.law is None or found.why_not:
        return seen | {"why_not": " ".join(found.why_not.split(" ")[:4])}
    miou, low, high = found.law.ahead(FURTHEST * masks, points[0][1])
    return seen | {"miou": miou, "low": low, "high": high}


def summary(draws: list[dict[str, Any]]) -> dict[str, Any]:
    """Return how often something was foretold, and how often that held."""
    told = [d for d in draws if "miou" in d]
    out: dict[str, Any] = {"draws": len(draws), "foretold": len(told)}
    out["declined"] = dict(Counter(d["why_not"] for d in draws if "why_not" in d))
    if told:
        out |= {
            "held": fmean(d["low"] <= d["came"] <= d["high"] for d in told),
            "promised_too_much": fmean(d["came"] < d["low"] for d in told),
            "width": fmean(d["high"] - d["low"] for d in told),
            "error": fmean(abs(d["miou"] - d["came"]) for d in told),
            "gain": fmean(d["came"] - d["had"] for d in told),
            "gain_foretold": fmean(d["miou"] - d["had"] for d in told),
        }  # fmt: skip
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--masks", type=int, nargs="+", default=[24, 48])
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument("--json", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = Cells(read_folder(data_folder("wbc", SCRATCH)))
    rows, each = {}, {}
    for masks in args.masks:
        each[masks] = [draw(cells, masks, number) for number in range(args.draws)]
        rows[masks] = summary(each[masks])
        print(f"{masks} masks: {json.dumps(rows[masks])}", flush=True)
    told = {"images": len(cells.items), "val": VAL, "level": LEVEL, "masks": rows, "environment": environment()}
    kept = {n: [{"points": d["points"], "came": d["came"]} for d in draws] for n, draws in each.items()}
    args.json.write_text(json.dumps(told | {"draws": kept}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
