"""Processes and devices: Fabric's business, kept in one place."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from inspect import signature
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch.nn.parallel import DistributedDataParallel

from fewmask.errors import ConfigError


def is_first_process() -> bool:
    """Return whether this process is rank 0, also before ``launch`` (torchrun and SLURM say so in the environment)."""
    return getattr(rank_zero_only, "rank", 0) == 0


@dataclass(frozen=True)
class Placement:
    """Where a run's processes are.

    Attributes:
        accelerator: "cpu" or "cuda".
        local: processes on this machine.
        world: processes on all machines.
        outside: who has started them: "torchrun", "SLURM", or "" = Fabric starts what is missing.
    """

    accelerator: str
    local: int
    world: int
    outside: str = ""


def _started() -> tuple[str, int, int] | None:
    """Return who has started this process with others, how many of them here, and how many in all; None = nobody."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return "torchrun", int(env["LOCAL_WORLD_SIZE"]), int(env["WORLD_SIZE"])
    # one task is no group: a batch script that calls us without srun
    if int(env.get("SLURM_NTASKS", "1")) > 1 and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        world = int(env["SLURM_NTASKS"])
        return "SLURM", int(env.get("SLURM_NTASKS_PER_NODE", world // int(env.get("SLURM_NNODES", "1")))), world
    return None


def placement(devices: str) -> Placement:
    """Return where the processes of a run are, from what was asked and what torchrun or SLURM have started.

    Args:
        devices: "auto" (every CUDA device, else one CPU process), "cpu", "cpu:N" for N processes, or a number of
            CUDA devices of this machine.

    Raises:
        ConfigError: no such devices, or as many as were started from outside.
    """
    import torch

    there = torch.cuda.device_count()
    started = _started()
    cpu = devices == "cpu" or devices.startswith("cpu:") or (devices == "auto" and not torch.cuda.is_available())
    asked = devices.removeprefix("cpu:") if cpu else devices
    if not (asked in ("auto", "cpu") or (asked.isdigit() and int(asked) > 0)):
        raise ConfigError(
            f"cannot understand devices {devices!r}", where="--devices",
            todo="use auto, cpu, cpu:N or a number of CUDA devices",
        )  # fmt: skip
    local = int(asked) if asked.isdigit() else started[1] if started else 1 if cpu else there
    if started and local != started[1]:
        raise ConfigError(
            f"{started[0]} has started {started[1]} processes on this machine, not {local}", where="--devices",
            todo="leave --devices away, or give the same number to both",
        )  # fmt: skip
    if not cpu and local > there:
        raise ConfigError(
            f"{local} CUDA devices are not here: {there} are", where="--devices",
            todo="use fewer, or cpu; under SLURM let each task see all of its machine's (--gpus-per-node)",
        )  # fmt: skip
    outside, _, world = started or ("", local, local)
    return Placement("cpu" if cpu else "cuda", local, world, outside)


def leave() -> None:
    """Close the process group, where there is one; a process that exits with it open may abort."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _meet_again(place: Placement, backend: str, timeout: timedelta) -> None:
    """Join the processes that torchrun has started once more, on one machine, after one of them was lost.

    Its store still says where those before them listened (torch 2.15; pytorch issue 135712), and whoever comes first
    would knock there. The number of the start keeps them apart. Machines count their starts each for itself, so that
    several of them need TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1: docs/scale.md.
    """
    env = os.environ
    attempt = env.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if place.outside != "torchrun" or place.world != place.local or not shared or attempt == "0":
        return
    from torch import distributed
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), place.world, False, timeout)
    distributed.init_process_group(
        backend, store=PrefixStore(f"start-{attempt}", store), rank=int(env["RANK"]),
        world_size=place.world, timeout=timeout,
    )  # fmt: skip


def launch(devices: str, precision: str, timeout: float = 1800) -> Fabric:
    """Return a launched Fabric.

    Args:
        devices: see ``placement``.
        precision: only "fp16" concerns Fabric (its gradient scaler); bf16 is an autocast of ours.
        timeout: seconds that a rank waits for the others before it gives up.

    Raises:
        ConfigError: no such devices, or fp16 on a CPU, where Fabric would compute in bf16 without a word.
    """
    place = placement(devices)
    if precision == "fp16" and place.accelerator == "cpu":
        raise ConfigError("fp16 trains on CUDA devices only", where="--precision", todo="use bf16, fp32 or auto")
    strategy: Any = "auto"
    if place.world > 1:
        # buffers are averaged by the learner: a broadcast before every forward pass would change them between the
        # passes of one step, under autograd's feet (torch 2.15 has a new name for this and warns of the old one)
        known = signature(DistributedDataParallel).parameters
        buffers: Any = {next(k for k in ("forward_sync_buffers", "broadcast_buffers") if k in known): False}
        backend, patience = "gloo" if place.accelerator == "cpu" else "nccl", timedelta(seconds=timeout)
        strategy = DDPStrategy(timeout=patience, process_group_backend=backend, **buffers)
        _meet_again(place, backend, patience)
    fabric = Fabric(
        accelerator=place.accelerator, devices=place.local, num_nodes=place.world // place.local, strategy=strategy,
        precision="16-mixed" if precision == "fp16" else "32-true",
        # a SLURM job of one task has started nothing, and is taken for one that has started everything
        plugins=[LightningEnvironment()] if "SLURM_NTASKS" in os.environ and not place.outside else [],
    )  # fmt: skip
    fabric.launch()
    return fabric
