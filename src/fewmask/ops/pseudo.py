"""From a network's logits to pseudo-labels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


@torch.no_grad()
def infer(net: nn.Module, images_BCHW: Tensor, bn: Literal["eval", "train"] = "eval") -> Tensor:
    """Return logits without gradient, with normalisation and dropout in the given mode; restores the mode it found.

    Args:
        net: a network, trained or not.
        images_BCHW: images.
        bn: "eval" uses running statistics and no dropout; "train" uses batch statistics, and updates the running ones;
            layers that were frozen inside a network in training stay so.
    """
    modes = [(module, module.training) for module in net.modules()]
    if net.training != (bn == "train"):
        net.train(bn == "train")
    try:
        return net(images_BCHW)
    finally:
        torch.clear_autocast_cache()  # weights cast without gradient must not serve a pass with gradient (torch 2.10)
        for module, mode in modes:
            module.training = mode


def confidence_and_label(logits_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest softmax probability, float [B, H, W], and its class, int64 [B, H, W].

    From max and logsumexp in one pass each: no softmax map is stored.
    """
    top_BHW, label_BHW = logits_BKHW.max(1)
    return torch.exp(top_BHW - logits_BKHW.logsumexp(1)), label_BHW
