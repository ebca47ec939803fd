"""fewmask.engine.precision: what is chosen, and what is said of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewmask.engine import precision
from fewmask.engine.launch import launch
from fewmask.engine.precision import choose
from fewmask.errors import ConfigError

CPU, SHAPE = torch.device("cpu"), (2, 3, 8, 8)


def test_bf16_that_is_emulated_is_taken_as_asked_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that asks for bf16 took about ten times as long on a processor without it: that must not be silent."""
    for there in (True, False):
        monkeypatch.setattr(precision, "has_bf16", lambda device, there=there: there)
        chosen = choose("bf16", None, nn.Conv2d(3, 4, 3), SHAPE, CPU)
        assert (chosen.precision, chosen.channels_last) == ("bf16", True)
        assert ("emulated" in chosen.why) is not there


def test_a_probe_never_takes_emulated_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[torch.dtype | None] = []
    seconds = {None: 1.0, torch.bfloat16: 0.1}

    def fake(net: nn.Module, images: torch.Tensor, dtype: torch.dtype | None, channels_last: bool) -> float:
        timed.append(dtype)
        return seconds[dtype]

    monkeypatch.setattr(precision, "_seconds", fake)
    for there, wanted in ((False, "fp32"), (True, "bf16")):
        monkeypatch.setattr(precision, "has_bf16", lambda device, there=there: there)
        assert choose("auto", None, nn.Conv2d(3, 4, 3), SHAPE, CPU).precision == wanted
        assert (torch.bfloat16 in timed) is there


def test_fp16_on_a_cpu_is_refused() -> None:
    """Fabric would take bf16 in its place, and the run would say fp16."""
    with pytest.raises(ConfigError, match="fp16 trains on CUDA devices only"):
        launch("cpu", "fp16")
