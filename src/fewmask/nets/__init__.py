"""Networks: any architecture × encoder of segmentation_models_pytorch, and ours, behind one interface."""

from __future__ import annotations

import copy
import traceback
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch import MODEL_ARCHITECTURES_MAPPING
from segmentation_models_pytorch.encoders import get_encoder_names
from torch import nn

from fewmask.errors import ConfigError, did_you_mean
from fewmask.nets import hrnet
from fewmask.nets.dilated import DILATED
from fewmask.nets.options import arguments
from fewmask.nets.pool import SteadyPool, replace_pools
from fewmask.nets.segmenter import Segmenter
from fewmask.nets.small import small
from fewmask.nets.tiny import tiny
from fewmask.nets.trimmed import trim
from fewmask.nets.weights import check_encoder, load_encoder, pinned, read_weights
from fewmask.ops.rng import Purpose, torch_seed

OURS: dict[str, Callable[..., Segmenter]] = {"small": small, "tiny": tiny}
"""Architectures that are not segmentation_models_pytorch's; they have one encoder of their own."""

DEFAULT_ARCH = "deeplabv3plus"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_GREY = (0.449, 0.226)  # the means of both


def statistics(channels: int, coloured: bool = True) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each input channel, in 0..1: ImageNet's, of grey for what has no colour.

    Args:
        channels: how many.
        coloured: the first three are red, green and blue.
    """
    own = (IMAGENET_MEAN, IMAGENET_STD) if coloured else ((), ())
    mean, std = ((*values, *(channels - len(values)) * (grey,)) for values, grey in zip(own, _GREY, strict=True))
    return mean, std


def architectures() -> list[str]:
    """Return the names that ``--arch`` takes."""
    return sorted([*MODEL_ARCHITECTURES_MAPPING, *OURS, *DILATED, hrnet.NAME])


def encoders() -> list[str]:
    """Return the names that ``--encoder`` takes, beside any timm name with the ``tu-`` prefix."""
    return sorted(n for n in get_encoder_names() if not n.startswith("timm-"))


def default_encoder(arch: str, cuda: bool) -> str:
    """Return the encoder of an architecture for which none is named.

    Args:
        arch: a name of ``architectures()``.
        cuda: the network will run on a GPU, else on a CPU.
    """
    if arch in OURS:
        return arch  # they have one of their own
    if arch == hrnet.NAME:
        return "tu-hrnet_w48" if cuda else "tu-hrnet_w18_small"
    return "resnet50" if cuda else "mobilenet_v2"


_ELSEWHERE = frozenset(":/\\")


def _from_smp(
    arch: str, encoder: str, classes: int, channels: int, options: Mapping[str, Any], weights: str | None
) -> Segmenter:
    model: Any = smp.create_model(arch, encoder, weights, channels, classes, **options)
    stride = model.encoder.output_stride if model.requires_divisible_input_shape else 1
    return Segmenter(trim(model.encoder), trim(model.decoder), model.segmentation_head, stride)


def build(
    arch: str, encoder: str, classes: int, *, weights: str = "imagenet", channels: int = 3,
    output_stride: int | None = None, atrous_rates: Sequence[int] | None = None,
) -> Segmenter:  # fmt: skip
    """Build a network with weights drawn from the global generator, and the encoder's as asked.

    Args:
        arch: a name of ``architectures()``.
        encoder: a name of ``encoders()``, or a timm name with the prefix ``tu-``.
        classes: K.
        weights: "imagenet" (downloaded by segmentation_models_pytorch or timm), "none", or a .safetensors file; with
            ``#sha256=`` and a hash behind it no other.
        channels: input channels; pretrained weights of three are repeated, 3/channels as strong, or summed for one, as
            timm does.
        output_stride: pixels a feature cell of the encoder's last map, for architectures with a dilated encoder (8 or
            16; PAN 16 or 32); None = the architecture's default.
        atrous_rates: the three rates of ASPP, for DeepLabV3 and V3+; None = 12, 24, 36.

    Raises:
        ConfigError: unknown names; an option that the architecture does not take; a pair that cannot be built, with
            the library's reason; weights that cannot be reached or do not fit.
    """
    if arch not in architectures():
        raise ConfigError(
            f"unknown architecture {arch!r}", where="model.arch", todo=did_you_mean(arch, architectures())
        )
    options = arguments(arch, {"output_stride": output_stride, "atrous_rates": atrous_rates})
    weights, digest = pinned(weights)
    if arch in OURS:
        return _ours(arch, classes, channels, weights)
    _check_encoder(arch, encoder)
    make: Callable[[str | None], Segmenter]
    if arch == hrnet.NAME:
        make = partial(hrnet.hrnet, encoder, classes, channels)
    elif arch in DILATED:
        make = partial(DILATED[arch], encoder, classes, channels)
    else:
        make = partial(_from_smp, arch, encoder, classes, channels, options)
    net = _make(make, arch, encoder, weights)
    if weights == "imagenet":
        check_encoder(net.encoder, digest)
    elif weights != "none":
        path = Path(weights)
        load_encoder(net.encoder, read_weights(path, digest), path, channels)
    if torch.are_deterministic_algorithms_enabled():
        replace_pools(net, SteadyPool, single=False)
    return net


def _ours(arch: str, classes: int, channels: int, weights: str) -> Segmenter:
    if weights not in ("none", "imagenet"):
        raise ConfigError(
            f"architecture {arch!r} takes no weights file", where="model.weights", todo="use --weights none"
        )
    if weights == "imagenet":
        raise ConfigError(
            f"there are no ImageNet weights for {arch!r}", where="model.weights", todo="use --weights none"
        )
    return OURS[arch](classes, channels)


def _check_encoder(arch: str, encoder: str) -> None:
    if _ELSEWHERE & set(encoder):  # timm would ask a hub, or read a folder, for what these names stand for
        raise ConfigError(
            f"encoder {encoder!r} is no name of a network", where="model.encoder", todo="see `fewmask models`"
        )
    if arch == hrnet.NAME:
        hrnet.check_encoder(encoder)
    elif not encoder.startswith("tu-") and encoder not in encoders():
        raise ConfigError(
            f"unknown encoder {encoder!r}", where="model.encoder",
            todo=did_you_mean(encoder, encoders()) + " (timm names take the prefix tu-)",
        )  # fmt: skip


def _make(make: Callable[[str | None], Segmenter], arch: str, encoder: str, weights: str) -> Segmenter:
    """Call the library, and reword what it raises."""
    try:
        return _quietly(make, "imagenet" if weights == "imagenet" else None)
    except Exception as error:  # the libraries raise anything from KeyError to a hub's HTTP classes
        said = str(error) or traceback.extract_tb(error.__traceback__)[-1].line  # timm's bare assertions
        reason = f"{type(error).__name__}: {said}".splitlines()[0][:300]
        if weights == "imagenet" and _builds_without_weights(make):
            raise ConfigError(
                f"ImageNet weights for {encoder!r} cannot be reached ({reason})", where="model.weights",
                todo="check the network, give --weights FILE.safetensors, or ask for --weights none",
            ) from error  # fmt: skip
        raise ConfigError(
            f"{arch} with encoder {encoder} cannot be built: {reason}", where="model.arch, model.encoder",
            todo="choose another pair; `fewmask models` lists them",
        ) from error  # fmt: skip


def _quietly(make: Callable[[str | None], Segmenter], weights: str | None) -> Segmenter:
    with warnings.catch_warnings():
        # smp warns that a boolean is wanted for tu- encoders; what it does with the string is what we ask for
        warnings.simplefilter("ignore", UserWarning)
        return make(weights)


def _builds_without_weights(make: Callable[[str | None], Segmenter]) -> bool:
    try:
        _quietly(make, None)
    except Exception:
        return False
    return True


class Builder:
    """Makes the networks of a run: the same seed and name give the same weights, another name other ones.

    The encoder's pretrained weights are loaded once and shared by all; decoders and heads are drawn anew.

    Args:
        arch: see ``build``.
        encoder: see ``build``.
        classes: K.
        weights: see ``build``.
        seed: the run's seed.
        channels: see ``build``.
        output_stride: see ``build``.
        atrous_rates: see ``build``.
    """

    def __init__(
        self, arch: str, encoder: str, classes: int, *, weights: str, seed: int, channels: int = 3,
        output_stride: int | None = None, atrous_rates: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        self.weights, self.seed = weights, seed
        self._build = partial(
            build, arch, encoder, classes, channels=channels, output_stride=output_stride, atrous_rates=atrous_rates
        )
        self._pretrained: dict[str, torch.Tensor] | None = None

    def __call__(self, name: str) -> nn.Module:
        """Return the network called ``name``, in train mode."""
        key = zlib.crc32(name.encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(self.seed, Purpose.INIT, step=key))
            first = self._pretrained is None
            net = self._build(weights=self.weights if first else "none")
        if self.weights != "none":
            if self._pretrained is None:
                self._pretrained = copy.deepcopy(net.encoder.state_dict())
            net.encoder.load_state_dict(self._pretrained)
        return net
