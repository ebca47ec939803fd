"""Options of an architecture, and which architectures take them: read from segmentation_models_pytorch's signatures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from segmentation_models_pytorch import MODEL_ARCHITECTURES_MAPPING

from fewmask.errors import ConfigError

OPTIONS = {"output_stride": "encoder_output_stride", "atrous_rates": "decoder_atrous_rates"}
"""Key of the ``model`` section, and the argument of segmentation_models_pytorch's architectures that it becomes."""


def takers(option: str) -> dict[str, inspect.Parameter]:
    """Return the architectures that take an option, and the parameter that it is there.

    Args:
        option: a key of ``OPTIONS``.
    """
    found = {}
    for arch, network in sorted(MODEL_ARCHITECTURES_MAPPING.items()):
        parameters = inspect.signature(network, eval_str=True).parameters
        if OPTIONS[option] in parameters:
            found[arch] = parameters[OPTIONS[option]]
    return found


def arguments(arch: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the library is called with for the options that are set.

    Args:
        arch: any architecture, ours too.
        options: keys of ``OPTIONS`` to values; None = the architecture's own default.

    Raises:
        ConfigError: an option that the architecture does not take, or not with that value.
    """
    out = {}
    for option, value in options.items():
        if value is None:
            continue
        known = takers(option)
        if arch not in known:
            raise ConfigError(
                f"architecture {arch!r} takes no {option}", where=f"model.{option}",
                todo=f"leave it out (null), or choose an architecture that takes it: {', '.join(known)}",
            )  # fmt: skip
        allowed = {name: _values(parameter) for name, parameter in known.items()}
        if allowed[arch] and value not in allowed[arch]:
            every = "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in allowed.items())
            raise ConfigError(
                f"architecture {arch!r} takes no {option} {value}", where=f"model.{option}", todo=f"possible: {every}"
            )
        out[OPTIONS[option]] = value
    return out


def _values(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """Return the values that a parameter is limited to; empty = it is not."""
    return get_args(parameter.annotation) if get_origin(parameter.annotation) is Literal else ()
