"""Which number format and memory layout this machine gains from: probed on the actual network, and said."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]

FORMATS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name of a precision to the type of its autocast; None without one."""

_GAIN = 1.1  # a format must be this much faster to be chosen: a tie is not worth its rounding
_ROUNDS = 3


@dataclass(frozen=True)
class Format:
    """What was chosen.

    Attributes:
        precision: autocast format of the forward passes.
        channels_last: memory layout of images and weights.
        why: one sentence for the log.
    """

    precision: Precision
    channels_last: bool
    why: str


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # private names, present in torch 2.10-2.15; without them bf16 would be emulated or unknown: not chosen
        checks = (getattr(torch.cpu, n, None) for n in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(check() for check in checks if check is not None)
    return False


def _seconds(net: nn.Module, images: torch.Tensor, dtype: torch.dtype | None) -> float:
    times = []
    for _ in range(_ROUNDS + 1):  # the first one warms up
        _wait(images.device)
        start = time.perf_counter()
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
            loss = net(images).square().mean()
        loss.backward()
        net.zero_grad()
        _wait(images.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choose(
    wanted: Literal["auto"] | Precision, net: nn.Module, shape: tuple[int, int, int, int], device: torch.device
) -> Format:
    """Decide the format; "auto" times a training pass of ``net`` in both where the hardware has bfloat16.

    Args:
        wanted: "auto", or the precision to take without a probe.
        net: a throw-away network of the run's kind, on ``device``; its statistics change.
        shape: B, C, H, W of a training batch.
        device: where training happens.
    """
    if wanted != "auto":
        return Format(wanted, wanted != "fp32" or device.type == "cuda", f"{wanted} as asked")
    if not has_bf16(device):
        return Format("fp32", device.type == "cuda", f"fp32: this {device.type} has no bfloat16 arithmetic")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        images = torch.randn(shape, device=device)
        plain = _seconds(net, images, None)
        net.to(memory_format=torch.channels_last)
        fast = _seconds(net, images.to(memory_format=torch.channels_last), torch.bfloat16)
    gain = plain / fast
    if gain >= _GAIN:
        return Format("bf16", True, f"bf16 with channels_last: {gain:.1f} times faster here than fp32")
    return Format("fp32", device.type == "cuda", f"fp32: bf16 is only {gain:.2f} times as fast here")
