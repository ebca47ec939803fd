"""Encoder weights: from a hub, from a file, or none; never silently from scratch."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from timm.models import adapt_input_conv
from torch import Tensor, nn

from fewmask.errors import ConfigError

# names under which other libraries store an encoder inside a larger network
_PREFIXES = ("module.", "model.", "net.", "encoder.", "backbone.")
# parts of a classifier that a segmentation encoder does not have
_CLASSIFIER = ("classifier.", "fc.", "head.", "last_linear.", "_fc.",
               "incre_modules.", "downsamp_modules.", "final_layer.")  # the last three: HRNet's  # fmt: skip


_PIN = "#sha256="


def pinned(weights: str) -> tuple[str, str | None]:
    """Return what ``model.weights`` names ("imagenet", "none" or a file), and the SHA-256 that it must have, if any.

    ``encoder.safetensors#sha256=9f86d0…`` asks for one, and ``imagenet#sha256=…``.

    Raises:
        ConfigError: it is no SHA-256, or of nothing.
    """
    name, mark, digest = weights.rpartition(_PIN)
    if not mark:
        return weights, None
    if name in ("", "none") or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ConfigError(
            f"{weights!r} names no weights with a SHA-256", where="model.weights",
            todo="write FILE#sha256= or imagenet#sha256= and 64 digits of 0-9a-f",
        )  # fmt: skip
    return name, digest


def identify(weights: str, encoder: nn.Module) -> dict[str, str] | None:
    """Return what an encoder was loaded from, {"source", "sha256"}; None = it was drawn.

    Args:
        weights: as in a recipe. Of a file the hash is that of its bytes; of "imagenet" that of the encoder's tensors as
            a ``.safetensors`` file would hold them, whatever the hub's file is called.
        encoder: after it was loaded.
    """
    source, _ = pinned(weights)
    if source == "none":
        return None
    data = save(dict(encoder.state_dict())) if source == "imagenet" else Path(source).read_bytes()
    return {"source": source, "sha256": hashlib.sha256(data).hexdigest()}


def check_pinned(source: object, data: bytes, digest: str | None) -> None:
    """Refuse weights with another SHA-256 than was asked for.

    Raises:
        ConfigError: with both.
    """
    if digest is not None and (found := hashlib.sha256(data).hexdigest()) != digest:
        raise ConfigError(
            f"the weights have the SHA-256 {found}, not {digest}", where=source,
            todo="get the file that was meant, or leave #sha256= out of model.weights",
        )  # fmt: skip


def check_encoder(encoder: nn.Module, digest: str | None) -> None:
    """Refuse ImageNet weights with another hash than was asked for; see ``identify``.

    Raises:
        ConfigError: with both.
    """
    if digest is not None:
        check_pinned("imagenet", save(dict(encoder.state_dict())), digest)


def read_weights(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file.

    Args:
        path: the file.
        digest: its SHA-256; None = any.

    Raises:
        ConfigError: no such file, not in that format, or another file.
    """
    if not path.is_file():
        raise ConfigError(
            "weights file does not exist", where=path, todo="give an existing .safetensors file, or --weights none"
        )
    data = path.read_bytes()
    check_pinned(path, data, digest)
    try:
        return load(data)
    except SafetensorError as error:
        raise ConfigError(
            f"not a safetensors file ({error})",
            where=path,
            todo="convert the weights to .safetensors; pickles are not read",
        ) from error


def _strip(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


def load_encoder(encoder: nn.Module, tensors: dict[str, Tensor], source: object, channels: int = 3) -> None:
    """Copy encoder weights into ``encoder``; a classifier among them is ignored.

    Args:
        encoder: changed in place.
        tensors: name to tensor; common wrapper prefixes are stripped.
        source: where they come from, for the message.
        channels: input channels of ``encoder``; weights of three are adapted.

    Raises:
        ConfigError: a tensor of the encoder is missing or has another shape, or the file holds tensors that the
            encoder does not know; the first ones that differ are named.
    """
    own = encoder.state_dict()
    prefix = "model." if all(name.startswith("model.") for name in own) else ""  # timm encoders inside smp
    given = {prefix + _strip(name): tensor for name, tensor in tensors.items()}
    if channels != 3:
        given = {name: _adapted(tensor, own.get(name), channels) for name, tensor in given.items()}
    # some encoders keep a part of that name: what an HRNet's classifier begins with, under other decoders than its own
    given = {n: t for n, t in given.items() if n in own or not n.removeprefix(prefix).startswith(_CLASSIFIER)}
    counters = {name for name in own if name.endswith("num_batches_tracked")}  # absent from older files; harmless
    wrong = [f"{n}: missing" for n in own if n not in given and n not in counters]
    wrong += [f"{n}: {list(given[n].shape)} in the file, {list(own[n].shape)} in the encoder"
              for n in own if n in given and given[n].shape != own[n].shape]  # fmt: skip
    wrong += [f"{n}: not part of the encoder" for n in given if n not in own]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigError(
            f"weights do not fit the encoder: {'; '.join(wrong[:3])}{more}", where=source,
            todo="choose the encoder these weights belong to, or --weights none",
        )  # fmt: skip
    encoder.load_state_dict(given, strict=False)


def _adapted(tensor: Tensor, own: Tensor | None, channels: int) -> Tensor:
    """Return the weights of a first convolution of three channels for so many; others as they are."""
    if own is None or tensor.dim() != 4 or (tensor.shape[1], own.shape[1]) != (3, channels):
        return tensor
    return adapt_input_conv(channels, tensor)
