"""Where an encoder's pretrained weights come from, and under which licence: known before anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segmentation_models_pytorch.encoders import encoders
from timm.models import get_pretrained_cfg

from fewmask.nets.weights import pinned

_SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "cc-by-nc-4.0": "CC-BY-NC-4.0", "bsd-3-clause": "BSD-3-Clause"}
# segmentation_models_pytorch copied these from torchvision, whose licence is this one
_TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "mobilenet_v2",
                "densenet", "vgg")  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """Whose weights an encoder starts from.

    Attributes:
        source: repository and revision on the Hugging Face hub, a URL, or a file; "none" = they are drawn.
        licence: as SPDX writes it where that is known; None = nobody has said.
    """

    source: str
    licence: str | None

    def __str__(self) -> str:
        if self.source == "none":
            return "none, the encoder is drawn"
        return f"{self.source}, licence {self.licence or 'unknown: see where they come from'}"


def provenance(encoder: str, weights: str) -> Provenance:
    """Return where the weights of an encoder come from; nothing is asked of any network.

    Args:
        encoder: a name that ``nets.build`` takes.
        weights: "imagenet", "none", or a file.
    """
    weights, _ = pinned(weights)
    if weights != "imagenet":
        return Provenance(weights, None)
    if encoder.startswith("tu-"):
        return _of_timm(encoder.removeprefix("tu-"))
    settings: dict[str, Any] = encoders.get(encoder, {}).get("pretrained_settings", {}).get("imagenet", {})
    if "repo_id" not in settings:
        return Provenance("segmentation_models_pytorch", None)
    source = f"{settings['repo_id']} at {str(settings.get('revision', 'its newest'))[:12]}"
    return Provenance(source, "BSD-3-Clause (torchvision)" if encoder.startswith(_TORCHVISION) else None)


def _of_timm(name: str) -> Provenance:
    found = get_pretrained_cfg(name)
    if found is None:
        return Provenance("timm", None)
    licence = None if found.license is None else _SPDX.get(found.license.lower(), found.license)
    return Provenance(str(found.hf_hub_id or found.url or "timm"), licence)
