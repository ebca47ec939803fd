"""Which number format and memory layout this machine gains from: probed on the actual network, and said."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16", "fp16"]

FORMATS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Name of a precision to the type of its autocast; None without one."""

_GAIN = 1.1  # a format must be this much faster to be chosen: a tie is not worth its rounding
_ROUNDS = 4


@dataclass(frozen=True)
class Format:
    """What was chosen.

    Attributes:
        precision: autocast format of the forward passes.
        channels_last: memory layout of images and weights.
        why: one sentence for the log.
        timed: of which kind of network and batch it was timed to be the fastest; None = it was asked for.
    """

    precision: Precision
    channels_last: bool
    why: str
    timed: dict[str, Any] | None = None


def has_bf16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # private names, present in torch 2.10-2.15; without them bf16 would be emulated or unknown: not chosen
        checks = (getattr(torch.cpu, n, None) for n in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
        return any(check() for check in checks if check is not None)
    return False


def _seconds(net: nn.Module, images: torch.Tensor, dtype: torch.dtype | None, channels_last: bool) -> float:
    """Time one training pass in a format."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    images = images.to(memory_format=layout)
    _wait(images.device)
    start = time.perf_counter()
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not None):
        loss = net(images).square().mean()
    loss.backward()
    net.zero_grad()
    _wait(images.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choose(
    wanted: Literal["auto"] | Precision,
    channels_last: bool | None,
    net: nn.Module,
    shape: tuple[int, int, int, int],
    device: torch.device,
) -> Format:
    """Decide the format; "auto" times training passes of ``net`` in each, bf16 where the hardware computes it.

    Args:
        wanted: "auto", or the precision to take without a probe.
        channels_last: with a wanted precision, the memory format; None = channels_last but for fp32 on a CPU.
        net: a throw-away network of the run's kind, on ``device``; its statistics change.
        shape: B, C, H, W of a training batch.
        device: where training happens.
    """
    if wanted != "auto":
        last = (wanted != "fp32" or device.type == "cuda") if channels_last is None else channels_last
        why = f"{wanted}{_layout(last)} as asked"
        if wanted == "bf16" and not has_bf16(device):
            why += "; it is emulated here, which can take ten times as long as fp32 (--precision auto measures)"
        return Format(wanted, last, why)
    candidates: list[tuple[Precision, bool]] = [("fp32", False), ("fp32", True)]
    if has_bf16(device):
        candidates.append(("bf16", True))
    best = dict.fromkeys(candidates, float("inf"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        images = torch.randn(shape, device=device)
        for n in range(_ROUNDS + 1):  # interleaved, so that a busy moment of the machine hits all of them
            for precision, last in candidates:
                seconds = _seconds(net, images, FORMATS[precision], last)
                if n:  # the first round warms up
                    best[precision, last] = min(best[precision, last], seconds)
    plain = best.pop(candidates[0])
    (precision, last), seconds = min(best.items(), key=lambda pair: pair[1])
    gain = plain / seconds
    if gain < _GAIN:
        return Format("fp32", False, f"fp32: nothing else is {_GAIN} times as fast for this network here")
    return Format(precision, last, f"{precision}{_layout(last)}: {gain:.1f} times as fast as plain fp32 here")


def _layout(channels_last: bool) -> str:
    return " with channels_last" if channels_last else ""
