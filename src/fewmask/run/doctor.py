"""Is this machine fit: versions that must fit together, devices, disk, shared memory."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from fewmask.run.environment import environment


def examine() -> dict[str, Any]:
    """Return {"environment": ..., "checks": [{"what", "ok"}, ...]}."""
    import torch

    from fewmask.engine.log import tensorboard_available
    from fewmask.engine.precision import has_bf16

    checks = [
        (f"Python {sys.version.split()[0]} (3.11 or newer)", sys.version_info >= (3, 11)),
        (
            f"torch {torch.__version__} (2.10 or newer: older ones load pickles unsafely)",
            _at_least(torch.__version__, 2, 10),
        ),
        _torchvision(),
    ]
    free = shutil.disk_usage(".").free / 2**30
    checks.append((f"{free:.0f} GiB free on this disk (2 or more)", free >= 2))
    shm = Path("/dev/shm")
    if shm.is_dir():
        room = shutil.disk_usage(shm).free / 2**20
        checks.append((f"{room:.0f} MiB shared memory for loader processes (256 or more)", room >= 256))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    checks.append((f"device: {name}; bfloat16 arithmetic: {'yes' if has_bf16(device) else 'no'}", True))
    checks.append((f"TensorBoard: {'installed' if tensorboard_available() else 'not installed (optional)'}", True))
    return {"environment": environment(), "checks": [{"what": what, "ok": ok} for what, ok in checks]}


def _at_least(version: str, major: int, minor: int) -> bool:
    first, second = version.split(".")[:2]
    return (int(first), int(second)) >= (major, minor)


def _torchvision() -> tuple[str, bool]:
    """Run one compiled operator: a torchvision built for another torch fails here, not in the middle of a run."""
    try:
        import torch
        import torchvision
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError) as error:
        return f"torchvision does not fit this torch ({str(error).splitlines()[0]}): reinstall both together", False
    return f"torchvision {torchvision.__version__} fits torch", True
