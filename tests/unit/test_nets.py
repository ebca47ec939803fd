"""Networks: any architecture and encoder, seeds, weights from files."""

import pytest
import torch
from safetensors.torch import save_file

from fewmask import nets
from fewmask.errors import ConfigError


@pytest.mark.parametrize("arch", [a for a in nets.architectures() if a not in ("dpt", "pan")])
def test_every_architecture_takes_odd_sizes(arch):
    encoder = {"hrnet": "tu-hrnet_w18_small"}.get(arch, arch if arch in nets.OURS else "resnet18")
    net = nets.build(arch, encoder, 5, weights="none").eval()
    with torch.no_grad():
        logits = net(torch.randn(1, 3, 70, 91))
    assert logits.shape == (1, 5, 70, 91) and logits.dtype == torch.float32


def test_timm_encoders_and_dpt():
    net = nets.build("dpt", "tu-convnext_atto", 3, weights="none").eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 64, 50)).shape == (1, 3, 64, 50)


@pytest.mark.parametrize(
    ("arch", "encoder", "message"),
    [
        ("unett", "resnet18", "did you mean 'unet'"),
        ("unet", "resnet19", "did you mean 'resnet18'"),
        ("linknet", "mit_b0", "cannot be built: ValueError: Encoder `mit_b0` is not supported"),
        ("unet", "tu-nothing_like_this", "cannot be built"),
    ],
)
def test_what_cannot_be_built_says_why(arch, encoder, message):
    with pytest.raises(ConfigError, match="arch|encoder|built") as error:
        nets.build(arch, encoder, 3, weights="none")
    assert message in str(error.value)


def weights_file(tmp_path, change=None):
    donor = nets.build("unet", "mobilenet_v2", 7, weights="none")
    tensors = {k: v.clone() for k, v in donor.encoder.state_dict().items()} | {"classifier.1.weight": torch.zeros(9, 3)}
    if change:
        change(tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    return donor, str(tmp_path / "w.safetensors")


def test_weights_file_fills_the_encoder_and_ignores_its_classifier(tmp_path):
    donor, path = weights_file(tmp_path)
    net = nets.build("deeplabv3plus", "mobilenet_v2", 3, weights=path)
    mine, its = net.encoder.state_dict(), donor.encoder.state_dict()
    assert all(torch.equal(mine[k], its[k]) for k in its)


def test_wrapped_names_are_understood(tmp_path):
    donor, path = weights_file(tmp_path, lambda t: t.update({f"module.encoder.{k}": t.pop(k) for k in list(t)}))
    net = nets.build("unet", "mobilenet_v2", 3, weights=path)
    name = "features.0.0.weight"
    assert torch.equal(net.encoder.state_dict()[name], donor.encoder.state_dict()[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("features.0.0.weight"), "features.0.0.weight: missing"),
        (
            lambda t: t.update({"features.0.0.weight": torch.zeros(2, 3, 3, 3)}),
            "[2, 3, 3, 3] in the file, [32, 3, 3, 3]",
        ),
        (lambda t: t.update({"extra.weight": torch.zeros(1)}), "extra.weight: not part of the encoder"),
    ],
)
def test_weights_that_do_not_fit_name_the_tensors(tmp_path, change, message):
    _, path = weights_file(tmp_path, change)
    with pytest.raises(ConfigError) as error:
        nets.build("unet", "mobilenet_v2", 3, weights=path)
    assert message in str(error.value) and "w.safetensors" in str(error.value)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        nets.build("unet", "resnet18", 3, weights=str(tmp_path / "w.safetensors"))


def test_builder_is_keyed_by_name_and_seed_not_by_order(tmp_path):
    _, path = weights_file(tmp_path)
    builder = lambda seed: nets.Builder("unet", "mobilenet_v2", 3, weights=path, seed=seed)  # noqa: E731
    one, two = builder(0), builder(0)
    a, _, b = one("f1"), two("f2"), two("f1")
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    other, seeded = one("f2"), builder(1)("f1")
    heads = [n.head[0].weight for n in (a, other, seeded)]
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    encoders = [n.encoder.state_dict()["features.0.0.weight"] for n in (a, other, seeded)]
    assert torch.equal(encoders[0], encoders[1]) and torch.equal(encoders[0], encoders[2])


def test_building_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    nets.Builder("tiny", "tiny", 3, weights="none", seed=0)("net")
    assert torch.equal(state, torch.random.get_rng_state())


def test_imagenet_weights_of_ours_are_refused():
    with pytest.raises(ConfigError, match="no ImageNet weights"):
        nets.build("tiny", "tiny", 3)
