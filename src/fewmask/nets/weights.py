"""Encoder weights: from a hub, from a file, or none; never silently from scratch."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import adapt_input_conv
from torch import Tensor, nn

from fewmask.errors import ConfigError

# names under which other libraries store an encoder inside a larger network
_PREFIXES = ("module.", "model.", "net.", "encoder.", "backbone.")
# parts of a classifier that a segmentation encoder does not have
_CLASSIFIER = ("classifier.", "fc.", "head.", "last_linear.", "_fc.",
               "incre_modules.", "downsamp_modules.", "final_layer.")  # the last three: HRNet's  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file.

    Raises:
        ConfigError: no such file, or not in that format.
    """
    if not path.is_file():
        raise ConfigError(
            "weights file does not exist", where=path, todo="give an existing .safetensors file, or --weights none"
        )
    try:
        return load_file(path)
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
