"""``--init``: begin from the networks of another run, with a new schedule and a new optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from fewmask.engine.checkpoint import Store
from fewmask.errors import CheckpointError, ConfigError
from fewmask.nets.segmenter import plain as without_heads
from fewmask.nets.weights import read_weights
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Say


def start_from(nets: Mapping[str, nn.Module], source: Path, say: Say, classes: Sequence[str] = ()) -> None:
    """Copy networks into ``nets``, by name where the run has that name, else from the delivered model.

    The reported network then scores what the delivered model scores: of a run that delivered its baseline, networks
    start from that alone.
    A second network without a counterpart gets the delivered encoder only: equal networks could not teach each other.
    Heads that the source lacks (a second decoder, a representation) keep their own start.

    Args:
        nets: changed in place.
        source: a run folder, or a .safetensors file of one network.
        say: told what was taken.
        classes: names of the data's classes; those of a run must be the same, in their order.

    Raises:
        CheckpointError: no such run, or its networks or classes do not fit.
        ConfigError: no such file.
    """
    if not source.exists():
        raise ConfigError(
            "what --init names does not exist", where=source, todo="give a run folder or a file of networks"
        )
    _check_classes(RunFolder(source), classes)
    named: dict[str, Tensor] = {}
    if RunFolder(source).all.started:  # cross-fitted: that is where its networks are
        source = RunFolder(source).all.path
    if source.is_dir():
        folder = RunFolder(source)
        store = Store(source, warn=say)
        snapshot = store.latest()
        if snapshot is not None and not _delivers_its_baseline(folder):
            step = store.best_step
            named = (store.load(step) if step is not None else snapshot).networks
        delivered = read_weights(folder.model / "model.safetensors") if folder.finished else {}
        if not named and not delivered:
            raise CheckpointError("there are no networks to start from", where=source, todo="give a run folder")
    else:
        delivered = read_weights(source)
    used_whole = False
    for name, net in nets.items():
        if not any(True for _ in net.parameters()):
            continue  # statistics of the data: they belong to a run
        own = {k.removeprefix(f"{name}."): v for k, v in named.items() if k.startswith(f"{name}.")}
        plain = without_heads(net)
        if own:
            _load(net if own.keys() == net.state_dict().keys() else plain, own, source, f"network {name!r}")
            say(f"{name}: starts from {name} of {source}")
        elif delivered and (not used_whole or not any(p.requires_grad for p in net.parameters())):
            _load(plain, delivered, source, f"network {name!r}")
            used_whole = True
            say(f"{name}: starts from the delivered model of {source}")
        elif delivered and isinstance(encoder := getattr(net, "encoder", None), nn.Module):
            part = {k.removeprefix("encoder."): v for k, v in delivered.items() if k.startswith("encoder.")}
            _load(encoder, part, source, f"encoder of {name!r}")
            say(f"{name}: starts from the encoder of {source}, with a decoder of its own")


def _check_classes(folder: RunFolder, classes: Sequence[str]) -> None:
    """A head's outputs mean what the run called them: under other names it would begin with other classes."""
    theirs = folder.manifest()["classes"] if folder.data.is_file() else list(classes)
    if classes and list(classes) != theirs:
        raise CheckpointError(
            f"the classes are {list(classes)}, and {theirs} in the run", where=folder.path,
            todo="name them in the same order in classes.txt or data.yaml, or leave --init away",
        )  # fmt: skip


def _delivers_its_baseline(folder: RunFolder) -> bool:
    return folder.finished and folder.read_metrics()["delivered"]["run"] == "baseline"


def _load(net: nn.Module, tensors: Mapping[str, Tensor], source: Path, what: str) -> None:
    own = net.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) or [k for k in own if own[k].shape != tensors[k].shape]
    if wrong:
        raise CheckpointError(
            f"{what} does not fit: {wrong[0]} differs (and {len(wrong) - 1} more)", where=source,
            todo="use the architecture, encoder and classes of that run",
        )  # fmt: skip
    net.load_state_dict(dict(tensors))
