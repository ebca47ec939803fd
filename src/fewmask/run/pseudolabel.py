"""Pseudo-labels of any images from a finished run: the selections of self-training as a command."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fewmask.data.index import Item
from fewmask.engine.failure import failing_together
from fewmask.engine.files import ensure_writable
from fewmask.engine.label import write_labels
from fewmask.engine.label_pass import ALONE, RAW, Share, label_file
from fewmask.engine.launch import is_first_process, launch, placement
from fewmask.engine.lock import RunLock
from fewmask.engine.signals import StopRequest
from fewmask.errors import ConfigError
from fewmask.method import Task
from fewmask.ops.select import Rule, Selection
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Say
from fewmask.run.result import load


def pseudolabel(
    run: Path, files: Sequence[tuple[Path, str]], out: Path, rule: Rule, ratio: float, temperature: float, seed: int,
    say: Say,
) -> dict[str, Any]:  # fmt: skip
    """Write pseudo-labels on the grid of each image, with the user's own class ids, and return their manifest.

    Processes that torchrun or SLURM have started divide the images among them; the files are those of one process.

    Args:
        run: a finished run; its delivered model labels.
        files: (image, name of its labels below ``out``, without extension).
        out: folder of the labels.
        rule: which pixels keep their label.
        ratio: α.
        temperature: T.
        seed: of the random drop.
        say: told what it takes.

    Raises:
        CheckpointError: no finished run; or ``out`` holds labels that were made in another way.
        ConfigError: a file of that name exists, or two images have one name.
        Interrupted: asked to stop; what is predicted is kept.
    """
    with ExitStack() as stack:
        items, share = [Item(name, file) for file, name in files], ALONE
        if is_first_process():
            load(run)  # what is wrong is said by one process, before the others are met
            _check_free(out, items)
            ensure_writable(out)
            stack.enter_context(RunLock(out))
        if placement("auto").outside:
            fabric = launch("auto", "fp32")
            stack.enter_context(failing_together(fabric))
            share = Share.of(fabric)
        stop = stack.enter_context(StopRequest())
        how = Selection(rule, 1.0 if rule == "none" else ratio, temperature=temperature)
        return _write(run, items, out, how, seed, share, stop, say if share.rank == 0 else _silent)


def _write(
    run: Path, items: Sequence[Item], out: Path, how: Selection, seed: int, share: Share, stop: StopRequest, say: Say
) -> dict[str, Any]:  # fmt: skip
    folder, model = RunFolder(run), load(run).model

    def predict(item: Item, least_K: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert least_K is None, "no rule of this command divides"
        parts = [
            (p.argmax(0).astype(np.uint8), p.max(0))
            for _, p in model.bands(model.read(item.image), temperature=how.temperature)
        ]
        labels, confidences = zip(*parts, strict=True)
        return np.concatenate(labels), np.concatenate(confidences)

    weights = hashlib.sha256((folder.model / "model.safetensors").read_bytes()).hexdigest()
    names = hashlib.sha256("\0".join(item.name for item in items).encode("utf-8", "surrogateescape")).hexdigest()
    frequency = Task.of(list(folder.manifest()["labelled_pixels"].values())).frequency
    return write_labels(
        predict, items, out, how, model.classes, frequency=frequency, seed=seed, ids=model.ids, say=say, share=share,
        source={"model": weights, "images": names}, stop=lambda: stop.name if stop.requested else "",
    )  # fmt: skip


def _silent(_: str) -> None:
    """Say nothing: only the first process speaks."""


def _check_free(out: Path, items: Sequence[Item]) -> None:
    """Refuse to write over anything but what this command has begun."""
    begun, seen = (out / RAW).is_dir() or (out / "manifest.json").is_file(), set[str]()
    for item in items:
        target = label_file(out, item)
        if item.name in seen:
            raise ConfigError("two images would write the same file", where=target, todo="label them in two calls")
        if not begun and target.exists():
            raise ConfigError("the file exists; nothing is written over", where=target, todo="give another -o")
        seen.add(item.name)
