"""Deterministic mode: the same bits again on a GPU too, where some kernels add in no fixed order.

On a CPU every operation that is used here adds in a fixed order. On CUDA torch replaces most of the kernels that do
not; where there is nothing to replace them with, losses and networks take another way (``ops.losses``, ``nets.pool``).
What is left ends the run before its first step, with the name of the operation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fewmask.errors import ConfigError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # cuBLAS sums in an order of its own unless its buffers are of fixed size
_REFUSAL = re.compile(r"(?P<name>\S.*?) does not have a deterministic implementation")
_CUBLAS = "is not deterministic because it uses CuBLAS"


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Take only operations with a fixed order of sums, on whatever device; torch's switches are put back at the end.

    Args:
        wanted: else nothing is changed.

    Raises:
        ConfigError: an operation has no deterministic form; what it is called.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    os.environ.setdefault(_WORKSPACE, ":4096:8")  # read when the first matrices are multiplied
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        name = refused(error)
        if name is None:
            raise
        raise ConfigError(
            f"{name} has no deterministic form on this device", where="machine.deterministic",
            todo="choose another --arch or --encoder, a CPU, or leave machine.deterministic out",
        ) from error  # fmt: skip
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def refused(error: BaseException) -> str | None:
    """Return torch's name of the operation that it refuses in deterministic mode; None = it is another error."""
    found = _REFUSAL.search(str(error))
    if found is not None:
        return found["name"]
    return f"a matrix product with {_WORKSPACE}={os.environ.get(_WORKSPACE)}" if _CUBLAS in str(error) else None


def is_deterministic(device: str) -> bool:
    """Return whether what is computed here and now adds in a fixed order: on "cpu" always, else in the mode above."""
    return device == "cpu" or torch.are_deterministic_algorithms_enabled()
