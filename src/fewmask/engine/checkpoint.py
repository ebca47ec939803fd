"""Checkpoints that survive a kill at any moment.

``RUN/checkpoints/step-00001200/`` holds ``networks.safetensors``, ``optimiser.safetensors``, ``state.json``
and ``MANIFEST.json`` (size and sha256 of the other three). It is written under a temporary name, every file
fsynced, the manifest last, and gets its name by one rename. Nothing in it is a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fewmask.config import load_json
from fewmask.engine.faults import site
from fewmask.engine.files import clean_leftovers, remove, sync_file, sync_folder, temporary_path, write_errors
from fewmask.engine.flatten import flatten_optimiser, load_networks, networks_to_flat, restore_optimiser
from fewmask.errors import CheckpointError

__all__ = [
    "Snapshot",
    "Store",
    "flatten_optimiser",
    "load_networks",
    "networks_to_flat",
    "restore_optimiser",
]

FORMAT = 1
"""Number of the layout; a checkpoint with another one is refused."""

_FILES = ("networks.safetensors", "optimiser.safetensors", "state.json")
_STEP = re.compile(r"step-(\d{8,})")
_ASIDE = ".replaced"


@dataclass
class Snapshot:
    """All state of a run between two steps.

    Attributes:
        step: steps done.
        networks: from ``networks_to_flat``.
        optimisers: tensors of every ``flatten_optimiser``, merged.
        state: the rest, as JSON: dicts with string keys, lists, strings, numbers, booleans and None. Floats
            come back exactly, NaN and infinities too.
    """

    step: int
    networks: dict[str, Tensor]
    optimisers: dict[str, Tensor]
    state: dict[str, Any]


class Store:
    """The checkpoints of a run folder: the last ``keep`` and the best ones that those refer to.

    Which snapshot is best stands in the state.json of each snapshot, so that no other file can disagree, and
    so that going back to an older snapshot goes back to what was best then. At most ``keep + 1`` remain, beside
    ``always``.

    Args:
        run_dir: the run folder; ``checkpoints`` is made below it at the first save.
        keep: how many of the newest remain, at least 1.
        always: steps that remain too.
        warn: receives one sentence when a checkpoint is skipped or a write is tried again.
    """

    def __init__(
        self,
        run_dir: Path | str,
        keep: int = 2,
        always: Collection[int] = (),
        warn: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ) -> None:
        assert keep >= 1, keep
        self.folder = Path(run_dir) / "checkpoints"
        self.keep, self.always, self.warn = keep, always, warn
        self._best: int | None = None
        self._best_known = False

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint, whether it exists or not."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, valid or not, in ascending order."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for p in self.folder.iterdir() if (m := _STEP.fullmatch(p.name)))

    @property
    def best_step(self) -> int | None:
        """Step marked best, as the snapshot last saved or the newest valid one says; None if none was marked.

        Raises:
            CheckpointError: as ``latest``.
        """
        if not self._best_known:
            self.latest()
        return self._best

    def clean(self) -> list[str]:
        """Finish or undo what a killed save left behind; call it at the start, while holding the run lock.

        Returns:
            The names of leftovers, removed or (a snapshot whose replacement never arrived) put back.

        Raises:
            WriteError: the disk refused.
        """
        names = clean_leftovers(self.folder)
        with write_errors(self.folder):
            for aside in sorted(self.folder.glob(f"step-*{_ASIDE}")):
                final = aside.with_name(aside.name.removesuffix(_ASIDE))
                names.append(aside.name)
                if final.exists():
                    remove(aside)
                else:
                    os.rename(aside, final)
        return names

    def latest(self) -> Snapshot | None:
        """Return the newest valid snapshot, None if there is none; a damaged one is skipped with a warning.

        Raises:
            CheckpointError: there are checkpoints and none is valid: starting again would bury them.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                snapshot, self._best = self._read(step)
            except CheckpointError as error:
                self.warn(f"checkpoint {self.path(step).name} is skipped: {error.what} ({error.where})")
                continue
            self._best_known = True
            return snapshot
        if steps:
            raise CheckpointError(
                f"none of the {len(steps)} checkpoints can be used",
                where=self.folder,
                todo="start another run with --new",
            )
        self._best, self._best_known = None, True
        return None

    def load(self, step: int) -> Snapshot:
        """Return the snapshot of one step, which was asked for by name: there is no fallback.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        if not self.path(step).is_dir():
            there = ", ".join(map(str, self.steps())) or "none"
            raise CheckpointError(
                f"there is no checkpoint of step {step}", where=self.folder, todo=f"steps with one: {there}"
            )
        return self._read(step)[0]

    def digest(self, step: int) -> str:
        """Return the sha256 of a step's networks, as the manifest of a checkpoint that was loaded has it."""
        return load_json((self.path(step) / "MANIFEST.json").read_bytes())["files"][_FILES[0]]["sha256"]

    def save(self, snapshot: Snapshot, best: bool = False) -> Path:
        """Write a snapshot, then remove those that are no longer kept and any of a later step.

        A failed write leaves the previous snapshots and no temporary, warns, and is tried once more.

        Args:
            snapshot: what to write. A later step on disk is damaged, or of a continuation that was given up.
            best: mark this one as the best so far; otherwise the mark stays where it is.

        Returns:
            The folder of the checkpoint.

        Raises:
            WriteError: the disk refused twice.
        """
        _check_json(snapshot.state, "state")
        best_step = snapshot.step if best else self._best_up_to(snapshot.step)
        final = self.path(snapshot.step)
        try:
            self._write(snapshot, best_step, final)
        except OSError as error:
            reason = error.strerror or error
            self.warn(f"WARNING: could not write {final}: {reason}; earlier checkpoints are kept; trying once more")
            with write_errors(final):
                self._write(snapshot, best_step, final)
        self._best, self._best_known = best_step, True
        try:
            self._prune(snapshot.step)
        except OSError as error:  # the new snapshot is safe: too many old ones are no reason to stop
            self.warn(f"WARNING: could not remove an old checkpoint: {error}")
        return final

    def _write(self, snapshot: Snapshot, best_step: int | None, final: Path) -> None:
        state = {"format": FORMAT, "step": snapshot.step, "best_step": best_step, "state": snapshot.state}
        contents = (
            lambda: safetensors.torch.save(snapshot.networks),
            lambda: safetensors.torch.save(snapshot.optimisers),
            lambda: json.dumps(state, indent=1).encode(),
        )
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
            sync_folder(self.folder.parent)
        temporary = temporary_path(self.folder)
        try:
            temporary.mkdir()
            entries = {name: _write_file(temporary / name, make()) for name, make in zip(_FILES, contents, strict=True)}
            site("save.before_manifest")
            manifest = {"format": FORMAT, "files": entries}
            _write_file(temporary / "MANIFEST.json", json.dumps(manifest, indent=1).encode())
            sync_folder(temporary)
            site("save.before_rename")
            self._publish(temporary, final)
        except BaseException:
            try:
                remove(temporary)
            except OSError as error:
                self.warn(f"WARNING: could not remove {temporary}: {error}")
            raise

    def _publish(self, temporary: Path, final: Path) -> None:
        aside = final.with_name(final.name + _ASIDE)
        replaces = final.exists()  # the same step again: a final save, or a damaged one that is made anew
        if replaces:
            remove(aside)
            os.rename(final, aside)  # a folder with files in it cannot be renamed over
        try:
            site("save.mid_replace")
            os.rename(temporary, final)
        except OSError:
            if replaces:
                os.rename(aside, final)
            raise
        site("save.after_rename")
        sync_folder(self.folder)
        if replaces:
            remove(aside)

    def _prune(self, newest: int) -> None:
        steps = self.steps()
        last = [step for step in steps if step <= newest][-self.keep :]
        kept = {*last, *(s for s in self.always if s <= newest), *(self._best_of(step) for step in last)}
        for step in steps:
            if step not in kept:
                nameless = temporary_path(self.folder)
                os.rename(self.path(step), nameless)  # first, so that nobody takes a half-removed one for a damaged one
                site("save.mid_prune")
                remove(nameless)

    def _best_up_to(self, step: int) -> int | None:
        if self._best_known:
            return self._best
        intact = (best for s in reversed(self.steps()) if s <= step and (best := self._best_of(s)) is not None)
        return next(intact, None)

    def _best_of(self, step: int) -> int | None:
        try:
            return self._read_state(step)["best_step"]
        except CheckpointError:
            return None

    def _read(self, step: int) -> tuple[Snapshot, int | None]:
        tensors = []
        for name in _FILES[:2]:
            try:
                tensors.append(safetensors.torch.load(self._verified(step, name)))
            except SafetensorError as error:
                raise _unusable(self.path(step) / name, str(error)) from error
        record = self._read_state(step)
        return Snapshot(step, tensors[0], tensors[1], record["state"]), record["best_step"]

    def _read_state(self, step: int) -> dict[str, Any]:
        where, data = self.path(step) / "state.json", self._verified(step, "state.json")
        try:
            record = load_json(data)
            form, of, _, _ = (record[key] for key in ("format", "step", "state", "best_step"))
        except (ValueError, KeyError, TypeError) as error:
            raise _unusable(where, "it says not what a checkpoint says") from error
        if form != FORMAT:
            raise _unusable(where, f"it has format {form!r}, this version reads {FORMAT}")
        if of != step:
            raise _unusable(where, f"it is of step {of!r}, its folder of step {step}")
        return record

    def _verified(self, step: int, name: str) -> bytes:
        """Return the bytes of a file, which are the very bytes that were hashed."""
        path = self.path(step) / name
        try:
            entry = load_json((self.path(step) / "MANIFEST.json").read_bytes())["files"][name]
            size, digest = entry["size"], entry["sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unusable(self.path(step) / "MANIFEST.json", "it cannot be read") from error
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _unusable(path, error.strerror or str(error)) from error
        if len(data) != size:
            raise _unusable(path, f"{len(data)} bytes instead of {size}")
        if hashlib.sha256(data).hexdigest() != digest:
            raise _unusable(path, "its content changed since it was written")
        return data


def _write_file(path: Path, data: bytes) -> dict[str, Any]:
    """Write and fsync one file of a checkpoint; return its entry in the manifest."""
    site("save.open")
    with open(path, "wb") as handle:
        half = len(data) // 2
        handle.write(memoryview(data)[:half])
        handle.flush()
        site("save.mid_write")
        handle.write(memoryview(data)[half:])
        handle.flush()
        site("save.before_fsync")
        sync_file(handle, len(data))
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _unusable(where: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint cannot be used: {reason}",
        where=where,
        todo="name no step, to use the newest valid one",
    )


def _check_json(value: Any, where: str) -> None:
    """Refuse what JSON would bring back as something else: tuples, keys that are no strings, objects."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: keys must be strings")
            _check_json(entry, f"{where}.{key}")
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            _check_json(entry, f"{where}[{i}]")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise TypeError(f"{where} is a {type(value).__name__}, which JSON cannot bring back")
