"""Which encoder weights a run took: their hash, what asks for one hash, and what refuses another."""

from __future__ import annotations

import hashlib
import json

import pytest
import segmentation_models_pytorch.encoders as library
import torch
from safetensors.torch import save, save_file
from torch import nn

from fewmask import nets
from fewmask.errors import CheckpointError, ConfigError
from fewmask.nets.weights import identify, pinned
from fewmask.run.environment import check_weights, other_weights

ARCH, ENCODER = "unet", "mobilenet_v2"


def donor(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nets.build(ARCH, ENCODER, 3, weights="none").encoder


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "odd#name.safetensors"
    save_file(donor(1).state_dict(), path)
    return path


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_with_its_hash_is_taken(file):
    pin = f"{file}#sha256={digest(file)}"
    net = nets.build(ARCH, ENCODER, 3, weights=pin)
    assert torch.equal(net.encoder.state_dict()["features.0.0.weight"], donor(1).state_dict()["features.0.0.weight"])
    assert identify(pin, net.encoder) == identify(str(file), net.encoder) == {
        "source": str(file), "sha256": digest(file)
    }  # fmt: skip


def test_another_file_is_refused_before_it_is_parsed(file):
    pin = f"{file}#sha256={digest(file)}"
    file.write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(
        ConfigError, match=rf"have the SHA-256 {digest(file)}, not {pin[-64:]}.*odd#name.*leave #sha256"
    ):
        nets.build(ARCH, ENCODER, 3, weights=pin)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub that segmentation_models_pytorch asks, with weights of ours; no address is opened."""
    asked = []

    def download(repo: str, filename: str, revision: str) -> str:
        asked.append((repo, filename, revision))
        path = tmp_path / filename
        if filename.endswith(".safetensors") and not path.exists():
            save_file(donor(2).state_dict(), path)
        return str(path)

    monkeypatch.setattr(library, "hf_hub_download", download)
    return asked


def test_downloaded_weights_are_of_a_pinned_revision_and_are_told_by_their_tensors(hub):
    net = nets.build(ARCH, ENCODER, 3, weights="imagenet")
    assert {len(revision) for _, _, revision in hub} == {40}, "a commit, not a branch"
    found = identify("imagenet", net.encoder)
    assert found == {"source": "imagenet", "sha256": hashlib.sha256(save(donor(2).state_dict())).hexdigest()}
    nets.build(ARCH, ENCODER, 3, weights=f"imagenet#sha256={found['sha256']}")
    with pytest.raises(ConfigError, match=f"have the SHA-256 {found['sha256']}, not {'0' * 64}; imagenet"):
        nets.Builder(ARCH, ENCODER, 3, weights=f"imagenet#sha256={'0' * 64}", seed=0)("net")


def test_every_encoder_of_the_library_has_its_revision():
    for name in nets.encoders():
        for settings in library.encoders[name]["pretrained_settings"].values():
            assert len(settings["revision"]) == 40 and int(settings["revision"], 16), name


@pytest.mark.parametrize("pin", ["none#sha256=" + "0" * 64, "#sha256=" + "0" * 64, "imagenet#sha256=12", "a#sha256="])
def test_what_is_no_hash(pin):
    with pytest.raises(ConfigError, match="names no weights with a SHA-256"):
        pinned(pin)


def test_none_has_no_hash():
    assert identify("none", donor(0)) is None and pinned("none") == ("none", None)


NOW = {"source": "here/e.safetensors", "sha256": "1" * 64}


@pytest.mark.parametrize(
    ("record", "other"),
    [
        ({"weights": NOW}, False), ({"weights": NOW | {"source": "elsewhere"}}, False), ({}, False), ([], False),
        ({"weights": NOW | {"sha256": "2" * 64}}, True), ({"weights": None}, True), ({"weights": [1]}, True),
    ],
)  # fmt: skip
def test_what_a_run_began_with(record, other, tmp_path):
    assert other_weights(record, NOW) is other
    (file := tmp_path / "environment.json").write_text(json.dumps(record))
    if not other:
        return check_weights(file, NOW)
    with pytest.raises(CheckpointError, match="weights have changed since the run began"):
        check_weights(file, NOW)
    assert other_weights({"weights": NOW}, None)
