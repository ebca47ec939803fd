"""One of the two processes of point 7: ``python -m torch.distributed.run ... -m fewmask.contract OUT CASE...``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fewmask.contract.toys import Case, advance, make_learner
from fewmask.engine.flatten import networks_to_flat
from fewmask.engine.launch import launch, leave


def _rank(out: Path, cases: Sequence[Case]) -> None:
    """Be one of the two processes."""
    torch.set_num_threads(1)
    fabric = launch("cpu", "fp32")
    found: dict[str, str] = {}
    for case in cases:
        learner = make_learner(case, fabric)
        advance(learner, 0, 4)
        if all(stream.together == 1 for stream in learner.method.streams.values()):
            learner.parts = 2
            advance(learner, 4, 5)
        mine = networks_to_flat(learner.nets)
        theirs = fabric.broadcast(mine, src=0)
        differs = next((k for k in mine if not torch.equal(mine[k], theirs[k])), "")
        both: list[str] = [fabric.broadcast(differs, src=rank) for rank in range(fabric.world_size)]
        found[str(case)] = next((d for d in both if d), "")
    if fabric.global_rank == 0:
        out.write_text(json.dumps(found))
    fabric.barrier()
    leave()


if __name__ == "__main__":
    _rank(Path(sys.argv[1]), [Case(*json.loads(word)) for word in sys.argv[2:]])
