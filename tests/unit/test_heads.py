"""SharedEncoder: one encoder, saved once, under decoders that stay their own."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from fewmask import nets
from fewmask.nets.heads import SharedEncoder
from fewmask.ops import ema

ARCHITECTURES = [("tiny", "tiny"), ("small", "small"), ("unet", "resnet18"), ("deeplabv3plus", "mobilenet_v2")]


def make(arch: str = "tiny", encoder: str = "tiny", seed: int = 0) -> SharedEncoder:
    build = nets.Builder(arch, encoder, 3, weights="none", seed=seed)
    return SharedEncoder([build("one"), build("two")])


def images(height: int = 33, width: int = 38) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(4))


def moved(net: nn.Module) -> nn.Module:
    """Give every parameter and statistic a value of its own."""
    g = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.05 * torch.randn(p.shape, generator=g)
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d) and m.running_mean is not None:
                m.running_mean += 0.1 * torch.randn(m.running_mean.shape, generator=g)
    return net


@pytest.mark.parametrize(("arch", "encoder"), ARCHITECTURES)
def test_state_dict_holds_the_encoder_once(arch: str, encoder: str) -> None:
    build = nets.Builder(arch, encoder, 3, weights="none", seed=0)
    one, two = build("one"), build("two")
    parts = {part: [k for k in one.state_dict() if k.startswith(f"{part}.")] for part in ("encoder", "decoder", "head")}
    expected = set(parts["encoder"])
    for i in (0, 1):
        expected |= {k.replace("decoder.", f"decoders.{i}.", 1) for k in parts["decoder"]}
        expected |= {k.replace("head.", f"heads.{i}.", 1) for k in parts["head"]}
    net = SharedEncoder([one, two])
    assert set(net.state_dict()) == expected
    count = {part: sum(p.numel() for k, p in one.named_parameters() if k.startswith(f"{part}.")) for part in parts}
    assert sum(p.numel() for p in net.parameters()) == count["encoder"] + 2 * (count["decoder"] + count["head"])
    assert all(torch.equal(net.state_dict()[k], one.state_dict()[k]) for k in parts["encoder"])
    last = parts["head"][0]
    assert torch.equal(net.state_dict()[last.replace("head.", "heads.1.", 1)], two.state_dict()[last])


@pytest.mark.parametrize(("arch", "encoder"), ARCHITECTURES)
def test_forward_is_each_branch_alone(arch: str, encoder: str) -> None:
    """Also when a decoder could spoil the features for the next one; at sizes that need padding."""
    net = make(arch, encoder)
    assert moved(net) is net
    net.eval()
    with torch.no_grad():
        out = net(images())
        alone = [net.branch(i)(images()) for i in range(2)]
    assert [o.shape for o in out] == [(2, 3, 33, 38)] * 2 and all(o.dtype == torch.float32 for o in out)
    assert all(torch.equal(o, a) for o, a in zip(out, alone, strict=True)) and not torch.equal(*out)


@pytest.mark.parametrize(("arch", "encoder"), ARCHITECTURES)
def test_gradient_of_both_branches_reaches_the_encoder(arch: str, encoder: str) -> None:
    """Training mode: nothing that one branch needs backwards is changed in place by the other."""
    net = make(arch, encoder)
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    torch.manual_seed(0)
    first, second = (o.square().mean() for o in net(images(64, 64)))
    shared = [p for p in net.encoder.parameters() if p.requires_grad]
    own = [list(net.decoders[i].parameters()) + list(net.heads[i].parameters()) for i in range(2)]
    both = torch.autograd.grad(first + second, shared, retain_graph=True, allow_unused=True)
    reached = [g for g in both if g is not None]
    assert reached and all(g.isfinite().all() for g in reached)
    for loss, mine, others in ((first, *own), (second, own[1], own[0])):
        gs = torch.autograd.grad(loss, [*mine, *others, *shared], retain_graph=True, allow_unused=True)
        assert all(g is not None for g in gs[: len(mine)])
        assert all(g is None for g in gs[len(mine) : len(mine) + len(others)])
        assert any(g is not None and g.any() for g in gs[len(mine) + len(others) :])


def check_sharing(net: SharedEncoder, other: nn.Module | None = None) -> None:
    """See that the branches hold this network's own parameters, through forward and branch, and none of another's."""
    mine = {id(t) for t in (*net.parameters(), *net.buffers())}
    assert not other or not mine & {id(t) for t in (*other.parameters(), *other.buffers())}
    for i in range(2):
        branch = net.branch(i)
        assert branch.encoder is net.encoder and branch.decoder is net.decoders[i] and branch.head is net.heads[i]
        assert {id(t) for t in (*branch.parameters(), *branch.buffers())} <= mine
    net.eval()
    with torch.no_grad():
        before = net(images())
        for p in net.decoders[1].parameters():
            p.zero_()
        after = net(images())
        assert torch.equal(before[0], after[0]) and not torch.equal(before[1], after[1])
        for p in net.encoder.parameters():
            p.zero_()
        assert not torch.equal(net(images())[0], before[0])
        assert torch.equal(net(images())[0], net.branch(0)(images()))


@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, ema.ema_copy, lambda net: pickle.loads(pickle.dumps(net))],
    ids=["deepcopy", "ema_copy", "pickle"],
)
def test_a_copy_shares_inside_and_not_with_the_original(clone) -> None:
    net = make()
    moved(net)
    twin = clone(net)
    net.eval(), twin.eval()
    assert isinstance(twin, SharedEncoder) and twin.state_dict().keys() == net.state_dict().keys()
    with torch.no_grad():
        before = net(images())
        assert all(torch.equal(a, b) for a, b in zip(before, twin(images()), strict=True))
        check_sharing(twin, net)
        assert all(torch.equal(a, b) for a, b in zip(before, net(images()), strict=True))
    check_sharing(net, twin)


def test_moving_average_of_the_whole() -> None:
    net = make()
    teacher = ema.ema_copy(net)
    assert not any(p.requires_grad for p in teacher.parameters())
    old = {k: v.clone() for k, v in teacher.state_dict().items()}
    moved(net)
    ema.ema_update(teacher, net, 0.75)
    for k, now in teacher.state_dict().items():
        if now.is_floating_point():
            assert torch.allclose(now, 0.75 * old[k] + 0.25 * net.state_dict()[k], atol=1e-6)
    teacher.eval()
    with torch.no_grad():
        assert isinstance(teacher, SharedEncoder)
        assert torch.equal(teacher(images())[1], teacher.branch(1)(images()))


def test_layouts_dtypes_and_synchronised_statistics_reach_the_branches() -> None:
    """What the engine does to a network before it trains."""
    check_sharing(make().to(memory_format=torch.channels_last))
    double = make().double().eval()
    with torch.no_grad():
        assert double(images().double())[0].dtype == torch.float32
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(make())
    assert isinstance(converted, SharedEncoder)
    for i in range(2):
        kinds = {type(m) for m in converted.branch(i).modules()}
        assert nn.SyncBatchNorm in kinds and nn.BatchNorm2d not in kinds
    check_sharing(converted)


def test_modes_reach_the_branches() -> None:
    net = make()
    for training in (False, True):
        net.train(training)
        assert all(m.training is training for i in range(2) for m in net.branch(i).encoder.modules())
        assert all(m.training is training for m in (*net.decoders.modules(), *net.heads.modules()))


def test_a_state_dict_is_loaded_into_the_branches() -> None:
    net, other = make(), make(seed=5)
    moved(other)
    net.load_state_dict(other.state_dict())
    net.eval(), other.eval()
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(net(images()), other(images()), strict=True))


def test_heads_and_seeds_start_elsewhere() -> None:
    net, same, other = make(), make(), make(seed=1)
    weights = [k for k, v in net.state_dict().items() if v.ndim == 4]
    assert all(torch.equal(net.state_dict()[k], same.state_dict()[k]) for k in weights)
    assert not any(torch.equal(net.state_dict()[k], other.state_dict()[k]) for k in weights)
    for a, b in zip(net.decoders[0].parameters(), net.decoders[1].parameters(), strict=True):
        assert a.ndim < 4 or not torch.equal(a, b)
    for a, b in zip(net.heads[0].parameters(), net.heads[1].parameters(), strict=True):
        assert a.ndim < 4 or not torch.equal(a, b)


def test_only_segmenters_have_parts() -> None:
    with pytest.raises(AssertionError, match="Segmenters"):
        SharedEncoder([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
