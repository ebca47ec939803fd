"""One of two processes: ``python -m torch.distributed.run --nproc_per_node 2 gathering.py OUT``; writes what it got."""

import json
import sys
from pathlib import Path

import torch

from fewmask.contract.toys import Case, make_learner
from fewmask.engine.launch import launch, leave


def main(out: Path) -> None:
    """Gather tensors of several shapes and dtypes that say which rank they come from."""
    torch.set_num_threads(1)
    fabric = launch("cpu", "fp32")
    rank = fabric.global_rank
    step = make_learner(Case("supervised"), fabric).step_at(0)
    mine = {
        "features": torch.arange(6.0).view(1, 3, 2) + 100 * rank,
        "real": torch.tensor([[True, rank == 1], [False, rank == 0]]),
        "counts": torch.tensor([3, 2**40]) + rank,
        "one": torch.tensor(7 + rank),
        "turned": (torch.arange(6.0).view(2, 3) + 100 * rank).T,  # not contiguous
    }
    found = {name: step.gather(x) for name, x in mine.items()}
    told = {name: [str(x.dtype), list(x.shape), x.tolist()] for name, x in found.items()}
    out.with_name(f"{rank}.json").write_text(json.dumps(told))
    fabric.barrier()
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
