"""Deterministic mode, by substitution: what is computed on a CPU is recorded, and compared with what CUDA refuses."""

from __future__ import annotations

import os
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fewmask
from fewmask.contract import Case
from fewmask.contract.toys import advance, make_learner
from fewmask.engine.checkpoint import Snapshot
from fewmask.engine.determinism import deterministic, is_deterministic, refused
from fewmask.engine.train import Progress
from fewmask.errors import ConfigError
from fewmask.methods import METHODS
from fewmask.nets import build
from fewmask.nets.pool import SteadyPool, replace_pools
from fewmask.ops import losses
from fewmask.recipe import read_recipe
from fewmask.run import training
from fewmask.run.differences import differences
from fixtures_data import blocks, save_image, save_mask

REFUSED = {
    "nll_loss2d_forward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "avg_pool3d_backward",
    "adaptive_max_pool2d_backward", "fractional_max_pool2d_backward", "max_unpool2d", "reflection_pad1d_backward",
    "reflection_pad2d_backward", "_ctc_loss_backward", "put_", "put", "histc", "median.dim", "kthvalue", "bincount",
    "grid_sampler_2d_backward", "scatter_reduce", "upsample_linear1d_backward", "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward", "_efficient_attention_backward", "_scaled_dot_product_efficient_attention_backward",
}  # fmt: skip
"""Operations that ``torch.use_deterministic_algorithms`` says raise on CUDA, as its dispatcher calls them."""

BILINEAR = {"upsample_bilinear2d_backward"}
"""Of these what ``F.interpolate`` replaces by itself on CUDA: see ``test_torch_takes_bilinear_upsampling_apart``."""


class Recorder(TorchDispatchMode):
    """Counts operations: their names, without the overload but for ``median.dim``, and what of them is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()
        self.added: Counter[str] = Counter()  # gradients that threads may add in any order, on a CPU

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, _, overload = str(func).removeprefix("aten.").partition(".")
        given = kwargs or {}
        summed = name == "nll_loss2d_forward" and args[3] != 0
        weighted = name == "bincount" and (len(args) > 1 and args[1] is not None or given.get("weights") is not None)
        if name not in ("nll_loss2d_forward", "bincount") or summed or weighted:
            self.seen[f"{name}.{overload}" if name == "median" else name] += 1
        if name in ("index_put", "index_put_", "_index_put_impl_", "put_", "put"):
            self.added[name] += (args[3] if len(args) > 3 else given.get("accumulate", False)) is True
        return func(*args, **given)

    @property
    def refused(self) -> set[str]:
        return self.seen.keys() & REFUSED


@pytest.mark.parametrize("method", METHODS)
def test_no_method_takes_what_cuda_refuses(method):
    for case in Case(method).each_round():
        learner = make_learner(case)
        with deterministic(True), Recorder() as record:
            advance(learner, 0, 4)
        assert record.refused == BILINEAR  # of the toys' decoder
        learner = make_learner(case)
        with Recorder() as record:
            advance(learner, 0, 4)
        assert "nll_loss2d_forward" in record.refused, "the recorder finds it without the mode"
        assert not +record.added, "several threads add these in no fixed order on a CPU"


NETWORKS = [
    ("pspnet", "resnet18"), ("pspnet_dilated", "resnet18"), ("deeplabv3plus", "mobilenet_v2"), ("unet", "resnet18"),
    ("fpn", "mobilenet_v2"), ("upernet", "mobilenet_v2"), ("hrnet", "tu-hrnet_w18_small"), ("small", "small"),
    ("tiny", "tiny"),
]  # fmt: skip


def passed(arch: str, encoder: str) -> Recorder:
    torch.manual_seed(0)
    net = build(arch, encoder, 3, weights="none")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with Recorder() as record:
        losses.cross_entropy(net(images), torch.zeros(2, 64, 64, dtype=torch.int64)).backward()
    return record


@pytest.mark.parametrize(("arch", "encoder"), NETWORKS, ids=[arch for arch, _ in NETWORKS])
def test_no_network_takes_what_cuda_refuses(arch, encoder):
    with deterministic(True):
        assert passed(arch, encoder).refused <= BILINEAR
    assert ("_adaptive_avg_pool2d_backward" in passed(arch, encoder).refused) == (
        arch in ("pspnet", "pspnet_dilated", "upernet")
    )


@pytest.mark.parametrize(
    "raise_it",
    [
        lambda x: F.interpolate(x, (8, 8), mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.UpsamplingBilinear2d(scale_factor=2),
    ],
)
def test_torch_takes_bilinear_upsampling_apart(raise_it):
    """On every device but a CPU; "meta" stands for CUDA."""

    def record() -> Recorder:
        x = torch.empty(1, 2, 4, 4, device="meta", requires_grad=True)
        with Recorder() as found:
            raise_it(x).sum().backward()
        return found

    assert record().refused == BILINEAR
    with deterministic(True):
        assert record().refused == set()


def test_steady_pool_is_the_pool_it_replaces():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 13, 7, generator=g, dtype=torch.float64)
    for cells in ((2, 3), (6, 6), (1, 1)):
        with torch.no_grad():
            assert torch.equal(SteadyPool(cells)(x), nn.AdaptiveAvgPool2d(cells)(x))
        grads = []
        for pool in (SteadyPool(cells), nn.AdaptiveAvgPool2d(cells)):
            mine = x.clone().requires_grad_()
            (out := pool(mine)).square().sum().backward()
            grads.append((out.detach(), mine.grad))
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.AdaptiveAvgPool2d((2, 3))))
    replace_pools(net, SteadyPool, single=False)
    assert type(net[0]) is nn.AdaptiveAvgPool2d and net[1][0].size == (2, 3)


@pytest.mark.parametrize("void", [0.0, 0.3, 1.0])
def test_losses_are_what_they_are(void):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 5, 9, 11, generator=g, dtype=torch.float64)
    y = torch.randint(0, 5, (2, 9, 11), generator=g)
    y[torch.rand(y.shape, generator=g) < void] = losses.IGNORE
    weight = torch.rand(5, generator=g, dtype=torch.float64)
    for loss in (
        losses.cross_entropy, lambda z, y: losses.cross_entropy(z, y, weight),
        lambda z, y: losses.ohem_cross_entropy(z, y, 0.2, 20), losses.dice,
    ):  # fmt: skip
        plain = loss(z, y)
        with deterministic(True):
            torch.testing.assert_close(loss(z, y), plain, rtol=1e-13, atol=0)


def switches() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


def test_switches_are_set_and_put_back(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = switches()
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with deterministic(False):
        assert switches() == (False, before[1], True) and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with pytest.raises(KeyError), deterministic(True):
        assert switches() == (True, True, False) and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise KeyError
    assert switches() == (False, before[1], True)


def test_an_operation_without_such_a_form_is_named():
    """``put_`` has none on a CPU either."""
    with pytest.raises(ConfigError, match=r"^put_ has no deterministic form.*; machine\.deterministic; .*--encoder"):
        with deterministic(True):
            torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))


def test_other_errors_stay_what_they_are():
    assert refused(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), deterministic(True):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set '...'. You can "
         "turn off determinism just for this operation", "adaptive_avg_pool2d_backward_cuda"),
        ("median CUDA with indices output does not have a deterministic implementation, but you set", "median CUDA"),
        ("Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)` or `at::Context`, "
         "but this operation is not deterministic because it uses CuBLAS and you have CUDA >= 10.2.", "a matrix"),
    ],
)  # fmt: skip
def test_refusals_of_torch_are_known(text, name):
    assert str(refused(RuntimeError(text))).startswith(name)


def test_what_is_recorded():
    assert is_deterministic("cpu") and not is_deterministic("cuda")
    with deterministic(True):
        assert is_deterministic("cuda")


def resumed(device: str, state: dict[str, Any] | None) -> Progress:
    store = SimpleNamespace(clean=lambda: None, latest=lambda: None if state is None else Snapshot(3, {}, {}, state))
    fabric = SimpleNamespace(broadcast=lambda x: x, device=torch.device(device))
    learner: Any = SimpleNamespace(fabric=fabric, restore=lambda snapshot: None)
    return training._resume(learner, store, None)  # pyright: ignore[reportArgumentType]


def test_a_run_is_deterministic_if_all_its_parts_were():
    assert resumed("cpu", None).deterministic and not resumed("cuda", None).deterministic
    assert resumed("cpu", {"step": 3}).deterministic, "a checkpoint of an older version"
    with deterministic(True):
        assert resumed("cuda", None).deterministic and resumed("cuda", {"step": 3, "deterministic": True}).deterministic
        found = resumed("cuda", {"step": 3, "deterministic": False})
    assert not found.deterministic and found.state()["deterministic"] is False


def test_older_runs_continue_and_the_mode_may_not_change():
    asked = {"data.dir": "photos", "method": "cps"}
    stored = read_recipe(None, asked).complete()
    del stored["machine"]["deterministic"]
    assert differences(read_recipe(None, asked), stored) == []
    assert differences(read_recipe(None, asked | {"machine.deterministic": True}), stored) == [
        "machine.deterministic: False in the run, True asked"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("method", "arch", "encoder"),
    [("u2pl", "deeplabv3plus", "resnet18"), ("dars", "pspnet", "resnet18"), ("ucc", "hrnet", "tu-hrnet_w18_small")],
)
def test_twice_on_a_device(method, arch, encoder, tmp_path):
    for i in range(10):
        save_image(tmp_path / "photos" / "images" / f"{i}.png", height=64, width=96, seed=i)
        if i < 6:
            save_mask(tmp_path / "photos" / "masks" / f"{i}.png", blocks([0, 1, i % 3], 64, 96))
    found = []
    for out in ("one", "two"):
        run = fewmask.train(
            tmp_path / "photos", tmp_path / out, say=lambda text: None, method=method, model__arch=arch,
            model__encoder=encoder, model__weights="none", data__crop="64", train__steps=20, machine__devices="1",
            machine__precision="bf16", machine__deterministic=True, baseline=False, folds=1,
        )  # fmt: skip
        assert run.metrics["deterministic"] is True
        found.append((run.path / "model" / "model.safetensors").read_bytes())
    assert found[0] == found[1]
