"""Losses on logits. Labels are int64 with 255 where a pixel does not count; every loss is 0 where none counts.

A loss is a sum over pixels divided by their number. Several processes average their gradients, so each divides by the
mean of the numbers (``average``, which is ``Step.average`` there): their losses are then parts of the mean over the
pixels of all of them, and a process without any pixel takes no share away from the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = 255

Average = Callable[[Tensor], Tensor]
"""A scalar of this process to its mean over the processes."""


def alone(x: Tensor) -> Tensor:
    """Return the mean over the processes where there is one."""
    return x


def cross_entropy(
    logits_BKHW: Tensor, labels_BHW: Tensor, weight_K: Tensor | None = None, average: Average = alone
) -> Tensor:
    """Return the mean cross-entropy over the labelled pixels, a scalar.

    With class weights the mean is weighted: sum of w[y]·CE over sum of w[y], as ``torch.nn.CrossEntropyLoss`` does.
    """
    # on CUDA the kernel that takes the sum too adds in no fixed order, and is refused in deterministic mode
    how = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    total = F.cross_entropy(logits_BKHW, labels_BHW, weight_K, ignore_index=IGNORE, reduction=how).sum()
    valid = labels_BHW != IGNORE
    if weight_K is None:
        return total / _nonzero(average(valid.sum()))
    mass = weight_K[labels_BHW.masked_fill(~valid, 0)].mul(valid).sum()
    return total / _nonzero(average(mass))


def _nonzero(mass: Tensor) -> Tensor:
    """Return a denominator whose 0, which goes with a numerator of 0, is replaced by 1."""
    return torch.where(mass > 0, mass, torch.ones_like(mass))


def weighted_cross_entropy(logits_BKHW: Tensor, labels_BHW: Tensor, weight_BHW: Tensor, denominator: Tensor) -> Tensor:
    """Return the sum of weight·CE over all pixels divided by ``denominator``: a scalar, 0 where that is 0.

    The published pseudo-label losses differ in the denominator (all, valid, or selected pixels): the caller states it.

    Args:
        logits_BKHW: predictions that are trained.
        labels_BHW: int64 pseudo-labels in 0..K-1; IGNORE counts as weight 0.
        weight_BHW: bool or float weight of each pixel.
        denominator: scalar, number (or mass) of pixels to divide by, the mean over the processes.
    """
    ce_BHW = F.cross_entropy(logits_BKHW, labels_BHW, ignore_index=IGNORE, reduction="none")
    return (ce_BHW * weight_BHW).sum() / _nonzero(denominator)


def image_weighted_cross_entropy(logits_BKHW: Tensor, labels_BHW: Tensor, weight_BHW: Tensor) -> Tensor:
    """Return the mean over images of each image's weighted mean, Σ w·CE / Σ w: a scalar; an image without weight has 0.

    UCC Eq. 9's display (CVPR 2022). Arguments as in ``weighted_cross_entropy``.
    """
    ce_BHW = F.cross_entropy(logits_BKHW, labels_BHW, ignore_index=IGNORE, reduction="none")
    weight_BHW = weight_BHW * (labels_BHW != IGNORE)
    return ((ce_BHW * weight_BHW).sum((1, 2)) / _nonzero(weight_BHW.sum((1, 2)))).mean()


def ohem_cross_entropy(
    logits_BKHW: Tensor, labels_BHW: Tensor, threshold: float, min_kept: int, average: Average = alone
) -> Tensor:
    """Return the mean cross-entropy over the hard pixels (online hard example mining), a scalar.

    Shrivastava et al., CVPR 2016, in the form of the segmentation code bases (CPS, U2PL, UniMatch): with p_i the
    probability of the true class, keep p_i <= max(threshold, the min_kept-th smallest p_i). ``kthvalue`` gives the
    threshold that a full sort would. With fewer than ``min_kept`` labelled pixels there is no mining. Each process
    mines its own pixels, as theirs do.
    """
    ce_N = F.cross_entropy(logits_BKHW, labels_BHW, ignore_index=IGNORE, reduction="none").flatten()
    valid_N = (labels_BHW != IGNORE).flatten()
    # CE = -log p, so "p small" is "CE large"; ignored pixels stand at p = 1, where they can only raise the rank
    p_N = torch.where(valid_N, torch.exp(-ce_N.detach()), torch.ones_like(ce_N))
    k = min(max(min_kept, 1), p_N.numel())
    if torch.are_deterministic_algorithms_enabled():  # where older versions of torch refuse kthvalue on CUDA
        kth = p_N.sort().values[k - 1]
    else:
        kth = torch.kthvalue(p_N, k).values
    kth = kth.clamp(min=threshold)
    keep_N = valid_N & ((p_N <= kth) | (valid_N.sum() < min_kept))
    return (ce_N * keep_N).sum() / _nonzero(average(keep_N.sum()))


def focal(logits_BKHW: Tensor, labels_BHW: Tensor, gamma: float, average: Average = alone) -> Tensor:
    """Return the mean of (1-p)^gamma · CE over the labelled pixels (Lin et al., ICCV 2017, Eq. 4), a scalar."""
    ce_BHW = F.cross_entropy(logits_BKHW, labels_BHW, ignore_index=IGNORE, reduction="none")
    valid_BHW = labels_BHW != IGNORE
    # clamp keeps the derivative of x**gamma finite at x = 0 for gamma < 1
    miss_BHW = (-torch.expm1(-ce_BHW)).clamp(min=1e-7)
    return (miss_BHW**gamma * ce_BHW * valid_BHW).sum() / _nonzero(average(valid_BHW.sum()))


def dice(logits_BKHW: Tensor, labels_BHW: Tensor, eps: float = 1.0) -> Tensor:
    """Return 1 - the mean soft Dice over the classes that occur in the labels, a scalar.

    Milletari et al., 3DV 2016, in the linear form: Dice_c = (2·sum p_c·y_c + eps) / (sum p_c + sum y_c + eps), over
    the labelled pixels of this process's batch. Classes without a labelled pixel are left out, so that they do not push
    their probability down through a term of their own.
    """
    classes = logits_BKHW.shape[1]
    valid_B1HW = (labels_BHW != IGNORE).unsqueeze(1)
    p_BKHW = logits_BKHW.softmax(1) * valid_B1HW
    safe_B1HW = labels_BHW.unsqueeze(1).masked_fill(~valid_B1HW, 0)
    hit_K = torch.zeros(classes, device=logits_BKHW.device, dtype=p_BKHW.dtype)
    hit_K = hit_K.index_add(0, safe_B1HW.flatten(), p_BKHW.gather(1, safe_B1HW).flatten())
    seen_K = torch.zeros_like(hit_K).index_add(0, safe_B1HW.flatten(), valid_B1HW.flatten().to(p_BKHW.dtype))
    dice_K = (2 * hit_K + eps) / (p_BKHW.sum((0, 2, 3)) + seen_K + eps)
    present_K = (seen_K > 0).to(dice_K.dtype)
    return ((1 - dice_K) * present_K).sum() / present_K.sum().clamp(min=1)


def median_frequency_weights(frequency_K: Tensor) -> Tensor:
    """Return median(f)/f_c over the classes with f_c > 0, and 1 for the others, [K].

    Median-frequency balancing (Eigen and Fergus, ICCV 2015), with f_c the share among all labelled pixels; they
    divide by the pixels of the images that hold class c.
    """
    seen_K = frequency_K > 0
    if not seen_K.any():
        return torch.ones_like(frequency_K)
    median = frequency_K[seen_K].quantile(0.5)
    return torch.where(seen_K, median / frequency_K.clamp(min=torch.finfo(frequency_K.dtype).tiny), 1.0)


def softmax_mse(p_BKHW: Tensor, target_BKHW: Tensor, valid_BHW: Tensor, average: Average = alone) -> Tensor:
    """Return the squared difference of two maps, mean over the classes and the valid pixels, a scalar.

    The mean over B, K, H, W is the convention of Tarvainen and Valpola's and TorchSemiSeg's mean teacher; times K it
    is the squared Euclidean distance of CPS Eq. 7.
    """
    squared_BHW = (p_BKHW - target_BKHW).square().mean(1)
    return (squared_BHW * valid_BHW).sum() / _nonzero(average(valid_BHW.sum()))
