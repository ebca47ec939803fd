"""Parameter groups and learning rates."""

import pytest
import torch
from torch import nn

from fewmask.engine.optim import OptimConfig, learning_rate, make_optimiser, set_learning_rate
from fewmask.nets.tiny import tiny


def test_encoder_and_head_learn_at_their_own_rates():
    net = tiny(3)
    optimiser = make_optimiser(net, OptimConfig(lr=0.01, head_lr_mult=10, weight_decay=0.1))
    encoder = {id(p) for p in net.encoder.parameters()}
    seen = 0
    for group in optimiser.param_groups:
        for p in group["params"]:
            seen += 1
            assert group["lr"] == pytest.approx(0.01 if id(p) in encoder else 0.1)
            assert group["weight_decay"] == (0.1 if p.ndim > 1 else 0.0)
    assert seen == len(list(net.parameters()))


def test_decay_all_and_frozen_parameters():
    net = tiny(3)
    net.encoder.requires_grad_(False)
    optimiser = make_optimiser(net, OptimConfig(weight_decay=0.1, decay_all=True))
    assert {g["weight_decay"] for g in optimiser.param_groups} == {0.1}
    assert sum(len(g["params"]) for g in optimiser.param_groups) == sum(p.requires_grad for p in net.parameters())


def test_a_network_without_encoder_learns_at_the_plain_rate():
    critic = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1))
    optimiser = make_optimiser(critic, OptimConfig(lr=0.01, head_lr_mult=10))
    assert {g["lr"] for g in optimiser.param_groups} == {0.01}


def test_poly_and_warmup():
    cfg = OptimConfig(lr=0.2, power=0.9, warmup_steps=4)
    assert learning_rate(cfg, 0, 100) == pytest.approx(0.2 / 4)
    assert learning_rate(cfg, 3, 100) == pytest.approx(0.2 * 0.97**0.9)
    assert learning_rate(cfg, 50, 100) == pytest.approx(0.2 * 0.5**0.9)
    assert learning_rate(OptimConfig(lr=0.2, power=0), 99, 100) == pytest.approx(0.2)


def test_set_learning_rate_keeps_the_ratio():
    optimiser = make_optimiser(tiny(3), OptimConfig(lr=0.01, head_lr_mult=10))
    set_learning_rate(optimiser, 0.002)
    assert sorted({g["lr"] for g in optimiser.param_groups}) == pytest.approx([0.002, 0.02])


def test_sgd_step_is_the_written_one():
    """v <- 0.9 v + (g + wd·θ); θ <- θ - lr·v, with decay on weights only."""
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias.fill_(1.0)
    optimiser = make_optimiser(net, OptimConfig(name="sgd", lr=0.1, weight_decay=0.5, head_lr_mult=1))
    for _ in range(2):
        net.weight.grad, net.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 3.0)
        optimiser.step()
    v1 = 3 + 0.5 * 2
    w1 = 2 - 0.1 * v1
    v2 = 0.9 * v1 + 3 + 0.5 * w1
    assert net.weight.item() == pytest.approx(w1 - 0.1 * v2)
    assert net.bias.item() == pytest.approx(1 - 0.1 * 3 - 0.1 * (0.9 * 3 + 3))
