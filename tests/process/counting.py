"""One of two processes: ``python -m torch.distributed.run --nproc_per_node 2 counting.py OUT``; counts collectives.

For every round of every method, and some switches: the calls of ``all_reduce`` and ``all_gather`` in each of STEPS
steps, with the shape of what they carry, and those of a line of the log.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from fewmask.contract import STEPS, Case, toy_batch
from fewmask.contract.toys import make_learner
from fewmask.engine.launch import launch, leave
from fewmask.methods import METHODS

MORE = {
    "u2pl, augment=ael": Case("u2pl", {"augment": "ael"}), "fixmatch, align=0.5": Case("fixmatch", {"align": 0.5}),
    "cps, cutmix=true": Case("cps", {"cutmix": True}),
}  # fmt: skip


def main(out: Path) -> None:
    """Count the collectives of every case, and write them."""
    torch.set_num_threads(1)
    fabric = launch("cpu", "fp32")
    calls: list[str] = []
    for name in ("all_reduce", "all_gather"):
        setattr(fabric, name, _counted(getattr(fabric, name), name, calls))
    found: dict[str, Any] = {}
    cases: dict[str, Case] = {}
    for name in METHODS:
        each = Case(name).each_round()
        cases |= {name if len(each) == 1 else f"{name}, round {n}": case for n, case in enumerate(each, start=1)}
    cases |= MORE
    for name, case in cases.items():
        learner, steps = make_learner(case, fabric), []
        terms: dict[str, torch.Tensor] = {}
        for t in range(STEPS):
            calls.clear()
            terms, _ = learner.update(toy_batch(learner.method.streams, learner.slots, t), t)
            steps.append(list(calls))
        calls.clear()
        learner.sound()
        learner.mean(terms)
        found[name] = {"steps": steps, "log": list(calls)}
    if fabric.global_rank == 0:
        out.write_text(json.dumps(found))
    fabric.barrier()
    leave()


def _counted(call: Any, name: str, calls: list[str]) -> Any:
    def counted(x: torch.Tensor, *rest: Any, **more: Any) -> Any:
        calls.append(f"{name} {list(x.shape)}")
        return call(x, *rest, **more)

    return counted


if __name__ == "__main__":
    main(Path(sys.argv[1]))
