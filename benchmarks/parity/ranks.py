"""What TorchSemiSeg's all-reduce of the loss does to the gradient, measured with two processes on this CPU."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from benchmarks.parity import torchsemiseg
from benchmarks.parity.authors import Checkout, one_cpu_process
from benchmarks.parity.compare import Row, compare
from benchmarks.parity.inputs import Setting

RANKS = 2
FOLDER = "exp.voc/voc8.res50v3+.CPS"


def gradient(checkout: Checkout, setting: Setting, rank: int, world: int) -> tuple[Tensor, Tensor]:
    """Return their loss on a rank's images, and its gradient on the tables of all ranks' images."""
    here, b, train = replace(setting), setting.batch, checkout.source(f"{FOLDER}/train.py")
    nets = {name: here.network(2 * b * RANKS).train() for name in ("f1", "f2")}
    first = 2 * b * rank
    labels = here.labels(nets["f1"].logits[first : first + b], here.valid())
    given = torchsemiseg.constants(train, checkout, FOLDER, 0)
    given["engine"].world_size = world
    given |= {
        "model": lambda images, step: (None, nets[f"f{step}"](images)),
        "dataloader": torchsemiseg.loader(data=here.codes(first), label=labels),
        "unsupervised_dataloader": torchsemiseg.loader(data=here.codes(first + b)),
    }
    with one_cpu_process(collectives=world > 1):
        loss = train.run(train.step("pbar"), **given)["loss"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: all-reduce has no derivative, which is the point
        loss.backward()
    return loss.detach(), torch.stack([net.logits.grad for net in nets.values()])


def _rank(rank: int, checkout: Checkout, setting: Setting, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    loss, grad = gradient(checkout, setting, rank, RANKS)
    dist.all_reduce(grad)
    if rank == 0:
        torch.save((loss, grad / RANKS), Path(folder) / "out.pt")  # DistributedDataParallel takes the mean
    dist.destroy_process_group()


def all_reduced_loss(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """The loss and gradient of two processes against the mean over the same two batches in one process."""
    alone = [gradient(checkout, setting, rank, 1) for rank in range(RANKS)]
    loss, grad = (torch.stack(parts).mean(0) for parts in zip(*alone, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (checkout, replace(setting), folder), nprocs=RANKS)
        their_loss, their_grad = torch.load(Path(folder) / "out.pt")
    case = f"{RANKS} processes against one"
    yield compare(checkout, "CPS: total", case, setting, their_loss, loss, ranks=RANKS)
    yield compare(
        checkout, "CPS: gradient of the total", case, setting, their_grad, grad, ranks=RANKS,
        departure="1/W", explained=grad / RANKS,
    )  # fmt: skip
