"""CutMix and copy-paste: which pixels of an image come from its partner."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewmask.ops.rng import Draws


def unimatch_box(draws: Draws, height: int, width: int, probability: float = 0.5) -> tuple[int, int, int, int] | None:
    """Return one box (top, left, height, width) by UniMatch's law, or None with probability 1 - ``probability``.

    Area U(0.02, 0.4) of the image; then aspect height/width U(0.3, 1/0.3) and corner uniform over the image, drawn
    anew until the box lies inside (Yang et al., CVPR 2023; the law of their code). Their crops are square; here the
    aspect is relative to the image's, which is the same there and can always fit elsewhere.
    """
    if not draws.chance(probability):
        return None
    area = draws.uniform(0.02, 0.4) * height * width
    while True:
        aspect = draws.uniform(0.3, 1 / 0.3) * height / width
        h, w = int(math.sqrt(area * aspect)), int(math.sqrt(area / aspect))
        left, top = draws.integer(0, width), draws.integer(0, height)
        if top + h <= height and left + w <= width:
            return top, left, h, w


def unimatch_mask(draws: Sequence[Draws], height: int, width: int, probability: float = 0.5) -> Tensor:
    """Return bool [B, H, W] on the CPU, True where the partner's pixel is taken: one box an image (UniMatch's law)."""
    mask = torch.zeros(len(draws), height, width, dtype=torch.bool)
    for i, source in enumerate(draws):
        box = unimatch_box(source, height, width, probability)
        if box is not None:
            top, left, h, w = box
            mask[i, top : top + h, left : left + w] = True
    return mask


def cps_boxes(draws: Draws, height: int, width: int, boxes: int = 3) -> list[tuple[int, int, int, int]]:
    """Return the boxes (top, left, height, width) of CPS's law (French et al., BMVC 2020, as CPS uses it).

    For each box: area fraction a ~ U(0.25, 0.5) of the image shared among the boxes; relative height a^u with
    u ~ U(0, 1), relative width a over that; both times sqrt(1/boxes), rounded to pixels; corner uniform, rounded.
    """
    out = []
    for _ in range(boxes):
        area = draws.uniform(0.25, 0.5)
        rel_h = math.exp(draws.uniform() * math.log(area))
        rel_w = area / rel_h
        h = min(height, round(height * rel_h * math.sqrt(1 / boxes)))
        w = min(width, round(width * rel_w * math.sqrt(1 / boxes)))
        out.append((round((height - h) * draws.uniform()), round((width - w) * draws.uniform()), h, w))
    return out


def cps_mask(draws: Sequence[Draws], height: int, width: int, boxes: int = 3) -> Tensor:
    """Return bool [B, H, W] on the CPU: every box toggles (XOR), True where the partner's pixel is taken."""
    mask = torch.zeros(len(draws), height, width, dtype=torch.bool)
    for i, source in enumerate(draws):
        for top, left, h, w in cps_boxes(source, height, width, boxes):
            mask[i, top : top + h, left : left + w] ^= True
    return mask


def half_area_mask(draws: Sequence[Draws], height: int, width: int, probability: float = 0.5) -> Tensor:
    """Return bool [B, H, W] on the CPU: one rectangle of half the area, for an image with the given probability.

    U2PL's CutMix (CVPR 2022, its code): width U(W/2, W), the height that gives half of the image's area, place uniform.
    """
    mask = torch.zeros(len(draws), height, width, dtype=torch.bool)
    for i, source in enumerate(draws):
        if source.chance(probability):
            w = source.integer(width // 2 + 1, width) if width > 2 else width
            h = min(height, round(height * width / (2 * w)))
            top, left = source.integer(0, height - h + 1), source.integer(0, width - w + 1)
            mask[i, top : top + h, left : left + w] = True
    return mask


def draw_classes(labels_BHW: Tensor, weight_K: Tensor, u_BN: Tensor) -> Tensor:
    """Draw N classes for each image, with replacement, among those that it shows; bool [B, K].

    Without a device sync: the uniform numbers come in, the draw is an inversion of the cumulative weights.

    Args:
        labels_BHW: int64 labels; other values than 0..K-1 (void) are no class. An image without any draws none.
        weight_K: positive weight of each class; its probability is in proportion.
        u_BN: uniform on [0, 1).
    """
    batch, classes = len(labels_BHW), len(weight_K)
    known = torch.where((labels_BHW >= 0) & (labels_BHW < classes), labels_BHW, classes).flatten(1)
    shown_BK = torch.zeros(batch, classes + 1, dtype=torch.bool, device=known.device).scatter_(1, known, True)[:, :-1]
    upto_BK = (shown_BK * weight_K.double()).cumsum(1)
    pick_BN = torch.searchsorted(upto_BK, u_BN.double() * upto_BK[:, -1:], right=True).clamp(max=classes - 1)
    return torch.zeros_like(shown_BK).scatter_(1, pick_BN, True) & shown_BK


def class_mask(labels_BHW: Tensor, chosen_BK: Tensor) -> Tensor:
    """Return bool [B, H, W]: the pixels of each image whose class is chosen for it; never void."""
    classes = chosen_BK.shape[1]
    known = (labels_BHW >= 0) & (labels_BHW < classes)
    index = torch.where(known, labels_BHW, 0).flatten(1)
    return chosen_BK.gather(1, index).view_as(labels_BHW) & known


def partners(batch: int, device: torch.device | str = "cpu") -> Tensor:
    """Return for each item the index of another item of the batch, int64 [B]: 0-1, 2-3, ...

    A last odd one takes its left neighbour.

    Pairs of neighbours rather than a roll of the batch: with an even number of items a rank, the pairs do not depend on
    the number of ranks. A batch of one has only itself.
    """
    index = torch.arange(batch, device=device) ^ 1
    return torch.where(index < batch, index, (index - 2).clamp(min=0)) if batch % 2 else index


def take(own: Tensor, partner: Tensor, mask_BHW: Tensor) -> Tensor:
    """Return ``partner`` where the mask is True, else ``own``; both [B, H, W] or [B, C, H, W]."""
    mask = mask_BHW if own.dim() == mask_BHW.dim() else mask_BHW.unsqueeze(1)
    return torch.where(mask, partner, own)


def warp(labels_BHW: Tensor, source_BHW: Tensor, outside: int) -> Tensor:
    """Return a label-like map whose pixel i is the one that stood at ``source_BHW``; ``outside`` where that is -1.

    Args:
        labels_BHW: any dtype.
        source_BHW: int64, row·W + column.
        outside: value of pixels that come from nowhere.
    """
    found = labels_BHW.flatten(1).gather(1, source_BHW.clamp(min=0).flatten(1)).view_as(source_BHW)
    return torch.where(source_BHW >= 0, found, outside)
