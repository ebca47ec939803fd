"""fewmask.ops.metrics against a double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewmask.ops import metrics
from oracles import metrics as oracle

CLASSES = [1, 2, 21, 150, 180, 181, 200, 254, 255]


def maps(classes: int, seed: int, ignored: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and truth, uint8 [2, 17, 19], right in about half of the pixels."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, (2, 17, 19))
    prediction = np.where(random.random(truth.shape) < 0.5, truth, random.integers(0, classes, truth.shape))
    truth = np.where(random.random(truth.shape) < ignored, 255, truth)
    return prediction.astype(np.uint8), truth.astype(np.uint8)


@pytest.mark.parametrize("classes", CLASSES)
def test_confusion(classes: int) -> None:
    prediction, truth = maps(classes, classes)
    prediction[0, 0, :2], truth[0, 0, :2] = (classes - 1, 0), (classes - 1, classes - 1)  # the corners of the range
    matrix = metrics.confusion(torch.from_numpy(prediction), torch.from_numpy(truth), classes)
    assert matrix.dtype == torch.int64 and matrix.shape == (classes, classes)
    assert (matrix.numpy() == oracle.confusion(prediction, truth, classes)).all()
    assert matrix.sum().item() == (truth != 255).sum() < truth.size


@pytest.mark.parametrize("classes", [2, 150, 181])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_confusion_takes_any_integers(classes: int, dtype: torch.dtype) -> None:
    prediction, truth = maps(classes, 1)
    expected = oracle.confusion(prediction, truth, classes)
    for other in (torch.uint8, torch.int64):
        matrix = metrics.confusion(torch.from_numpy(prediction).to(dtype), torch.from_numpy(truth).to(other), classes)
        assert (matrix.numpy() == expected).all()


def test_confusion_of_nothing_labelled() -> None:
    prediction, truth = maps(3, 2)
    matrix = metrics.confusion(torch.from_numpy(prediction), torch.full(truth.shape, 255), 3)
    assert matrix.count_nonzero() == 0
    assert metrics.iou(matrix) == [None, None, None]
    assert metrics.mean_iou(matrix) is None and metrics.pixel_accuracy(matrix) is None


@pytest.mark.parametrize("classes", [2, 21, 150, 180, 200, 254])
@pytest.mark.parametrize("extra", [0, 1, 7])
def test_truth_out_of_range_raises(classes: int, extra: int) -> None:
    """Class K and beyond, up to 254, is no class and not IGNORE; nor is -1."""
    outside = min(classes + extra, 254)
    for truth in (outside, 254, -1):
        with pytest.raises(ValueError):
            metrics.confusion(torch.tensor([0, 1, 0]), torch.tensor([0, truth, 1]), classes)


@pytest.mark.parametrize("classes", [2, 21, 150, 180, 200, 255])
@pytest.mark.parametrize("beyond", [0, 1, 5, 300, 65536])
def test_prediction_out_of_range_raises(classes: int, beyond: int) -> None:
    """A network with more outputs than classes must not be scored in a neighbour's row."""
    for truth in (0, 1):
        for prediction in (classes + beyond, -1 - beyond):
            with pytest.raises(ValueError):
                metrics.confusion(torch.tensor([0, prediction]), torch.tensor([0, truth]), classes)


@pytest.mark.parametrize("classes", [2, 21, 255])
def test_iou(classes: int) -> None:
    prediction, truth = maps(classes, 3)
    truth[truth == 1] = 0  # class 1 is predicted, but absent from the truth
    matrix = metrics.confusion(torch.from_numpy(prediction), torch.from_numpy(truth), classes)
    assert (prediction[truth != 255] == 1).any()
    expected = oracle.iou(prediction, truth, classes)
    assert expected[1] is None and metrics.iou(matrix) == expected
    measured = [v for v in expected if v is not None]
    assert metrics.mean_iou(matrix) == pytest.approx(math.fsum(measured) / len(measured))
    counted = truth != 255
    assert metrics.pixel_accuracy(matrix) == pytest.approx(
        100 * int((prediction == truth)[counted].sum()) / int(counted.sum())
    )


def test_scores_on_a_matrix_worked_out_by_hand() -> None:
    matrix = torch.tensor([[3, 1, 0], [2, 4, 1], [0, 0, 0]])
    # |T∩P| / (|T| + |P| - |T∩P|); class 2 is predicted once and never true
    assert metrics.iou(matrix) == [100 * 3 / (4 + 5 - 3), 100 * 4 / (7 + 5 - 4), None]
    assert metrics.mean_iou(matrix) == pytest.approx((50 + 50) / 2)
    assert metrics.pixel_accuracy(matrix) == 100 * 7 / 11


def test_agreement_counts_the_classes_of_either_map() -> None:
    """Two maps of six pixels: class 0 shares 2 of 4, class 1 1 of 3, class 2 is in the second alone, 3 in neither."""
    one, other = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 2, 0, 1, 2])
    matrix = metrics.confusion(one, other, 4)
    assert metrics.agreement(matrix) == pytest.approx(100 * (2 / 4 + 1 / 3 + 0) / 3)
    assert metrics.agreement(metrics.confusion(one, one, 4)) == 100
    assert metrics.agreement(matrix) == metrics.agreement(matrix.T)


def test_matrices_add_up() -> None:
    prediction, truth = maps(21, 4)
    parts = [metrics.confusion(torch.from_numpy(prediction[i]), torch.from_numpy(truth[i]), 21) for i in range(2)]
    assert torch.equal(
        parts[0] + parts[1], metrics.confusion(torch.from_numpy(prediction), torch.from_numpy(truth), 21)
    )


def test_more_pixels_than_a_float32_can_count() -> None:
    matrix = torch.tensor([[2**53 - 2, 1], [0, 2**24 + 1]])
    assert metrics.iou(matrix)[1] == 100 * (2**24 + 1) / (2**24 + 2)
