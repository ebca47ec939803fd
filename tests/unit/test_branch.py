"""fewmask.nets.branch: a second branch with a last encoder stage of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewmask.errors import ConfigError
from fewmask.nets import Builder
from fewmask.nets.branch import BranchedStage
from fewmask.nets.segmenter import Segmenter

NETS = [
    pytest.param("tiny", "tiny", None, id="tiny"),
    pytest.param("small", "small", None, id="small"),
    pytest.param("deeplabv3plus", "mobilenet_v2", None, id="dilated: the last stage keeps the resolution"),
    pytest.param("unet", "resnet18", None, id="stride 2: the last stage halves it"),
]


def branched(arch: str, encoder: str) -> tuple[BranchedStage, Segmenter]:
    build = Builder(arch, encoder, 3, weights="none", seed=0)
    net, other = build("student"), build("branch")
    assert isinstance(net, Segmenter) and isinstance(other, Segmenter)
    return BranchedStage(net, other).eval(), other


@pytest.mark.parametrize(("arch", "encoder", "_"), NETS)
def test_two_predictions_of_any_size(arch: str, encoder: str, _: None) -> None:
    net, _other = branched(arch, encoder)
    x = torch.randn(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        f, g = net(x)
        assert f.shape == g.shape == (2, 3, 50, 70) and not torch.allclose(f, g)
        assert torch.equal(f, net.plain(x))  # the branch changes nothing of f


@pytest.mark.parametrize(("arch", "encoder", "_"), NETS)
def test_what_is_shared_and_what_is_not(arch: str, encoder: str, _: None) -> None:
    """g reaches the shared stages and its own parts, not the last stage, the decoder or the head of f."""
    net, other = branched(arch, encoder)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names, parameters = zip(*net.named_parameters(), strict=True)
    grads = torch.autograd.grad(net(x)[1].square().mean(), parameters, allow_unused=True)
    reached = {name for name, grad in zip(names, grads, strict=True) if grad is not None}
    own = {name for name in names if name.startswith(("stage.", "branch_"))}
    assert own <= reached and not any(name.startswith(("decoder.", "head.")) for name in reached)
    encoders = [name for name in names if name.startswith("encoder.")]
    skipped = [name for name in encoders if name not in reached]
    assert skipped, "the encoder's own last stage"
    assert arch == "tiny" or len(skipped) < len(encoders)
    assert len({id(p) for p in parameters}) == len(parameters)
    assert set(net.state_dict()) >= {f"branch_decoder.{k}" for k in other.decoder.state_dict()}


@pytest.mark.parametrize(("arch", "stride", "dilation"), [("deeplabv3plus", 1, 2), ("deeplabv2", 1, 4), ("unet", 2, 1)])
def test_the_fresh_stage_is_the_last_one_at_half_the_width(arch: str, stride: int, dilation: int) -> None:
    """Stride and dilation of the encoder's last stage: 4 in the paper's DeepLabV2, whose maps are of stride 8."""
    net, _ = branched(arch, "resnet18")
    for n, block in enumerate(list(net.stage)[:3]):
        assert block.body[3].stride == (stride if n == 0 else 1,) * 2 and block.body[3].dilation == (dilation,) * 2
    assert net.stage[0].body[6].out_channels == 512 // 2 and net.stage[3].out_channels == 512


def test_an_encoder_without_stages_is_refused() -> None:
    flat = Segmenter(nn.Conv2d(3, 4, 1), nn.Identity(), nn.Conv2d(4, 3, 1), stride=1)
    with pytest.raises(ConfigError, match="one map and not one of each stage"):
        BranchedStage(flat, flat)
