"""What a result depends on beside the recipe: versions and hardware."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fewmask._version import __version__
from fewmask.config import load_json
from fewmask.engine.launch import Placement
from fewmask.errors import CheckpointError


def warn_of_differences(file: Path, here: Placement, say: Callable[[str], None]) -> None:
    """Name what differs from what the run began with; tensors may then differ in their last bits.

    Args:
        file: environment.json of the run.
        here: where its processes are now.
        say: receives a sentence.
    """
    try:
        then = load_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        say(f"WARNING: {file} cannot be read: versions are not compared")
        return
    now = environment()
    old, new = (e.get("packages", {}) | {k: e.get(k) for k in ("fewmask", "python")} for e in (then, now))
    changed = [f"{k} {old.get(k)} then, {new[k]} now" for k in new if old.get(k) != new[k]]
    was = (then.get("accelerator"), then.get("processes"))
    if None not in was and was != (here.accelerator, here.world):
        say(
            f"WARNING: the run began with {was[1]} processes on {was[0]}, now {here.world} on {here.accelerator}: "
            "images and augmentations stay the same, sums are rounded otherwise"
        )
    if changed:
        say(f"WARNING: the run began with other versions ({'; '.join(changed)}): it may not end bit for bit the same")


def check_weights(file: Path, now: dict[str, str] | None) -> None:
    """Refuse to continue a run with another encoder than it began with: later rounds, seeds and arms start from it.

    Args:
        file: environment.json of the run; one that is older than this record says nothing.
        now: ``nets.weights.identify`` of what is there.

    Raises:
        CheckpointError: with both hashes.
    """
    try:
        then = load_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # warn_of_differences has said it
    if other_weights(then, now):
        raise CheckpointError(
            f"the encoder's weights have changed since the run began: {then['weights']} then, {now} now", where=file,
            todo="put the file back that it began with, or start another run with --new",
        )  # fmt: skip


def other_weights(record: Any, now: dict[str, str] | None) -> bool:
    """Return whether an environment.json says that a run began with another encoder; where the file lies is no matter.

    Args:
        record: its content; one that is older than this entry says nothing.
        now: ``nets.weights.identify`` of what is there.
    """
    if not isinstance(record, dict) or "weights" not in record:
        return False
    then = record["weights"]
    return (then.get("sha256") if isinstance(then, dict) else then) != (now and now["sha256"])


def environment() -> dict[str, Any]:
    """Return versions and hardware: what a result depends on beside the recipe."""
    packages = ("torch", "torchvision", "timm", "segmentation-models-pytorch", "lightning-fabric", "numpy", "pillow")
    versions = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "fewmask": __version__, "python": platform.python_version(), "packages": versions,
        "platform": platform.platform(), "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }  # fmt: skip
