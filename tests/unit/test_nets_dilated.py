"""DeepLabV2, the dilated PSPNet, and auxiliary classifiers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewmask.errors import ConfigError
from fewmask.nets import Builder, architectures
from fewmask.nets.auxiliary import Auxiliary
from fewmask.nets.dilated import DILATED, PyramidPooling, SummedASPP


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", sorted(DILATED))
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2"])
def test_any_size_at_an_eighth_of_the_resolution(arch: str, encoder: str) -> None:
    assert arch in architectures()
    net = Builder(arch, encoder, 5, weights="none", seed=0)("student").eval()
    with torch.no_grad():
        assert net(noise(2, 3, 50, 70)).shape == (2, 5, 50, 70)
        assert net.encode(noise(1, 3, 64, 96))[-1].shape[-2:] == (8, 12)  # pyright: ignore[reportCallIssue]


def test_an_encoder_that_cannot_be_dilated_is_refused() -> None:
    with pytest.raises(ConfigError, match="dilated"):
        Builder("deeplabv2", "vgg16", 5, weights="none", seed=0)("student")


def test_four_rates_are_summed() -> None:
    aspp = SummedASPP(2, 3)
    assert [b.dilation for b in aspp.branches] == [(6, 6), (12, 12), (18, 18), (24, 24)]
    x = noise(1, 2, 50, 50)
    each = [F.conv2d(x, b.weight, b.bias, padding=b.dilation, dilation=b.dilation) for b in aspp.branches]
    assert torch.allclose(aspp(x), each[0] + each[1] + each[2] + each[3], atol=1e-5)


def test_means_over_regions() -> None:
    """The single region of bin 1 is the mean of the map: everywhere the same."""
    pool = PyramidPooling(8, 16).eval()
    assert [p[0].output_size for p in pool.parts] == [1, 2, 3, 6] and pool.parts[0][1].out_channels == 2
    x = noise(2, 8, 9, 12)
    seen: list[torch.Tensor] = []
    pool.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        assert pool([noise(1), x]).shape == (2, 16, 9, 12)
        whole = F.conv2d(x.mean((2, 3), keepdim=True), pool.parts[0][1].weight)
    assert seen[0].shape[1] == 8 + 4 * 2 and torch.equal(seen[0][:, :8], x)
    assert torch.allclose(seen[0][:, 8:10], pool.parts[0][2:](whole).expand(-1, -1, 9, 12), atol=1e-5)


@pytest.mark.parametrize(("arch", "encoder"), [("pspnet_dilated", "resnet18"), ("unet", "resnet18"), ("tiny", "tiny")])
def test_an_auxiliary_classifier_changes_nothing_of_the_network(arch: str, encoder: str) -> None:
    net = Auxiliary(Builder(arch, encoder, 3, weights="none", seed=0)("student"), 3).eval()
    x = noise(2, 3, 50, 70)
    with torch.no_grad():
        p, q = net(x)
        assert p.shape == q.shape == (2, 3, 50, 70) and torch.equal(p, net.plain(x))
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(net(x)[1].square().mean(), parameters, allow_unused=True)
    reached = {name.split(".")[0] for name, grad in zip(names, grads, strict=True) if grad is not None}
    assert reached == ({"auxiliary"} if arch == "tiny" else {"auxiliary", "encoder"})
