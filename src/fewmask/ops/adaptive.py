"""Augmentation that favours the classes a network is unsure of.

AEL: Hu et al., Semi-supervised semantic segmentation via adaptive equalization learning, NeurIPS 2021 (2110.05474). UCC
takes its copy-paste from there, U2PL both of its operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from fewmask.ops import mix, pseudo
from fewmask.ops.rng import Draws

PRESENT, COMPONENT = 0.01, 0.005
"""Share of the image's area that a class, and one component of it, must cover to be cut out (AEL's configuration)."""


def true_class_sums(logits: Sequence[Tensor], labels_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the confidence σ of each class is the ratio of: two tensors [K], float64 and int64.

    Args:
        logits: [B, K, H, W] each; with several predictors their probabilities are averaged.
        labels_BHW: int64; other values than 0..K-1 count nowhere.

    Returns:
        The sum of the true class's probability over the pixels of each class, and their number.
    """
    classes = logits[0].shape[1]
    known = (labels_BHW >= 0) & (labels_BHW < classes)
    index = torch.where(known, labels_BHW, 0)
    each = [z.detach().softmax(1).gather(1, index.unsqueeze(1)).squeeze(1) for z in logits]
    sure = torch.stack(each).mean(0)
    sums = torch.zeros(classes, dtype=torch.float64, device=index.device)  # of millions of pixels
    sums.index_add_(0, index.flatten(), (sure * known).double().flatten())
    return sums, pseudo.histogram(index, known, classes)


def paste_weight(sigma_K: Tensor) -> Tensor:
    """Return the weight exp(√(1 - σ)) with which a class is drawn to be pasted (AEL's law)."""
    return (1 - sigma_K).clamp(min=0).sqrt().exp()


def paste_mask(donor_BHW: Tensor, weight_K: Tensor, draws: Sequence[Draws], chance: float, classes: int) -> Tensor:
    """Return which pixels of each donor are pasted, bool [B, H, W]: all those of the classes drawn for the image.

    Args:
        donor_BHW: int64 labels of the image that is pasted from; void is never pasted.
        weight_K: see ``mix.draw_classes``.
        draws: one source of random numbers an image.
        chance: probability that an image gets something.
        classes: draws of a class, with replacement, among those that the donor shows.
    """
    device = donor_BHW.device
    chosen = torch.tensor([d.chance(chance) for d in draws]).to(device, non_blocking=True)
    numbers = torch.from_numpy(np.stack([d.uniforms(classes) for d in draws])).to(device, non_blocking=True)
    return mix.class_mask(donor_BHW, mix.draw_classes(donor_BHW, weight_K, numbers) & chosen.unsqueeze(1))


def component_box_mask(labels_BHW: Tensor, valid_BHW: Tensor, sigma_K: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Return bool [B, H, W] on the CPU: the box around one object of a class that the network is unsure of.

    A class is drawn in proportion to exp(1 - σ) among those that cover at least ``PRESENT`` of the image, one of its
    8-connected components of more than ``COMPONENT`` uniformly, and its bounding box is the mask. Where there is no
    such class, or no such component of the class that was drawn, it is a random rectangle of half the area (AEL's
    adaptive CutMix; their image is drawn from the whole set for its class, here it is given). Shares are of the whole
    crop, padding included; a σ above 1 counts as 1.

    Args:
        labels_BHW: int64 predicted class of the image that is cut from. Components are found on the CPU: this waits.
        valid_BHW: False on padding, which is no object.
        sigma_K: confidence of each class.
        draws: one source of random numbers an image: the rectangle takes its numbers first, then class and component.
    """
    labels, valid = labels_BHW.cpu().numpy(), valid_BHW.cpu().numpy()
    weight = (1 - sigma_K.detach().cpu().double().numpy()).clip(min=0)
    weight = np.exp(weight)
    mask = mix.half_area_mask(draws, *labels.shape[1:], probability=1.0)
    for i, source in enumerate(draws):
        box = _component_box(labels[i], valid[i], weight, source)
        if box is not None:
            mask[i] = False
            mask[i][box] = True
    return mask


def _component_box(
    labels: np.ndarray, valid: np.ndarray, weight: np.ndarray, source: Draws
) -> tuple[slice, ...] | None:
    area = np.bincount(labels[valid], minlength=len(weight))
    upto = np.cumsum(weight * (area >= PRESENT * labels.size))
    if upto[-1] == 0:
        return None
    drawn = int(np.searchsorted(upto, source.uniform() * upto[-1], side="right"))
    components = np.zeros(labels.shape, np.int32)
    ndimage.label((labels == drawn) & valid, structure=np.ones((3, 3)), output=components)
    large = np.flatnonzero(np.bincount(components.ravel())[1:] > COMPONENT * labels.size)
    if len(large) == 0:
        return None
    return ndimage.find_objects(components)[large[source.integer(0, len(large))]]
