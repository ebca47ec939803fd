"""U2PL's memory bank: the cost of a step's push and draws for banks of 10³ to 5·10⁴ features a class.

    .venv/bin/python benchmarks/bank_growth.py [--rounds 9] [--json FILE]

One process, interleaved rounds; the exponent of growth is the slope of log seconds over log length, a round each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch

from fewmask.methods.u2pl import U2PL
from fewmask.nets.bank import ClassBanks
from fewmask.run.environment import environment

CLASSES = 21
LENGTHS = (1_000, 3_000, 10_000, 30_000, 50_000)


def one_step(bank: ClassBanks, new: torch.Tensor, ages: torch.Tensor, anchor: torch.Tensor) -> float:
    """Draw negatives, take their cosines with the anchors, push: what U2PL does with its bank; return the seconds."""
    start = time.perf_counter()
    drawn = bank.newest(ages.flatten(1)).unflatten(1, ages.shape[1:])
    _ = drawn @ anchor.unsqueeze(-1)
    bank.push(new, torch.ones(new.shape[:2], dtype=torch.bool))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json")
    args = parser.parse_args()
    cfg = U2PL.Config()
    g = torch.Generator().manual_seed(0)
    banks = {length: ClassBanks(CLASSES, length, cfg.dim) for length in LENGTHS}
    for bank in banks.values():
        bank.features.normal_(generator=g)
        bank.pushed += bank.length  # full
    new = torch.randn(CLASSES, cfg.push, cfg.dim, generator=g)
    anchor = torch.randn(CLASSES, cfg.anchors, cfg.dim, generator=g)
    uniform = torch.rand(CLASSES, cfg.anchors, cfg.draws, generator=g)
    seconds: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for n in range(args.rounds + 1):
        for length in LENGTHS if n % 2 else LENGTHS[::-1]:
            took = one_step(banks[length], new, (uniform * length).long(), anchor)
            if n:  # the first round warms up
                seconds[length].append(took)
    rounds = np.log(np.array([seconds[length] for length in LENGTHS]))
    slopes = [float(np.polyfit(np.log(LENGTHS), column, 1)[0]) for column in rounds.T]
    row = {
        "slope": {"median": statistics.median(slopes), "low": min(slopes), "high": max(slopes)},
        "seconds": {str(length): statistics.median(s) for length, s in seconds.items()},
        "classes": CLASSES, "dim": cfg.dim, "anchors": cfg.anchors, "draws": cfg.draws, "push": cfg.push,
        "rounds": args.rounds,
    }  # fmt: skip
    print(json.dumps(row, indent=2))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"environment": environment(), "rows": [row]}, f, indent=2)


if __name__ == "__main__":
    main()
