"""Optimisers and learning rates; the rate is a function of the step, so there is no scheduler to save."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from fewmask.config import Config
from fewmask.ops.ramp import poly, warmup


class OptimConfig(Config):
    """The ``optim`` section of a recipe.

    Attributes:
        name: optimiser.
        lr: rate of the encoder at step 0 (after any warm-up).
        head_lr_mult: everything but the encoder learns this much faster.
        weight_decay: of SGD (coupled) or AdamW (decoupled).
        decay_all: decay biases and normalisation weights too (CPS's code does not).
        momentum: of SGD; beta1 of AdamW is 0.9.
        power: exponent of lr·(1 - t/total)^power.
        warmup_steps: linear warm-up.
        clip: largest gradient norm of a network; none = no clipping.
    """

    name: Literal["sgd", "adamw"] = "adamw"
    lr: float = Field(default=5e-4, gt=0)
    head_lr_mult: float = Field(default=4.0, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    decay_all: bool = False
    momentum: float = Field(default=0.9, ge=0, lt=1)
    power: float = Field(default=0.9, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    clip: float | None = Field(default=None, gt=0)


def _groups(net: nn.Module, cfg: OptimConfig) -> list[dict[str, Any]]:
    """Split the trained parameters: encoder or head, decayed or not."""
    part = getattr(net, "encoder", None)
    encoder = {id(p) for p in part.parameters()} if isinstance(part, nn.Module) else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in net.parameters():
        if not parameter.requires_grad:
            continue
        # a network without an encoder (a critic) learns at the plain rate
        mult = cfg.head_lr_mult if encoder and id(parameter) not in encoder else 1.0
        decay = cfg.weight_decay if cfg.decay_all or parameter.ndim > 1 else 0.0
        groups.setdefault((mult, decay), []).append(parameter)
    return [
        {"params": params, "lr": cfg.lr * mult, "weight_decay": decay, "mult": mult}
        for (mult, decay), params in groups.items()
    ]


def make_optimiser(net: nn.Module, cfg: OptimConfig, fused: bool = True) -> torch.optim.Optimizer:
    """Return the optimiser of one network, over the parameters that require a gradient.

    Args:
        net: on its device.
        cfg: what it is.
        fused: take one pass over all tensors, where the device can.
    """
    fused = fused and next(net.parameters()).device.type in ("cpu", "cuda")
    if cfg.name == "sgd":
        return torch.optim.SGD(_groups(net, cfg), lr=cfg.lr, momentum=cfg.momentum, fused=fused)
    return torch.optim.AdamW(_groups(net, cfg), lr=cfg.lr, betas=(0.9, 0.999), fused=fused)


def learning_rate(cfg: OptimConfig, t: int, total: int) -> float:
    """Return the encoder's learning rate at step ``t``."""
    return cfg.lr * poly(t, total, cfg.power) * warmup(t, cfg.warmup_steps)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate from the encoder's."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["mult"]
