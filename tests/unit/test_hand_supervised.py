"""The supervised baseline on a 2x2 image, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fewmask.method import Task
from fewmask.methods.supervised import Supervised
from hand import Table, ce, items, slope, step, total_slope

P = [(0.7, 0.2, 0.1), (0.5, 0.25, 0.25), (0.1, 0.8, 0.1), (0.2, 0.2, 0.6)]
IMAGE = [[0, 1], [2, 3]]
MASK = [[0, 1], [1, 2]]
# so the true classes have these probabilities, in reading order
TRUE = [0.7, 0.25, 0.8, 0.6]


TASK = Task(3)


def loss(mask: list = MASK, task: Task = TASK, **sup: object) -> tuple[float, list[list[float]]]:
    """Return the term and its gradient in the table, after the checks that hold for every loss."""
    method = Supervised(Supervised.Config.model_validate({"sup": sup}), task)
    net = Table(P)
    terms = method.losses({"net": net}, {"l": items([IMAGE], mask=[mask])}, step(l=1), {})
    assert set(terms) == set(method.flow) == {"sup"} and terms["sup"].shape == ()
    assert net.seen == [([IMAGE], True, True)]
    return terms["sup"].item(), net.gradient(terms["sup"])


def same(table: list[list[float]], expected: list[list[float]]) -> None:
    assert table == [pytest.approx(row, abs=1e-7) for row in expected]


def test_cross_entropy() -> None:
    """CPS Eq. 4 for one network: (1/WH) Σ_i -log p_i[y_i]."""
    value, gradient = loss()
    assert value == pytest.approx(-(math.log(0.7) + math.log(0.25) + math.log(0.8) + math.log(0.6)) / 4)
    same(gradient, total_slope(4, [(1 / 4, code, slope(P[code], y)) for code, y in enumerate([0, 1, 1, 2])]))


def test_ignored_pixels_count_nowhere() -> None:
    value, gradient = loss([[0, 255], [1, 255]])
    assert value == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2)
    same(gradient, total_slope(4, [(1 / 2, 0, slope(P[0], 0)), (1 / 2, 2, slope(P[2], 1))]))


def test_nothing_labelled() -> None:
    value, gradient = loss([[255, 255], [255, 255]])
    assert value == 0
    same(gradient, [[0, 0, 0]] * 4)


def test_mean_is_over_pixels_of_the_batch_not_over_images() -> None:
    method = Supervised(Supervised.Config(), Task(3))
    batch = {"l": items([IMAGE, IMAGE], mask=[MASK, [[255, 255], [255, 2]]])}
    terms = method.losses({"net": Table(P)}, batch, step(l=2), {})
    expected = (sum(-math.log(p) for p in TRUE) + ce(P[3], 2)) / 5
    assert terms["sup"].item() == pytest.approx(expected)


def test_class_weights() -> None:
    """Σ w[y]·CE / Σ w[y], the convention of torch.nn.CrossEntropyLoss."""
    value, _ = loss(class_weights=(1.0, 3.0, 0.5))
    above = -(1 * math.log(0.7) + 3 * math.log(0.25) + 3 * math.log(0.8) + 0.5 * math.log(0.6))
    assert value == pytest.approx(above / (1 + 3 + 3 + 0.5))


def test_median_frequency_weights() -> None:
    """Frequencies 1/4, 1/2, 1/4 have median 1/4: weights 1, 1/2, 1."""
    value, _ = loss(task=Task(3, (0.25, 0.5, 0.25)), class_weights="balanced")
    above = -(math.log(0.7) + 0.5 * math.log(0.25) + 0.5 * math.log(0.8) + math.log(0.6))
    assert value == pytest.approx(above / (1 + 0.5 + 0.5 + 1))


def test_ohem_by_threshold() -> None:
    """Of p = .7 .25 .8 .6, those not above .65 train, and no fewer than one."""
    value, gradient = loss(loss="ohem", ohem_threshold=0.65, ohem_min_kept=1)
    assert value == pytest.approx(-(math.log(0.25) + math.log(0.6)) / 2)
    same(gradient, total_slope(4, [(1 / 2, 1, slope(P[1], 1)), (1 / 2, 3, slope(P[3], 2))]))


def test_ohem_by_count() -> None:
    """Three of four (a share of 0.75) must train: the threshold rises to the third smallest, 0.7."""
    for kept in (3, 0.75):
        value, _ = loss(loss="ohem", ohem_threshold=0.3, ohem_min_kept=kept)
        assert value == pytest.approx(-(math.log(0.25) + math.log(0.6) + math.log(0.7)) / 3)


def test_ohem_does_not_mine_few_pixels() -> None:
    value, _ = loss([[0, 255], [1, 255]], loss="ohem", ohem_threshold=0.3, ohem_min_kept=3)
    assert value == pytest.approx(-(math.log(0.7) + math.log(0.8)) / 2)


def test_focal() -> None:
    """Lin et al. Eq. 4: -(1 - p)^γ log p."""
    value, _ = loss(loss="focal", focal_gamma=2.0)
    assert value == pytest.approx(sum(-((1 - p) ** 2) * math.log(p) for p in TRUE) / 4)


def dice() -> float:
    """(2 Σ p·y + 1) / (Σ p + Σ y + 1) of the three classes: columns of P, and MASK's 1, 2, 1 pixels."""
    d0 = (2 * 0.7 + 1) / ((0.7 + 0.5 + 0.1 + 0.2) + 1 + 1)
    d1 = (2 * (0.25 + 0.8) + 1) / ((0.2 + 0.25 + 0.8 + 0.2) + 2 + 1)
    d2 = (2 * 0.6 + 1) / ((0.1 + 0.25 + 0.1 + 0.6) + 1 + 1)
    return 1 - (d0 + d1 + d2) / 3


def test_dice() -> None:
    assert loss(loss="dice")[0] == pytest.approx(dice())
    # without the pixel of class 2, that class is left out, and its pixel's probabilities too
    d0 = (2 * 0.7 + 1) / ((0.7 + 0.5 + 0.1) + 1 + 1)
    d1 = (2 * (0.25 + 0.8) + 1) / ((0.2 + 0.25 + 0.8) + 2 + 1)
    assert loss([[0, 1], [1, 255]], loss="dice")[0] == pytest.approx(1 - (d0 + d1) / 2)


def test_cross_entropy_and_dice() -> None:
    assert loss(loss="ce+dice")[0] == pytest.approx(-sum(math.log(p) for p in TRUE) / 4 + dice())


def test_one_view_of_labelled_images() -> None:
    method = Supervised(Supervised.Config(), Task(3))
    assert method.streams["l"].views == ("weak",) and set(method.streams) == {"l"}
    batch = {"l": items([IMAGE], kinds=method.streams["l"].views, mask=[MASK])}
    terms = method.losses({"net": Table(P)}, batch, step(l=1), {})
    assert terms["sup"].item() == pytest.approx(-sum(math.log(p) for p in TRUE) / 4)


def test_networks() -> None:
    method = Supervised(Supervised.Config(), Task(3))
    nets = method.networks(lambda name: torch.nn.Conv2d(1, 3, 1))
    assert tuple(nets) == ("net",) == tuple(method.predictors)
