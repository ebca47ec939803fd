"""Schedules and the moving average, against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fewmask.ops import ema, ramp
from oracles.average import ema as closed_form


def test_sigmoid_ramp() -> None:
    """Laine and Aila, ICLR 2017: exp(-5 (1 - t/T)²)."""
    assert ramp.sigmoid_ramp(0, 40) == math.exp(-5)
    assert ramp.sigmoid_ramp(10, 40) == pytest.approx(math.exp(-5 * 0.75**2))
    assert ramp.sigmoid_ramp(20, 40) == pytest.approx(math.exp(-5 / 4))
    assert ramp.sigmoid_ramp(39, 40) == pytest.approx(math.exp(-5 / 1600))
    assert [ramp.sigmoid_ramp(t, 40) for t in (40, 41, 10**9)] == [1, 1, 1]
    assert ramp.sigmoid_ramp(0, 0) == 1  # no ramp
    values = [ramp.sigmoid_ramp(t, 40) for t in range(45)]
    assert values == sorted(values)


def test_poly() -> None:
    assert ramp.poly(0, 100) == 1
    assert ramp.poly(25, 100) == pytest.approx(0.75**0.9)
    assert ramp.poly(99, 100) == pytest.approx(0.01**0.9)
    assert ramp.poly(100, 100) == 0 == ramp.poly(140, 100)
    assert ramp.poly(50, 100, power=2) == pytest.approx(0.25)


def test_warmup() -> None:
    assert [ramp.warmup(t, 4) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert ramp.warmup(0, 0) == 1


def test_ema_decay() -> None:
    assert [ramp.ema_decay(t, 0.99) for t in (0, 1, 3, 98, 99, 10**6)] == [
        0,
        1 - 1 / 2,
        1 - 1 / 4,
        pytest.approx(1 - 1 / 99),
        pytest.approx(0.99),
        0.99,
    ]
    assert ramp.ema_decay(0, 0.0) == 0 == ramp.ema_decay(7, 0.0)


def network(seed: int) -> nn.Sequential:
    """Return a network with weights, BatchNorm statistics that have moved, and an integer buffer."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    net.train()
    for _ in range(seed + 1):
        net(torch.randn(5, 2, dtype=torch.float64))
    return net


@pytest.mark.parametrize("ramped", [False, True])
def test_closed_form_of_parameters_and_buffers(ramped: bool) -> None:
    students = [network(seed) for seed in range(1, 7)]
    decays = [ramp.ema_decay(t, 0.6) if ramped else 0.9 for t in range(len(students))]
    teacher = ema.ema_copy(network(0))
    start = {k: v.clone() for k, v in teacher.state_dict().items()}
    for student, decay in zip(students, decays, strict=True):
        ema.ema_update(teacher, student, decay)
    for name, value in teacher.state_dict().items():
        history = [s.state_dict()[name] for s in students]
        if not value.is_floating_point():
            assert value.item() == history[-1].item()  # num_batches_tracked: copied
            continue
        expected = [
            closed_form(a, list(column), decays)
            for a, *column in zip(start[name].flatten().tolist(), *(h.flatten().tolist() for h in history), strict=True)
        ]
        assert value.flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12), name


def test_ramped_average_is_plain_at_first() -> None:
    students = [network(seed) for seed in range(1, 5)]
    teacher = ema.ema_copy(network(0))
    for t, student in enumerate(students):
        ema.ema_update(teacher, student, ramp.ema_decay(t, 0.99))
    for mine, *theirs in zip(teacher.parameters(), *(s.parameters() for s in students), strict=True):
        assert torch.allclose(mine, torch.stack(theirs).mean(0), atol=1e-12)  # nothing of its own start is left


def test_decay_zero_copies_exactly() -> None:
    teacher, student = ema.ema_copy(network(0)), network(3)
    ema.ema_update(teacher, student, 0.0)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, student.state_dict()[name]), name


def test_buffers_can_be_left_alone() -> None:
    teacher, student = ema.ema_copy(network(0)), network(3)
    before = {k: v.clone() for k, v in teacher.named_buffers()}
    weights = [p.clone() for p in teacher.parameters()]
    ema.ema_update(teacher, student, 0.75, buffers=False)
    assert all(torch.equal(v, before[k]) for k, v in teacher.named_buffers())
    for mine, old, new in zip(teacher.parameters(), weights, student.parameters(), strict=True):
        assert torch.allclose(mine, 0.75 * old + 0.25 * new, atol=1e-12)


def test_copy_is_separate_and_without_gradient() -> None:
    student = network(1)
    teacher = ema.ema_copy(student)
    assert all(not p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters(), strict=True))
    kept = [p.clone() for p in student.parameters()]
    with torch.no_grad():
        for p in teacher.parameters():
            p.zero_()
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), kept, strict=True))


def test_update_leaves_the_student_and_makes_no_graph() -> None:
    teacher, student = ema.ema_copy(network(0)), network(2)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    ema.ema_update(teacher, student, 0.5)
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert all(p.grad_fn is None and not p.requires_grad for p in teacher.parameters())
