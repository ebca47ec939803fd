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


def relative(p_BKHW: Tensor, least_K: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest p_c/t_c, float [B, H, W], and its class, int64 [B, H, W].

    How class-balanced self-training labels (Zou et al., ECCV 2018).
    Probabilities are rounded to fp16 first, as those were that the t_c come from: a pixel at the threshold of its class
    has exactly 1.

    Args:
        p_BKHW: probabilities.
        least_K: t_c, positive, float32; infinity for a class that no pixel takes.
    """
    ratio_BHW, label_BHW = (p_BKHW.half().float() / least_K.view(1, -1, 1, 1)).max(1)
    return ratio_BHW, label_BHW


def align(logits_BKHW: Tensor, have_K: Tensor, want_K: Tensor, strength: float = 1.0) -> Tensor:
    """Return logits of softmax(z)·(want/have)^strength, normalised: distribution alignment, ReMixMatch section 3.1.

    Args:
        logits_BKHW: z.
        have_K: running mean of the predicted probabilities.
        want_K: share of each class among the labelled pixels. A class that no label has stays as it is.
        strength: 1 is the paper's; 0 changes nothing.
    """
    tiny = torch.finfo(logits_BKHW.dtype).tiny
    ratio_K = torch.where(want_K > 0, want_K.clamp(min=tiny).log() - have_K.clamp(min=tiny).log(), 0.0)
    return logits_BKHW + strength * ratio_K.to(logits_BKHW).view(1, -1, 1, 1)


def class_share(conf_BHW: Tensor, label_BHW: Tensor, valid_BHW: Tensor, classes: int, share: float) -> Tensor:
    """Return which pixels belong to the most confident ``share`` of their predicted class, bool [B, H, W].

    One threshold a class, as in class-balanced self-training (Zou et al., ECCV 2018), taken anew from each batch: the
    n valid pixels that are predicted as a class keep their ceil(share·n) most confident. A fixed threshold keeps the
    easy classes and starves the rare ones. Of equal confidences the first pixels stay.

    Args:
        conf_BHW: confidence in 0..1.
        label_BHW: int64 predicted class in 0..K-1.
        valid_BHW: bool; other pixels are not counted and not kept.
        classes: K.
        share: 0 < share <= 1.
    """
    label_N = torch.where(valid_BHW, label_BHW, classes).flatten()  # the pixels that do not count form a class K
    by_confidence_N = torch.argsort(conf_BHW.flatten(), descending=True, stable=True)
    order_N = by_confidence_N[torch.argsort(label_N[by_confidence_N], stable=True)]
    count_K = histogram(label_N, torch.ones_like(label_N), classes + 1)
    start_K = count_K.cumsum(0) - count_K
    ranked_N = label_N[order_N]
    rank_N = torch.arange(label_N.numel(), device=label_N.device) - start_K[ranked_N]
    kept_N = rank_N < torch.ceil(share * count_K.double())[ranked_N]
    return torch.empty_like(kept_N).scatter_(0, order_N, kept_N).view_as(valid_BHW) & valid_BHW


def histogram(label: Tensor, keep: Tensor, classes: int) -> Tensor:
    """Return how many pixels with ``keep`` have each class, int64 [K]; no copy to the host, unlike ``bincount``."""
    counts_K = torch.zeros(classes, dtype=torch.int64, device=label.device)
    return counts_K.index_add_(0, label.flatten(), keep.flatten().to(torch.int64))


@torch.no_grad()
def told(label_BHW: Tensor, keep_BHW: Tensor, valid_BHW: Tensor, logits_BKHW: Tensor) -> dict[str, Tensor]:
    """Return what is logged of the pseudo-labels of a batch; see ``Method.losses``.

    Args:
        label_BHW: int64; in 0..K-1 wherever a pixel is kept.
        keep_BHW: bool, the pixels that train.
        valid_BHW: bool, those that could have.
        logits_BKHW: of the network that is trained, where the labels train it.

    Returns:
        "kept" []: share of the valid pixels that are kept; "pseudo" int64 [K]: how many of these have each class;
        "agree" int64 [2]: on how many of them the network says what the label says, and how many there are.
    """
    classes, kept = logits_BKHW.shape[1], keep_BHW.sum()
    return {
        "kept": kept / valid_BHW.sum().clamp(min=1),
        "pseudo": histogram(torch.where(keep_BHW, label_BHW, 0), keep_BHW, classes),
        "agree": torch.stack((((logits_BKHW.argmax(1) == label_BHW) & keep_BHW).sum(), kept)),
    }
