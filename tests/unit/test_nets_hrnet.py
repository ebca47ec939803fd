"""HRNet with the head HRNetV2: the branches, the head by hand, weights, and the methods that take a network apart."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from fewmask import nets
from fewmask.contract.toys import BATCH, SIDE, STEPS, Case, toy_batch, toy_slots
from fewmask.engine.launch import launch
from fewmask.engine.learner import Learner
from fewmask.engine.optim import OptimConfig
from fewmask.engine.precision import Format
from fewmask.errors import ConfigError
from fewmask.nets.heads import SharedEncoder
from fewmask.nets.hrnet import HRNetV2Decoder
from fewmask.nets.represent import Represented
from fewmask.nets.segmenter import Segmenter

SMALL = "tu-hrnet_w18_small"


def small(classes: int = 3) -> Segmenter:
    return nets.build("hrnet", SMALL, classes, weights="none")


def test_the_four_branches_reach_the_head_as_they_are():
    """HRNet-W18-small's own widths at strides 4 to 32, not those that its classifier widens them to."""
    net = small()
    features = net.encode(torch.zeros(2, 3, 64, 64))
    assert [(x.shape[1], 64 // x.shape[-1]) for x in features[-4:]] == [(16, 4), (32, 8), (64, 16), (128, 32)]
    assert net.decode(features).shape == (2, 240, 16, 16)
    assert [(m.in_channels, m.out_channels, m.kernel_size) for m in (net.decoder.mix[0], net.head[0])] == [
        (240, 240, (1, 1)), (240, 3, (1, 1)),
    ]  # fmt: skip


def test_w48_concatenates_720_channels_and_has_the_papers_weights():
    """48·(1 + 2 + 4 + 8) = 720; 65.9 million weights on Cityscapes (Wang et al., Table 3: HRNetV2-W48)."""
    with torch.device("meta"):
        net = nets.build("hrnet", "tu-hrnet_w48", 19, weights="none")
        features = net.encode(torch.zeros(2, 3, 64, 64))
        assert net.decode(features).shape == (2, 720, 16, 16)
    assert [x.shape[1] for x in features[-4:]] == [48, 96, 192, 384]
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == 65.9


def test_odd_sizes_and_a_backward_pass_that_reaches_every_weight():
    net = small().train()
    logits = net(torch.randn(2, 3, 45, 70))
    assert logits.shape == (2, 3, 45, 70) and logits.dtype == torch.float32
    logits.square().mean().backward()
    missed = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missed == []


def test_other_numbers_of_channels():
    net = nets.build("hrnet", SMALL, 2, weights="none", channels=4).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 4, 32, 32)).shape == (1, 2, 32, 32)


# --- the head by hand ------------------------------------------------------------------------------------------------


def decoder(mix: list[list[float]]) -> HRNetV2Decoder:
    """A decoder of one channel a branch, with a known mixture and a BatchNorm that changes nothing."""
    net = HRNetV2Decoder([1] * len(mix)).eval()
    net.mix[1].eps = 0.0
    with torch.no_grad():
        net.mix[0].weight.copy_(torch.tensor(mix)[:, :, None, None])
    return net


def test_logits_of_constant_branches():
    """Branches 1, 2, 3, 4 mix to 1, 2, ReLU(3 - 4) = 0 and 1 + 2 + 3 + 4 = 10; logits 1 + 2 + 0 + 10 and 10/2 - 3."""
    net = small(2)
    net.decoder = decoder([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -1], [1, 1, 1, 1]])
    net.head[0] = nn.Conv2d(4, 2, 1)
    with torch.no_grad():
        net.head[0].weight.copy_(torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0.5]])[:, :, None, None])
        net.head[0].bias.copy_(torch.tensor([0.0, -3.0]))
        branches = [torch.full((1, 1, 16 // 2**i, 16 // 2**i), float(i + 1)) for i in range(4)]
        mixed = net.decode([torch.zeros(1, 3, 64, 64), torch.zeros(1, 64, 32, 32), *branches])
        logits = net.classify(mixed, (61, 50))
    assert mixed[0, :, 0, 0].tolist() == [1, 2, 0, 10] and mixed.shape == (1, 4, 16, 16)
    assert logits.shape == (1, 2, 61, 50)
    assert logits[0, 0].unique().tolist() == [13] and logits[0, 1].unique().tolist() == [2]


def test_coarse_branches_are_raised_bilinearly():
    """To twice the width: between the centres of the cells 0 and 1, pixels a quarter and three quarters of the way."""
    fine, coarse = torch.zeros(1, 1, 2, 4), torch.tensor([[[[0.0, 1.0]]]])
    with torch.no_grad():
        raised = decoder([[1, 0], [0, 1]])([fine, coarse])
    assert raised[0, 1].tolist() == [[0, 0.25, 0.75, 1], [0, 0.25, 0.75, 1]] and not raised[0, 0].any()


def test_the_head_raises_logits_to_the_input():
    """By 4, with the same centres: between cells 0 and 8 the pixels 1/8, 3/8, 5/8, 7/8 of the way."""
    head = small(1).head
    with torch.no_grad():
        nn.init.zeros_(head[0].weight)[0, 0] = 1.0
        nn.init.zeros_(head[0].bias)
        x = torch.zeros(1, 240, 1, 2)
        x[0, 0, 0, 1] = 8.0
        assert head(x)[0, 0, 0].tolist() == [0, 0, 1, 3, 5, 7, 8, 8] and head(x).shape == (1, 1, 4, 8)


# --- encoders and weights --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["resnet50", "tu-resnet50c", "tu-hrnet_w99", "hrnet_w48", "hrnet"])
def test_other_encoders_are_refused(encoder):
    with pytest.raises(ConfigError, match="branches of an HRNet") as error:
        nets.build("hrnet", encoder, 3, weights="none")
    assert error.value.where == "model.encoder" and "tu-hrnet_w48," in error.value.todo


def test_the_tags_of_weights_are_timms():
    with torch.device("meta"):
        nets.build("hrnet", f"{SMALL}.ms_in1k", 3, weights="none")
    with pytest.raises(ConfigError, match="cannot be built: RuntimeError: Invalid pretrained tag"):
        nets.build("hrnet", f"{SMALL}.no_such_tag", 3, weights="none")


def test_an_encoder_is_chosen_that_fits():
    assert nets.default_encoder("hrnet", cuda=True) == "tu-hrnet_w48"
    assert nets.default_encoder("hrnet", cuda=False) == SMALL
    assert [nets.default_encoder("unet", cuda) for cuda in (True, False)] == ["resnet50", "mobilenet_v2"]
    assert nets.default_encoder("small", cuda=True) == "small"


def test_timms_file_fills_the_branches_and_leaves_its_classifier(tmp_path):
    """Also under another decoder, which takes what the classifier begins with."""
    donor = timm.create_model("hrnet_w18_small")
    save_file(donor.state_dict(), tmp_path / "w.safetensors")
    its = donor.state_dict()
    for arch, left in (
        ("hrnet", {"incre_modules", "downsamp_modules", "final_layer", "classifier"}),
        ("unet", {"downsamp_modules", "final_layer", "classifier"}),
    ):
        own = nets.build(arch, SMALL, 3, weights=str(tmp_path / "w.safetensors")).encoder.model.state_dict()
        assert {name.split(".")[0] for name in its.keys() - own.keys()} == left
        assert own.keys() <= its.keys() and all(torch.equal(own[k], its[k]) for k in own)


# --- methods ---------------------------------------------------------------------------------------------------------


def test_parts_for_the_methods():
    build = nets.Builder("hrnet", SMALL, 3, weights="none", seed=0)
    shared, represented = SharedEncoder([build("one"), build("two")]).eval(), Represented(build("three"), 8).eval()
    image = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        one, two = shared(image)
        assert one.shape == two.shape == (1, 3, 40, 33) and not torch.equal(one, two)
        assert torch.equal(one, shared.branch(0)(image)) and torch.equal(two, shared.branch(1)(image))
        logits, features = represented(image)
    assert logits.shape == (1, 3, 40, 33) and features.shape == (1, 8, 16, 16)  # a quarter of 64 x 64, padded
    assert represented.represent[0].in_channels == 240 and represented.represent[0].out_channels == 120


@pytest.mark.parametrize(
    ("case", "trained"),
    [(Case("ucc"), "heads"), (Case("u2pl", {"dim": 8, "bank": 20, "warmup": 0.0, "delta": 0.0}), "student")],
    ids=str,
)
def test_one_step(case, trained):
    """The first step of a run, losses to update: all parts of the trained network move."""
    method = case.make()
    build = nets.Builder("hrnet", SMALL, 3, weights="none", seed=0)
    slots = toy_slots(method.streams)
    learner: Any = Learner(
        launch("cpu", "fp32"), method, build, OptimConfig(lr=1e-3), slots, STEPS, 0, Format("fp32", False, "")
    )
    learner.train_mode()
    net = learner.nets[trained]
    assert isinstance(net, SharedEncoder | Represented) and net.stride > SIDE and BATCH > 1  # padded, and a batch
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    learner.update(toy_batch(method.streams, slots, 0), 0)
    still = {name for name, p in net.named_parameters() if torch.equal(p, before[name])}
    assert still == set() and all(p.isfinite().all() for p in net.parameters())
