"""Networks and optimisers to the flat dictionaries that a checkpoint holds, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fewmask.errors import CheckpointError


def networks_to_flat(nets: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Copy the parameters and persistent buffers of all networks to the CPU.

    Args:
        nets: name to module, unwrapped (no DDP, no ``torch.compile`` prefix); names hold no dot.

    Returns:
        ``net.key`` to a contiguous CPU tensor that shares memory with nothing, in the dtype of the network. A
        tensor that two networks share is there twice.
    """
    assert not any("." in name for name in nets), list(nets)
    return {f"{n}.{key}": _copy(value) for n, net in nets.items() for key, value in net.state_dict().items()}


def load_networks(nets: Mapping[str, nn.Module], flat: Mapping[str, Tensor]) -> None:
    """Copy tensors into the existing parameters and buffers, which keep device and memory format.

    Raises:
        CheckpointError: names, shapes or dtypes differ; nothing was copied.
    """
    wanted = {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}
    both = sorted(wanted.keys() & flat.keys())
    complaints = {
        "missing": sorted(wanted.keys() - flat.keys()),
        "unexpected": sorted(flat.keys() - wanted.keys()),
        "different": [
            f"{key} ({_kind(flat[key])}, the network has {_kind(wanted[key])})"
            for key in both
            if _kind(flat[key]) != _kind(wanted[key])
        ],
    }
    said = [f"{len(v)} {kind}: {', '.join(v[:3])}" for kind, v in complaints.items() if v]
    if said:
        raise CheckpointError(
            f"the checkpoint holds other networks than this run ({'; '.join(said)})",
            todo="use the method, architecture, encoder and classes that it was trained with",
        )
    for name, net in nets.items():
        prefix = f"{name}."
        net.load_state_dict({key.removeprefix(prefix): flat[key] for key in both if key.startswith(prefix)})


def flatten_optimiser(name: str, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Take an optimiser's state apart into tensors and JSON, without loss of a bit.

    Args:
        name: prefix of the tensor names; different for every optimiser of a run.
        optimizer: any torch optimiser, also before its first step.

    Returns:
        (tensors, structure): contiguous CPU copies, and JSON for ``Snapshot.state``.
    """
    tensors: dict[str, Tensor] = {}
    full = optimizer.state_dict()
    structure = {
        "shapes": [list(p.shape) for p in _parameters(optimizer)],
        "state": {str(i): _pack(entry, f"{name}.{i}", tensors) for i, entry in full["state"].items()},
        "param_groups": [_pack(g, f"{name}.group{i}", tensors) for i, g in enumerate(full["param_groups"])],
    }
    return tensors, structure


def restore_optimiser(
    name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], structure: Mapping[str, Any]
) -> None:
    """Put back what ``flatten_optimiser`` took apart.

    Moments get device and memory format of their parameter, and keep their own dtype.

    Raises:
        CheckpointError: a tensor is missing, or the optimiser has other parameters or groups.
    """
    parameters = _parameters(optimizer)
    todo = "use the method, architecture and optimiser that it was trained with"
    if structure["shapes"] != [list(p.shape) for p in parameters]:
        raise CheckpointError(f"the checkpoint's optimiser {name!r} has other parameters", todo=todo)
    try:
        state = {int(i): _unpack(entry, tensors) for i, entry in structure["state"].items()}
        groups = [_unpack(group, tensors) for group in structure["param_groups"]]
    except KeyError as error:
        raise CheckpointError(f"the checkpoint lacks optimiser tensor {error}", todo=todo) from error
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise CheckpointError(f"the checkpoint's optimiser {name!r} has other groups", todo=todo) from error
    # torch has chosen the devices, but has cast to the dtype of the parameter and kept the layout of the file
    for i, entry in state.items():
        placed = optimizer.state[parameters[i]]
        for key, value in entry.items():
            if isinstance(value, Tensor):
                like = parameters[i] if value.shape == parameters[i].shape else value
                placed[key] = torch.empty_like(like, dtype=value.dtype, device=placed[key].device).copy_(value)


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by names, and tag what JSON has no type for: {"tensor" | "tuple" | "dict": …}."""
    if isinstance(value, Tensor):
        tensors[name] = _copy(value)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": {str(key): _pack(entry, f"{name}.{key}", tensors) for key, entry in value.items()}}
    if isinstance(value, list | tuple):
        packed = [_pack(entry, f"{name}.{i}", tensors) for i, entry in enumerate(value)]
        return {"tuple": packed} if isinstance(value, tuple) else packed
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "tensor":
        return tensors[content]
    if tag == "tuple":
        return tuple(_unpack(entry, tensors) for entry in content)
    return {key: _unpack(entry, tensors) for key, entry in content.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all parameters in the order in which ``state_dict`` numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
