"""fewmask.ops.losses and fewmask.supervision against the slow oracles."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fewmask.method import Task
from fewmask.ops import losses
from fewmask.supervision import Supervision
from oracles import losses as oracle

K = 4
WEIGHTS = [0.5, 2.0, 0.0, 1.25]


def scene(seed: int, ignored: float = 0.25, classes: int = K) -> tuple[Tensor, Tensor]:
    """Return float64 logits [2, K, 5, 3] and labels [2, 5, 3] of which a share is ignored."""
    g = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, 5, 3, generator=g, dtype=torch.float64)
    labels = torch.randint(0, classes, (2, 5, 3), generator=g)
    labels[torch.rand(2, 5, 3, generator=g) < ignored] = 255
    return logits, labels


def near(value: Tensor, expected: float, tolerance: float = 1e-9) -> None:
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, rel=tolerance, abs=tolerance)


def dice_and_ce(logits: Tensor, labels: Tensor) -> Tensor:
    return Supervision(loss="ce+dice")(logits, labels, Task(K))


EVERY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce": losses.cross_entropy,
    "ce, class weights": lambda z, y: losses.cross_entropy(z, y, torch.tensor(WEIGHTS, dtype=z.dtype)),
    "weighted": lambda z, y: losses.weighted_cross_entropy(z, y, y != 255, (y != 255).sum()),
    "ohem, threshold": lambda z, y: losses.ohem_cross_entropy(z, y, 0.7, 2),
    "ohem, count": lambda z, y: losses.ohem_cross_entropy(z, y, 0.01, 7),
    "ohem, too few": lambda z, y: losses.ohem_cross_entropy(z, y, 0.01, 1000),
    "focal": lambda z, y: losses.focal(z, y, 2.0),
    "focal, root": lambda z, y: losses.focal(z, y, 0.5),
    "dice": losses.dice,
    "ce+dice": dice_and_ce,
    "mse": lambda z, y: losses.softmax_mse(z.softmax(1), z.detach().flip(1).softmax(1), y != 255),
}


@pytest.mark.parametrize("seed", range(4))
def test_cross_entropy(seed: int) -> None:
    logits, labels = scene(seed)
    near(losses.cross_entropy(logits, labels), oracle.cross_entropy(logits.numpy(), labels.numpy()))
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    near(
        losses.cross_entropy(logits, labels, weight),
        oracle.cross_entropy(logits.numpy(), labels.numpy(), WEIGHTS),
    )


def test_cross_entropy_where_all_weight_is_zero() -> None:
    logits, _ = scene(0)
    logits.requires_grad_()
    labels = torch.full((2, 5, 3), 2)  # the class of weight 0
    loss = losses.cross_entropy(logits, labels, torch.tensor(WEIGHTS, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and gradient.count_nonzero() == 0


@pytest.mark.parametrize(
    ("name", "denominator"),
    [
        ("all pixels (CPS, AugSeg)", lambda y, w: y.numel()),
        ("valid pixels (UniMatch)", lambda y, w: (y != 255).sum().item()),
        ("selected pixels", lambda y, w: ((w > 0) & (y != 255)).sum().item()),
        ("mass of the weights (AEL)", lambda y, w: (w * (y != 255)).sum().item()),
        ("U2PL: n² / BHW", lambda y, w: (y != 255).sum().item() ** 2 / y.numel()),
    ],
)
def test_weighted_cross_entropy(name: str, denominator: Callable[[Tensor, Tensor], float]) -> None:
    logits, labels = scene(1)
    weight = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight[weight < 0.3] = 0
    d = denominator(labels, weight)
    assert d > 1, name
    near(
        losses.weighted_cross_entropy(logits, labels, weight, torch.tensor(d, dtype=torch.float64)),
        oracle.weighted_cross_entropy(logits.numpy(), labels.numpy(), weight.numpy(), d),
    )


def test_weighted_cross_entropy_with_a_mask_and_an_empty_selection() -> None:
    logits, labels = scene(2)
    mask = labels > 1
    near(
        losses.weighted_cross_entropy(logits, labels, mask, torch.tensor(30)),
        oracle.weighted_cross_entropy(logits.numpy(), labels.numpy(), mask.numpy(), 30),
    )
    logits.requires_grad_()
    nothing = torch.zeros_like(mask)
    loss = losses.weighted_cross_entropy(logits, labels, nothing, nothing.sum())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0 and gradient.count_nonzero() == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("min_kept", [1, 5, 12, 22, 29, 30, 31, 500])
def test_ohem(seed: int, threshold: float, min_kept: int) -> None:
    logits, labels = scene(seed)
    near(
        losses.ohem_cross_entropy(logits, labels, threshold, min_kept),
        oracle.ohem(logits.numpy(), labels.numpy(), threshold, min_kept),
    )


def test_ohem_at_and_below_the_number_of_labelled_pixels() -> None:
    """All labelled pixels train when min_kept is at least their number; one fewer drops the easiest."""
    logits, labels = scene(5)
    valid = int((labels != 255).sum())
    p = sorted(float(p[y]) for p, y in oracle.pixels(logits.numpy(), labels.numpy()))
    assert 0.01 < p[-2] < p[-1]
    for kept in (valid - 1, valid, valid + 1):
        hardest = p[:kept]
        near(
            losses.ohem_cross_entropy(logits, labels, 0.0, kept),
            math.fsum(-math.log(v) for v in hardest) / len(hardest),
        )


def test_ohem_keeps_ties() -> None:
    """Of pixels as hard as the min_kept-th, all stay: p <= threshold."""
    p = [0.2, 0.4, 0.4, 0.4, 0.9, 0.95]
    logits = torch.tensor([[math.log(v), math.log(1 - v)] for v in p], dtype=torch.float64)
    logits = logits.T.reshape(1, 2, 2, 3)
    labels = torch.zeros(1, 2, 3, dtype=torch.int64)
    for min_kept in (2, 3, 4):
        near(
            losses.ohem_cross_entropy(logits, labels, 0.3, min_kept),
            -(math.log(0.2) + 3 * math.log(0.4)) / 4,
        )
    near(losses.ohem_cross_entropy(logits, labels, 0.3, 1), -math.log(0.2))
    near(
        losses.ohem_cross_entropy(logits, labels, 0.3, 5),
        -(math.log(0.2) + 3 * math.log(0.4) + math.log(0.9)) / 5,
    )


def test_ohem_trains_only_what_it_keeps() -> None:
    """d/dz of the mean of -log softmax(z)[y] over n pixels is (p - onehot) / n; 0 elsewhere."""
    p = [[0.2, 0.8], [0.6, 0.4], [0.9, 0.1], [0.5, 0.5]]
    logits = torch.tensor(p, dtype=torch.float64).log().T.reshape(1, 2, 2, 2).requires_grad_()
    labels = torch.tensor([[[0, 0], [0, 255]]])
    loss = losses.ohem_cross_entropy(logits, labels, 0.7, 1)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = [[(0.2 - 1) / 2, 0.8 / 2], [(0.6 - 1) / 2, 0.4 / 2], [0, 0], [0, 0]]
    assert gradient.reshape(2, 4).T.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("seed", range(2))
def test_focal(seed: int, gamma: float) -> None:
    logits, labels = scene(seed)
    # the loss clamps 1 - p at 1e-7, so that x**gamma keeps a derivative
    near(losses.focal(logits, labels, gamma), oracle.focal(logits.numpy(), labels.numpy(), gamma), 1e-6)


def test_focal_without_gamma_is_cross_entropy() -> None:
    logits, labels = scene(3)
    near(losses.focal(logits, labels, 0.0), oracle.cross_entropy(logits.numpy(), labels.numpy()))


def test_focal_of_a_certain_pixel_has_a_finite_gradient() -> None:
    logits = torch.tensor([200.0, 0.0]).reshape(1, 2, 1, 1).requires_grad_()
    for gamma in (0.0, 0.5, 2.0):
        loss = losses.focal(logits, torch.zeros(1, 1, 1, dtype=torch.int64), gamma)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.item() == 0 and gradient.isfinite().all()


@pytest.mark.parametrize("eps", [1.0, 1e-3])
@pytest.mark.parametrize("seed", range(3))
def test_dice(seed: int, eps: float) -> None:
    logits, labels = scene(seed)
    near(losses.dice(logits, labels, eps), oracle.dice(logits.numpy(), labels.numpy(), eps))
    labels[labels == 1] = 2  # class 1 does not occur
    near(losses.dice(logits, labels, eps), oracle.dice(logits.numpy(), labels.numpy(), eps))


@pytest.mark.parametrize("seed", range(3))
def test_softmax_mse(seed: int) -> None:
    a, labels = scene(seed)
    b, _ = scene(seed + 100)
    valid = labels != 255
    p, q = a.softmax(1), b.softmax(1)
    near(losses.softmax_mse(p, q, valid), oracle.mean_square(p.numpy(), q.numpy(), valid.numpy()))
    near(losses.softmax_mse(a, b, valid), oracle.mean_square(a.numpy(), b.numpy(), valid.numpy()))


@pytest.mark.parametrize(
    "frequency",
    [
        [0.5, 0.3, 0.2],
        [0.7, 0.0, 0.2, 0.1],  # the absent class is not among those of the median
        [1.0],
        [0.0, 0.0],
        [0.5, 0.3, 0.15, 0.05],
    ],
)
def test_median_frequency(frequency: list[float]) -> None:
    weights = losses.median_frequency_weights(torch.tensor(frequency, dtype=torch.float64))
    assert weights.tolist() == pytest.approx(oracle.median_frequency(frequency))


@pytest.mark.parametrize("name", EVERY)
def test_all_ignored_is_exactly_zero(name: str) -> None:
    logits, labels = scene(4)
    logits = logits.float().requires_grad_()
    loss = EVERY[name](logits, torch.full_like(labels, 255))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == 0.0 and loss.shape == ()
    assert gradient.count_nonzero() == 0  # NaN would count


@pytest.mark.parametrize("name", EVERY)
def test_ignored_pixels_get_no_gradient(name: str) -> None:
    logits, labels = scene(6)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(EVERY[name](logits, labels), logits)
    ignored = (labels == 255).unsqueeze(1).expand_as(gradient)
    assert ignored.any() and gradient[ignored].count_nonzero() == 0
    assert gradient[~ignored].count_nonzero() > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_the_slope(name: str) -> None:
    """Central differences of the loss itself, at places where a threshold does not move."""
    logits, labels = scene(7)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(EVERY[name](logits, labels), logits)
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-5
    if name == "mse":  # the target is detached: hold it still
        target = logits.detach().flip(1).softmax(1)

        def loss(z: Tensor) -> Tensor:
            return losses.softmax_mse(z.softmax(1), target, labels != 255)
    else:
        loss = lambda z: EVERY[name](z, labels)  # noqa: E731
    with torch.no_grad():
        slope = (loss(logits + step * direction) - loss(logits - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-9)


def test_single_precision_agrees() -> None:
    logits, labels = scene(8)
    for name, loss in EVERY.items():
        assert loss(logits.float(), labels).item() == pytest.approx(loss(logits, labels).item(), rel=1e-4), name


# --- Supervision ------------------------------------------------------------------------------------------------


def test_supervision_chooses_the_loss() -> None:
    logits, labels = scene(9)
    z, y, task = logits.numpy(), labels.numpy(), Task(K)
    near(Supervision()(logits, labels, task), oracle.cross_entropy(z, y))
    near(Supervision(loss="focal", focal_gamma=1.5)(logits, labels, task), oracle.focal(z, y, 1.5), 1e-6)
    near(Supervision(loss="dice")(logits, labels, task), oracle.dice(z, y))
    near(Supervision(loss="ce+dice")(logits, labels, task), oracle.cross_entropy(z, y) + oracle.dice(z, y))
    near(Supervision(class_weights=tuple(WEIGHTS))(logits, labels, task), oracle.cross_entropy(z, y, WEIGHTS))
    near(
        Supervision(loss="ce+dice", class_weights=tuple(WEIGHTS))(logits, labels, task),
        oracle.cross_entropy(z, y, WEIGHTS) + oracle.dice(z, y),
    )


@pytest.mark.parametrize(("given", "kept"), [(0.2, 6), (0.9, 27), (4, 4), (1.0, 1), (100, 100)])
def test_ohem_min_kept_is_a_share_below_one_and_a_count_from_one_on(given: float, kept: int) -> None:
    logits, labels = scene(10)  # 30 pixels: the share is of all, labelled or not
    supervision = Supervision(loss="ohem", ohem_threshold=0.05, ohem_min_kept=given)
    near(supervision(logits, labels, Task(K)), oracle.ohem(logits.numpy(), labels.numpy(), 0.05, kept))


def test_balanced_weights() -> None:
    logits, labels = scene(11, classes=3)
    frequency = (0.6, 0.3, 0.1)
    near(
        Supervision(class_weights="balanced")(logits, labels, Task(3, frequency)),
        oracle.cross_entropy(logits.numpy(), labels.numpy(), [0.3 / 0.6, 0.3 / 0.3, 0.3 / 0.1]),
        1e-6,  # the weights are float32
    )


def test_weights_that_do_not_fit_are_refused() -> None:
    logits, labels = scene(12)
    with pytest.raises(ValueError, match="3 values for 4 classes"):
        Supervision(class_weights=(1.0, 1.0, 1.0))(logits, labels, Task(K))
    with pytest.raises(ValueError, match="frequencies"):
        Supervision(class_weights="balanced")(logits, labels, Task(K))


@pytest.mark.parametrize("loss", ["ce", "ohem", "focal", "dice", "ce+dice"])
def test_supervision_without_a_labelled_pixel_is_zero(loss: str) -> None:
    logits, labels = scene(13)
    logits.requires_grad_()
    value = Supervision.model_validate({"loss": loss})(logits, torch.full_like(labels, 255), Task(K))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0.0 and gradient.count_nonzero() == 0


def test_oracle_on_numbers_worked_out_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.8], [0.5, 0.2]])).reshape(1, 2, 1, 2)
    labels = np.array([[[1, 0]]])
    assert oracle.cross_entropy(logits, labels) == pytest.approx((math.log(2) - math.log(0.8)) / 2)
    assert oracle.focal(logits, labels, 2) == pytest.approx((0.25 * math.log(2) - 0.04 * math.log(0.8)) / 2)
    both = ((2 * 0.8 + 1) / (1.3 + 1 + 1) + (2 * 0.5 + 1) / (0.7 + 1 + 1)) / 2
    assert oracle.dice(logits, labels) == pytest.approx(1 - both)
    assert oracle.ohem(logits, labels, 0.7, 1) == pytest.approx(math.log(2))
