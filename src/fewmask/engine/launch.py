"""Processes and devices: Fabric's business, kept in one place."""

from __future__ import annotations

import os
from datetime import timedelta
from inspect import signature
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only
from torch.nn.parallel import DistributedDataParallel

from fewmask.errors import ConfigError


def is_first_process() -> bool:
    """Return whether this process is rank 0, also before ``launch`` (torchrun and SLURM say so in the environment)."""
    return getattr(rank_zero_only, "rank", 0) == 0


def placement(devices: str) -> tuple[str, int]:
    """Return the accelerator, "cpu" or "cuda", and the number of processes on this machine.

    Args:
        devices: "auto" (every CUDA device, else one CPU process), "cpu", "cpu:N" for N processes, or a number of
            CUDA devices.

    Raises:
        ConfigError: no such devices.
    """
    import torch

    if devices == "cpu" or (devices == "auto" and not torch.cuda.is_available()):
        return "cpu", int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    if devices.startswith("cpu:") and devices[4:].isdigit() and int(devices[4:]) > 0:
        return "cpu", int(devices[4:])
    if devices == "auto":
        return "cuda", torch.cuda.device_count()
    if devices.isdigit() and 0 < int(devices) <= torch.cuda.device_count():
        return "cuda", int(devices)
    raise ConfigError(
        f"devices {devices!r} are not here: {torch.cuda.device_count()} CUDA devices", where="--devices",
        todo="use auto, cpu, cpu:N or a number of CUDA devices",
    )  # fmt: skip


def leave() -> None:
    """Close the process group, where there is one; a process that exits with it open may abort."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def launch(devices: str, precision: str, timeout: timedelta = timedelta(minutes=30)) -> Fabric:
    """Return a launched Fabric.

    Args:
        devices: see ``placement``.
        precision: only "fp16" concerns Fabric (its gradient scaler); bf16 is an autocast of ours.
        timeout: how long a rank waits for the others before it gives up.

    Raises:
        ConfigError: no such devices.
    """
    accelerator, count = placement(devices)
    strategy: Any = "auto"
    if count > 1:
        # buffers are averaged by the learner: a broadcast before every forward pass would change them between the
        # passes of one step, under autograd's feet (torch 2.15 has a new name for this and warns of the old one)
        known = signature(DistributedDataParallel).parameters
        buffers: Any = {next(k for k in ("forward_sync_buffers", "broadcast_buffers") if k in known): False}
        strategy = DDPStrategy(
            timeout=timeout, process_group_backend="gloo" if accelerator == "cpu" else "nccl", **buffers
        )
    fabric = Fabric(
        accelerator=accelerator, devices=count, strategy=strategy,
        precision="16-mixed" if precision == "fp16" else "32-true",
    )  # fmt: skip
    fabric.launch()
    return fabric
