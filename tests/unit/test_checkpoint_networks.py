"""Networks and optimisers from a checkpoint: bit for bit, in place, and others are refused (reliability F1)."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from fewmask.engine.checkpoint import (
    Snapshot,
    Store,
    flatten_optimiser,
    load_networks,
    networks_to_flat,
    restore_optimiser,
)
from fewmask.errors import CheckpointError
from fixtures_checkpoint import assert_same

torch.set_num_threads(1)


# ---- networks


def _net():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.register_buffer("bank", torch.randn(2, 3, dtype=torch.float16))
    return net


def test_networks_come_back_in_place(tmp_path):
    torch.manual_seed(0)
    source = {"student": _net(), "teacher": _net()}
    source["student"].to(memory_format=torch.channels_last)
    source["teacher"][0].bias = source["student"][0].bias  # shared memory, which safetensors alone refuses
    flat = networks_to_flat(source)
    kept = {key: value.clone() for key, value in flat.items()}
    with torch.no_grad():
        source["student"][0].bias.add_(1)
    assert_same(flat, kept)  # a copy, not a view
    store = Store(tmp_path)
    store.save(Snapshot(0, flat, {}, {}))
    nets = {"student": _net().to(memory_format=torch.channels_last), "teacher": _net()}
    before = {key: value.data_ptr() for key, value in nets["student"].state_dict().items()}
    load_networks(nets, store.load(0).networks)
    assert_same(networks_to_flat(nets), kept)
    assert {key: value.data_ptr() for key, value in nets["student"].state_dict().items()} == before
    assert nets["student"][0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda flat: flat.pop("a.0.bias"), "1 missing: a.0.bias"),
        (lambda flat: flat.update({"a.9.x": torch.ones(1), "b.y": torch.ones(1)}), "2 unexpected: a.9.x, b.y"),
        (lambda flat: flat.update({"a.0.bias": torch.ones(5)}), r"a.0.bias \(float32 \[5\], .* float32 \[4\]\)"),
        (lambda flat: flat.update({"a.0.bias": torch.ones(4).half()}), r"1 different: a.0.bias \(float16 \[4\]"),
    ],
)
def test_other_networks_are_refused_and_nothing_is_copied(change, said):
    nets = {"a": _net()}
    before = networks_to_flat(nets)
    flat = {key: torch.zeros_like(value) for key, value in before.items()}
    change(flat)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_networks(nets, flat)
    assert caught.value.exit_code == 4
    assert_same(networks_to_flat(nets), before)


# ---- optimisers


def _adamw(parameters, **options):
    return torch.optim.AdamW(parameters, lr=0.1 * 3, betas=(0.9, 0.98), fused=False, **options)


def _sgd(parameters, **options):
    return torch.optim.SGD(parameters, lr=1 / 3, weight_decay=1e-4, **options)


OPTIMISERS = {
    "adamw": lambda p: _adamw(p, foreach=False),
    "adamw-foreach": lambda p: _adamw(p, foreach=True),
    "adamw-amsgrad": lambda p: _adamw(p, amsgrad=True),
    "sgd": lambda p: _sgd(p),
    "sgd-momentum": lambda p: _sgd(p, momentum=0.9, foreach=False),
    "sgd-nesterov": lambda p: _sgd(p, momentum=0.9, nesterov=True, foreach=True),
}


def _setup(make):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)).to(memory_format=torch.channels_last)
    unused = nn.Parameter(torch.ones(2))  # never gets a gradient, so it has no state
    groups = [{"params": [*net[0].parameters(), unused]}, {"params": net[1].parameters(), "lr": 0.7e-3}]
    return net, make(groups)


def _train(net, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(2, 3, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_continues_bit_for_bit(tmp_path, name, before):
    net, optimizer = _setup(OPTIMISERS[name])
    _train(net, optimizer, range(before))
    tensors, structure = flatten_optimiser("opt", optimizer)
    store = Store(tmp_path)
    store.save(Snapshot(before, networks_to_flat({"n": net}), tensors, {"opt": structure}))
    _train(net, optimizer, range(before, 6))

    snapshot = store.latest()
    other, again = _setup(OPTIMISERS[name])
    _train(other, again, range(50, 52))  # state of its own, which must go
    load_networks({"n": other}, snapshot.networks)
    restore_optimiser("opt", again, snapshot.optimisers, snapshot.state["opt"])
    for group, wanted in zip(again.state_dict()["param_groups"], structure["param_groups"], strict=True):
        for key in ("lr", "weight_decay", "foreach"):
            assert group[key] == wanted["dict"][key]
        assert type(group.get("betas", ())) is tuple
    if before and "sgd" != name:
        moments = again.state[other[0].weight]
        moment = moments["momentum_buffer" if "sgd" in name else "exp_avg"]
        assert moment.is_contiguous(memory_format=torch.channels_last)
        assert not moment.is_contiguous()
    _train(other, again, range(before, 6))
    assert_same(networks_to_flat({"n": other}), networks_to_flat({"n": net}))
    assert_same(flatten_optimiser("opt", again)[0], flatten_optimiser("opt", optimizer)[0])


def test_none_momentum_and_odd_state_come_back():
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer.state[parameter] = {
        "momentum_buffer": None,
        "master": torch.tensor([1.0, 1e-6, math.pi]),  # fp32 beside a bf16 parameter: must not be cast
        "count": torch.tensor([7], dtype=torch.uint8),
        "factor": 0.1 + 0.2,
    }
    tensors, structure = flatten_optimiser("o", optimizer)
    assert set(tensors) == {"o.0.master", "o.0.count"}
    structure = json.loads(json.dumps(structure))
    other = torch.optim.SGD([nn.Parameter(torch.ones(3, dtype=torch.bfloat16))], lr=0.5, momentum=0.9)
    restore_optimiser("o", other, tensors, structure)
    state = other.state[other.param_groups[0]["params"][0]]
    assert state["momentum_buffer"] is None and state["factor"] == 0.1 + 0.2
    assert state["master"].dtype == torch.float32 and state["master"].equal(tensors["o.0.master"])
    assert state["count"].dtype == torch.uint8
    assert state["master"] is not tensors["o.0.master"]


def test_other_optimisers_are_refused():
    net, optimizer = _setup(OPTIMISERS["adamw"])
    _train(net, optimizer, range(1))
    tensors, structure = flatten_optimiser("o", optimizer)
    with pytest.raises(CheckpointError, match="other parameters"):
        restore_optimiser("o", torch.optim.AdamW(net[0].parameters()), tensors, structure)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(CheckpointError, match="other groups"):
        restore_optimiser("o", torch.optim.AdamW(parameters), tensors, structure)
    del tensors["o.0.exp_avg"]
    with pytest.raises(CheckpointError, match="o.0.exp_avg"):
        restore_optimiser("o", optimizer, tensors, structure)
