"""Confusion matrix and IoU by a double loop over the classes."""

import numpy as np

IGNORE = 255


def confusion(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Return [K, K] pixel counts, rows truth, columns prediction, without the ignored pixels."""
    out = np.zeros((classes, classes), dtype=np.int64)
    for t in range(classes):
        for p in range(classes):
            out[t, p] = int(np.sum((truth == t) & (prediction == p) & (truth != IGNORE)))
    return out


def iou(prediction: np.ndarray, truth: np.ndarray, classes: int) -> list[float | None]:
    """Return 100·|T∩P| / |T∪P| of each class over the labelled pixels; None where T is empty."""
    counted = truth != IGNORE
    out: list[float | None] = []
    for c in range(classes):
        t, p = (truth == c) & counted, (prediction == c) & counted
        out.append(100.0 * int((t & p).sum()) / int((t | p).sum()) if t.any() else None)
    return out
