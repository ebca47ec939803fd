"""Pixel contrast: who may be an anchor or a negative, and the loss between them (U2PL, CVPR 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(p_BKHW: Tensor) -> Tensor:
    """Return the entropy of each pixel's distribution in nats, [B, H, W]; 0·log 0 = 0. U2PL Eq. 5."""
    return torch.special.entr(p_BKHW).sum(1)


def quantile(value: Tensor, valid: Tensor, q: Tensor | float) -> Tensor:
    """Return the q-quantile of the values where ``valid``, linearly interpolated as numpy.percentile does; a scalar.

    No copy to the host: the number of valid values stays on the device. +inf where none is valid.

    Args:
        value: float, any shape.
        valid: bool, the same shape.
        q: 0..1.
    """
    if value.device.type == "cpu" and value.dtype == torch.float32:
        return _quantile_by_bits(value[valid], float(q))
    ordered = torch.where(valid, value, torch.inf).flatten().sort().values
    place = (valid.sum() - 1).clamp(min=0).double() * q  # float32 cannot count the pixels of a large batch
    low = place.floor().long()
    high = place.ceil().long()
    below, above = ordered[low], ordered[high]
    return torch.where(low == high, below, below + (above - below) * (place - low).to(value.dtype))


def _quantile_by_bits(value_N: Tensor, q: float) -> Tensor:
    """Return the same for valid values alone, an eighth of the time that sorting all of them takes on a CPU.

    The bits of float32 numbers are integers in the order of the numbers once those of the negative ones are turned
    round. A histogram of the upper halves says which few values need be sorted.
    """
    if not len(value_N):
        return value_N.new_tensor(torch.inf)
    place = (len(value_N) - 1) * q
    low, high = math.floor(place), math.ceil(place)
    bits_N = value_N.view(torch.int32)
    upper_N = ((bits_N ^ (bits_N >> 31 & 0x7FFFFFFF)) >> 16) + 0x8000
    upto_V = torch.bincount(upper_N, minlength=0x10000).cumsum(0)
    first, last = (int(torch.searchsorted(upto_V, n, right=True)) for n in (low, high))
    before = int(upto_V[first - 1]) if first else 0
    ordered = value_N[(upper_N >= first) & (upper_N <= last)].sort().values
    below, above = ordered[low - before], ordered[high - before]
    return below if low == high else below + (above - below) * torch.tensor(place - low, dtype=value_N.dtype)


def class_order(p_BKHW: Tensor) -> Tensor:
    """Return each class's place in the pixel's order, 0 = the most likely, int64 [B, K, H, W]; of equals the first."""
    return p_BKHW.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def draw_with_replacement(mask_KN: Tensor, u_KM: Tensor) -> Tensor:
    """Return M indices of True entries for each row, drawn with replacement, int64 [K, M]; 0 in a row without any.

    Args:
        mask_KN: bool.
        u_KM: uniform on [0, 1).
    """
    upto_KN = mask_KN.long().cumsum(1)
    wanted_KM = (u_KM.double() * upto_KN[:, -1:]).long() + 1
    return torch.searchsorted(upto_KN, wanted_KM) * (upto_KN[:, -1:] > 0)


def draw_without_replacement(mask_KN: Tensor, count: int, u_KN: Tensor) -> tuple[Tensor, Tensor]:
    """Return up to ``count`` random True entries of each row: indices int64 [K, count], and which of them are real.

    Args:
        mask_KN: bool.
        count: at most N.
        u_KN: uniform on [0, 1).
    """
    key_KC, index_KC = torch.where(mask_KN, u_KN, -1.0).topk(count, dim=1)
    return index_KC, key_KC >= 0


def info_nce(positive_KM: Tensor, negative_KMN: Tensor, temperature: float, use_K: Tensor) -> Tensor:
    """Return the contrastive loss of U2PL Eq. 4: mean over the anchors, then over the classes in use, a scalar.

    Args:
        positive_KM: cosine of each anchor with the centre of its class.
        negative_KMN: and with its N negatives.
        temperature: τ.
        use_K: bool; 0 is returned where no class is in use.
    """
    positive_KM = positive_KM.float() if positive_KM.dtype == torch.bfloat16 else positive_KM
    every = torch.cat((positive_KM.unsqueeze(-1), negative_KMN.to(positive_KM)), -1) / temperature
    loss_K = (every.logsumexp(-1) - positive_KM / temperature).mean(1)
    return torch.where(use_K, loss_K, 0.0).sum() / use_K.sum().clamp(min=1)
