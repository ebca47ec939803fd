"""Output stride and atrous rates: the maps and dilations that they make, who takes them, and that a run keeps them."""

from __future__ import annotations

import json

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from benchmarks.experiments import study
from safetensors.torch import save_file
from torch import nn

from fewmask import nets
from fewmask.errors import ConfigError
from fewmask.nets.options import OPTIONS, arguments, takers
from fewmask.nets.segmenter import Segmenter
from fewmask.nets.trimmed import TrimmedConv2d
from fewmask.recipe import Recipe, read_recipe
from fewmask.report.compare import as_json
from fewmask.report.facts import facts
from fewmask.run.differences import differences
from fewmask.run.model import Model
from fewmask.run.report import compare_runs, read_record
from fixtures_run import write_run


def meta(arch: str, encoder: str, **options: object) -> Segmenter:
    """A network without memory: shapes and constants only."""
    with torch.device("meta"):
        return nets.build(arch, encoder, 3, weights="none", **options)  # type: ignore[arg-type]


def maps(net: Segmenter) -> list[int]:
    """Pixels a cell of each map of the encoder, the image's first."""
    with torch.device("meta"):
        return [64 // x.shape[-1] for x in net.encode(torch.zeros(2, 3, 64, 64))]


# --- output stride ---------------------------------------------------------------------------------------------------


STRIDES = [
    ("deeplabv3plus", None, 16), ("deeplabv3plus", 16, 16), ("deeplabv3plus", 8, 8), ("deeplabv3", None, 8),
    ("deeplabv3", 8, 8), ("deeplabv3", 16, 16), ("pan", None, 16), ("pan", 16, 16), ("pan", 32, 32),
]  # fmt: skip
"""Architecture, what is asked for, what it gets."""


@pytest.mark.parametrize(("arch", "stride", "last"), STRIDES)
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet50c"])
def test_the_last_map_has_the_stride_that_was_asked_for(arch, encoder, stride, last):
    net = meta(arch, encoder, output_stride=stride)
    assert maps(net) == [1, 2, 4, 8, min(16, last), last]
    assert net.stride == last  # what inputs are padded to


@pytest.mark.parametrize(("arch", "stride", "last"), STRIDES)
def test_logits_cover_the_image_at_every_stride(arch, stride, last):
    net = nets.build(arch, "resnet18", 3, weights="none", output_stride=stride).eval()
    with torch.no_grad():
        logits = net(torch.randn(1, 3, 241, 250))
    assert logits.shape == (1, 3, 241, 250) and logits.dtype == torch.float32


def test_what_is_not_dilated_goes_to_32():
    assert maps(meta("unet", "tu-resnet50c")) == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize("encoder", ["tu-resnet50c", "tu-resnet101c", "tu-resnet50s", "tu-resnet101s"])
def test_dilations_of_the_deep_stem_resnets(encoder):
    """timm's: a block that no longer strides keeps the dilation before it, and those after it double theirs."""

    def grid(stride: int, layer: str) -> list[tuple[int, int]]:
        blocks = getattr(meta("deeplabv3plus", encoder, output_stride=stride).encoder.model, layer)
        assert all(b.conv2.padding == b.conv2.dilation for b in blocks)  # the map keeps its size
        return [(b.conv2.stride[0], b.conv2.dilation[0]) for b in blocks]

    more = 22 if "101" in encoder else 5
    assert grid(16, "layer3") == [(2, 1)] + more * [(1, 1)]
    assert grid(16, "layer4") == [(1, 1), (1, 2), (1, 2)]
    assert grid(8, "layer3") == [(1, 1)] + more * [(1, 2)]
    assert grid(8, "layer4") == [(1, 2), (1, 4), (1, 4)]


@pytest.mark.parametrize(
    ("encoder", "channels"),
    [("tu-resnet50c", (32, 32, 64)), ("tu-resnet101c", (32, 32, 64)), ("tu-resnet50s", (64, 64, 128)),
     ("tu-resnet101s", (64, 64, 128))],
)  # fmt: skip
def test_the_stem_is_three_small_convolutions(encoder, channels):
    net = meta("deeplabv3plus", encoder).encoder
    stem = [m for m in net.model.conv1 if isinstance(m, nn.Conv2d)]
    assert [(c.kernel_size, c.stride, c.out_channels) for c in stem] == [
        ((3, 3), (stride, stride), out) for stride, out in zip((2, 1, 1), channels, strict=True)
    ]
    assert max(m.kernel_size[0] for m in net.modules() if isinstance(m, nn.Conv2d)) == 3
    assert meta("deeplabv3plus", "resnet50").encoder.conv1.kernel_size == (7, 7)  # what they replace


def test_a_dilated_network_trains_at_odd_sizes():
    net = nets.build("deeplabv3plus", "tu-resnet50c", 3, weights="none", output_stride=8).train()
    logits = net(torch.randn(2, 3, 35, 50))
    assert logits.shape == (2, 3, 35, 50) and logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("stride", [8, 16])
def test_trimming_changes_no_dilated_encoder(stride):
    trimmed = nets.build("deeplabv3plus", "tu-resnet50c", 3, weights="none", output_stride=stride).encoder
    plain = smp.create_model("deeplabv3plus", "tu-resnet50c", None, encoder_output_stride=stride).encoder
    assert {n for n, m in trimmed.named_modules() if type(m) is TrimmedConv2d} >= {"model.layer4.2.conv2"}
    assert not any(type(m) is TrimmedConv2d for m in plain.modules())
    plain.load_state_dict(trimmed.state_dict())
    for net in (plain, trimmed):
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.ones_(norm.weight)  # timm starts the last one of a block at 0, which would hide its convolutions
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():  # in training mode: on batch statistics nothing explodes
        for a, b in zip(plain.train()(image), trimmed.train()(image), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_timms_file_of_a_deep_stem_fits(tmp_path):
    donor = timm.create_model("resnet50c")
    save_file(donor.state_dict(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    net = nets.build("deeplabv3plus", "tu-resnet50c", 3, weights=weights, output_stride=8)
    own, its = net.encoder.model.state_dict(), donor.state_dict()
    assert its.keys() - own.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[k], its[k]) for k in own)


# --- atrous rates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["deeplabv3", "deeplabv3plus"])
@pytest.mark.parametrize(
    ("rates", "expected"), [(None, [12, 24, 36]), ((6, 12, 18), [6, 12, 18]), ([2, 3, 5], [2, 3, 5])]
)
def test_atrous_rates_of_aspp(arch, rates, expected):
    decoder = meta(arch, "resnet18", atrous_rates=rates).decoder
    found = [m for m in decoder.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]
    assert [m.dilation[0] for m in found] == expected and [m.padding[0] for m in found] == expected


# --- who takes what --------------------------------------------------------------------------------------------------


def test_takers_are_read_from_the_library():
    assert list(takers("output_stride")) == ["deeplabv3", "deeplabv3plus", "pan"]
    assert list(takers("atrous_rates")) == ["deeplabv3", "deeplabv3plus"]
    assert arguments("unet", dict.fromkeys(OPTIONS)) == {}
    both = {"output_stride": 8, "atrous_rates": (1, 2, 3)}
    assert arguments("deeplabv3", both) == {"encoder_output_stride": 8, "decoder_atrous_rates": (1, 2, 3)}


@pytest.mark.parametrize(
    ("arch", "encoder", "options", "what", "todo"),
    [
        ("unet", "resnet18", {"output_stride": 8}, "'unet' takes no output_stride", "deeplabv3, deeplabv3plus, pan"),
        ("hrnet", "tu-hrnet_w18_small", {"output_stride": 8}, "'hrnet' takes no output_stride", "null"),
        ("small", "small", {"output_stride": 8}, "'small' takes no output_stride", "deeplabv3plus"),
        ("pan", "resnet18", {"atrous_rates": (6, 12, 18)}, "'pan' takes no atrous_rates", "deeplabv3, deeplabv3plus"),
        ("deeplabv3plus", "resnet18", {"output_stride": 32}, "no output_stride 32", "plus: 8, 16; pan: 16, 32"),
        ("pan", "resnet18", {"output_stride": 8}, "no output_stride 8", "pan: 16, 32"),
        ("deeplabv3plus", "tu-hrnet_w18", {"output_stride": 8}, "assert output_stride == 32", "another pair"),
        ("deeplabv3plus", "vgg11", {"output_stride": 16}, "do not support dilated mode", "another pair"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_says_what_does(arch, encoder, options, what, todo):
    with pytest.raises(ConfigError) as error:
        nets.build(arch, encoder, 3, weights="none", **options)
    assert what in error.value.what and todo in error.value.todo and "model." in error.value.where


# --- recipes, runs, studies ------------------------------------------------------------------------------------------

DIR = {"data.dir": "photos", "method": "fixmatch"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.output_stride=12", "model.output_stride = 12"),
        ("model.output_stride=eight", "model.output_stride = 'eight'"),
        ("model.atrous_rates='[6, 12]'", "model.atrous_rates"),
        ("model.atrous_rates=[6, 12, 0]", "model.atrous_rates.2 = 0"),
        ("model.output_strid=8", "did you mean 'output_stride'"),
    ],
)
def test_a_recipe_with_a_wrong_value_names_the_key(setting, message):
    with pytest.raises(ConfigError) as error:
        read_recipe(None, DIR, [setting])
    assert message in str(error.value)


def test_a_run_from_before_the_keys_continues():
    asked = read_recipe(None, DIR)
    old = asked.complete()
    for name in OPTIONS:
        assert old["model"].pop(name) is None
    assert Recipe.model_validate(old).model.options == {"output_stride": None, "atrous_rates": None}
    assert differences(asked, old) == []
    set_now = read_recipe(None, DIR, ["model.output_stride=8", "model.atrous_rates=[6, 12, 18]"])
    assert set_now.complete()["model"]["atrous_rates"] == [6, 12, 18]  # plain data, as a stored config has it
    assert differences(set_now, set_now.complete()) == []
    assert [line.split(":")[0] for line in differences(set_now, old)] == ["model.atrous_rates", "model.output_stride"]


def test_the_builder_hands_the_options_on():
    model = read_recipe(None, DIR, ["model.output_stride=8", "model.atrous_rates=[6, 12, 18]"]).model
    net = nets.Builder("deeplabv3plus", "resnet18", 3, weights="none", seed=0, **model.options)("net")
    assert isinstance(net, Segmenter) and net.stride == 8
    assert {m.dilation[0] for m in net.decoder.modules() if isinstance(m, nn.Conv2d)} == {1, 6, 12, 18}


@pytest.mark.parametrize(("options", "stride"), [({}, 16), ({"output_stride": None}, 16), ({"output_stride": 8}, 8)])
def test_a_delivered_model_is_the_network_that_was_trained(tmp_path, options, stride):
    """Weights fit any dilation: only config.json tells which it was. Those of older runs say nothing."""
    net = nets.build("deeplabv3plus", "mobilenet_v2", 2, weights="none", **options)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    config = {
        "format": 1, "arch": "deeplabv3plus", "encoder": "mobilenet_v2", "classes": ["a", "b"], "ids": [0, 1],
        "mean": [0, 0, 0], "std": [1, 1, 1], "resize": None, "protocol": "whole", **options,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = Model.load(tmp_path, device="cpu")
    assert isinstance(loaded.net, Segmenter) and loaded.net.stride == stride
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.net(image), net.eval()(image))


def test_a_study_without_the_options_keeps_its_key(monkeypatch):
    """Its key is a hash of the recipe as it was before they came."""
    hashed = []
    monkeypatch.setattr(study.json, "dumps", lambda tree, **_: hashed.append(tree) or repr(tree))

    def key(**model: object) -> str:
        keys = {"method.name": "fixmatch", "train.seed": 0} | {f"model.{k}": v for k, v in model.items()}
        return study.Experiment("s", "a", "camvid-dev", keys).config_key()

    plain = key()
    assert hashed[0][0]["model"].keys() == {"arch", "encoder", "weights", "init"}
    assert len({plain, key(output_stride=8), key(output_stride=16), key(atrous_rates=[6, 12, 18])}) == 4
    assert hashed[-1][0]["model"]["atrous_rates"] == [6, 12, 18] and "output_stride" not in hashed[-1][0]["model"]


def test_reports_take_a_missing_option_for_null_and_another_value_for_another_network(tmp_path):
    """A supervised run from before the keys is the baseline of today's; of a network with another stride it is not."""
    stride = {"model__output_stride": 8, "model__atrous_rates": [6, 12, 18]}
    for name, method, keys in (
        ("old", "supervised", {}),
        ("null", "fixmatch", dict.fromkeys(stride)),
        ("eight", "mean_teacher", stride),
    ):
        write_run(tmp_path / name, ["sky", "sea"], method=method, **keys)
    (group,) = as_json(compare_runs([tmp_path / name for name in ("old", "null", "eight")]))["groups"]
    gains = {row["method"]: row["gain"] for row in group["rows"]}
    assert gains["fixmatch"]["to"] == "Supervised baseline" and gains["mean_teacher"] is None
    for name, rows in (("eight", [("Output stride", "8"), ("Atrous rates", "6, 12, 18")]), ("null", []), ("old", [])):
        about = dict(facts(read_record(tmp_path / name)).topics)["Method"]
        assert [row for row in about if row[0] in ("Output stride", "Atrous rates")] == rows
