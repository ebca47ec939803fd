"""What an all-reduce of the loss does to the gradient, measured with two processes on this CPU: TorchSemiSeg, U2PL."""

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
from benchmarks.parity.u2pl_scene import Scene, contents, their_contents

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


def _join(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)


def _rank(rank: int, checkout: Checkout, setting: Setting, folder: str) -> None:
    _join(rank, folder)
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
        their_loss, their_grad = torch.load(Path(folder) / "out.pt", weights_only=True)
    case = f"{RANKS} processes against one"
    yield compare(checkout, "CPS: total", case, setting, their_loss, loss, ranks=RANKS)
    yield compare(
        checkout, "CPS: gradient of the total", case, setting, their_grad, grad, ranks=RANKS,
        departure="1/W", explained=grad / RANKS,
    )  # fmt: skip


def _contrast_rank(rank: int, checkout: Checkout, setting: Setting, folder: str) -> None:
    """Save the mean over the ranks of both sides' contrast and its gradient, and both banks; a rank has own images."""
    _join(rank, folder)
    scene = Scene(checkout, setting, delta=0.0, steps=RANKS)
    method, bank, memory = scene.method(), scene.banks(), scene.memory()

    def gather(x: Tensor) -> Tensor:
        out = [torch.empty_like(x, dtype=torch.float64) for _ in range(RANKS)]
        dist.all_gather(out, x.detach().double().contiguous())
        return torch.stack(out).to(x.dtype)

    now = replace(scene.step(rank), t=0, rank=rank, gather=gather)
    ours = scene.ours(method, rank, bank, now)["contrast"]
    theirs = scene.theirs(method, rank, memory, dist, RANKS)["contra_loss"]
    out, features = [], scene.student.features.logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch: all-reduce has no derivative, which is the point
        for loss in (theirs, ours):
            (grad,) = torch.autograd.grad(loss, features)
            out += [gather(loss).mean(0), gather(grad).mean(0)]
    classes = range(setting.classes)
    if rank == 0:
        banks = their_contents(memory, scene.length, classes), contents(bank, classes)
        torch.save((*out, *banks), Path(folder) / "out.pt")
    dist.destroy_process_group()


def all_reduced_contrast(checkout: Checkout, setting: Setting) -> Iterator[Row]:
    """U2PL's contrast, its gradient and the banks, of both sides in two processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_contrast_rank, (checkout, replace(setting), folder), nprocs=RANKS)
        their_loss, their_grad, loss, grad, theirs, ours = torch.load(Path(folder) / "out.pt", weights_only=True)
    case, switch = f"{RANKS} processes", "negatives=authors_code delta=0"
    yield compare(checkout, "U2PL: contrast", case, setting, their_loss, loss, switch=switch, ranks=RANKS)
    yield compare(checkout, "U2PL: banks", case, setting, theirs, ours, switch=switch, ranks=RANKS)
    yield compare(
        checkout, "U2PL: gradient of the contrast", case, setting, their_grad, grad, switch=switch, ranks=RANKS,
        departure="λ_c/W", explained=grad / RANKS,
    )  # fmt: skip
