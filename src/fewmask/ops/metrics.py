"""Exact integer scores: confusion matrix, IoU, pixel accuracy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

IGNORE = 255


def confusion(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Return the confusion matrix int64 [K, K], rows truth, columns prediction, pixels with truth IGNORE left out.

    One ``bincount`` over truth·(K+1) + prediction, with IGNORE as row K: no mask, no copy to int64 (int16 holds the
    index up to K = 180, int32 beyond).

    Args:
        prediction: class indices 0..K-1, any integer dtype, any shape.
        truth: class indices 0..K-1 or IGNORE, same shape.
        classes: K.

    Raises:
        ValueError: a truth or prediction is outside its range.
    """
    void = truth == IGNORE if classes <= IGNORE else torch.zeros_like(truth, dtype=torch.bool)
    for what, values in (("prediction", prediction), ("truth", truth.masked_fill(void, 0))):
        low, high = (int(v) for v in torch.aminmax(values)) if values.numel() else (0, 0)
        if low < 0 or high >= classes:
            raise ValueError(f"{what} holds the class index {low if low < 0 else high}, outside 0..{classes - 1}")
    wide = torch.int16 if classes <= 180 else torch.int32
    row = truth.to(wide).masked_fill(void, classes)
    index = (row * (classes + 1) + prediction.to(wide)).flatten()
    return torch.bincount(index, minlength=(classes + 1) ** 2).view(classes + 1, classes + 1)[:classes, :classes]


def iou(matrix_KK: Tensor) -> list[float | None]:
    """Return each class's intersection over union in percent; None for a class that the truth does not contain.

    A class that is absent from the truth but predicted somewhere is not measured (None): its IoU would be 0 whatever
    the network does well. Its false positives still count in the unions of the others' truth.
    """
    hit = matrix_KK.diagonal().tolist()
    truth, predicted = matrix_KK.sum(1).tolist(), matrix_KK.sum(0).tolist()
    return [None if t == 0 else 100.0 * h / (t + p - h) for h, t, p in zip(hit, truth, predicted, strict=True)]


def dice(matrix_KK: Tensor) -> list[float | None]:
    """Return each class's Dice coefficient, or F1 of its pixels, in percent: 2·IoU / (1 + IoU); None as in ``iou``."""
    return [None if v is None else 200.0 * v / (100.0 + v) for v in iou(matrix_KK)]


def mean_iou(matrix_KK: Tensor) -> float | None:
    """Return the mean IoU in percent over the classes that the truth contains; None where there is none."""
    measured = [v for v in iou(matrix_KK) if v is not None]
    return math.fsum(measured) / len(measured) if measured else None


def agreement(matrix_KK: Tensor) -> float:
    """Return how far two predictions of one image agree: mean IoU in percent over the classes that either contains.

    Image-level reliability of ST++ (Yang et al., CVPR 2022) is its mean over several earlier networks.

    Args:
        matrix_KK: ``confusion`` of the two, not empty.
    """
    hit_K, union_K = matrix_KK.diagonal(), matrix_KK.sum(0) + matrix_KK.sum(1) - matrix_KK.diagonal()
    there_K = union_K > 0
    return 100 * (hit_K[there_K].double() / union_K[there_K]).mean().item()


def pixel_accuracy(matrix_KK: Tensor) -> float | None:
    """Return the share of labelled pixels that are right, in percent; None where none is labelled."""
    total = int(matrix_KK.sum())
    return 100.0 * int(matrix_KK.diagonal().sum()) / total if total else None
