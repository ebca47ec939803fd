"""Whose pretrained weights an encoder starts from, and under which licence; nothing is asked of a network."""

from __future__ import annotations

import re
import socket

import pytest

from fewmask.nets import default_encoder
from fewmask.nets.provenance import provenance


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("it went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("encoder", "source", "licence"),
    [
        ("mobilenet_v2", "smp-hub/mobilenet_v2.imagenet at ", "BSD-3-Clause (torchvision)"),
        ("resnet50", "smp-hub/resnet50.imagenet at ", "BSD-3-Clause (torchvision)"),
        ("tu-hrnet_w48", "timm/hrnet_w48.ms_in1k", "MIT"),
        ("tu-resnet50c", "timm/resnet50c.gluon_in1k", "Apache-2.0"),
        ("mit_b0", "smp-hub/mit_b0.imagenet at ", None),
        ("tu-nobody_knows_it", "timm", None),
    ],
)
def test_of_encoders(encoder: str, source: str, licence: str | None) -> None:
    found = provenance(encoder, "imagenet")
    assert found.source.startswith(source) and found.licence == licence
    assert str(found).startswith(f"{found.source}, licence {licence or 'unknown'}")
    if source.startswith("smp-hub"):
        assert re.fullmatch("[0-9a-f]{12}", found.source.removeprefix(source))


def test_of_weights_that_may_not_be_sold() -> None:
    assert provenance("tu-convnextv2_tiny", "imagenet").licence == "CC-BY-NC-4.0"


def test_without_pretrained_weights() -> None:
    assert str(provenance("resnet50", "none")) == "none, the encoder is drawn"
    assert str(provenance("resnet50", "mine.safetensors")).startswith("mine.safetensors, licence unknown")


def test_default_encoders_have_permissive_weights() -> None:
    for arch in ("deeplabv3plus", "hrnet"):
        for cuda in (True, False):
            licence = provenance(default_encoder(arch, cuda), "imagenet").licence
            assert licence is not None and licence.startswith(("BSD-3-Clause", "MIT", "Apache-2.0"))
