"""The run folder: names, states, and which folder a command means."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from fewmask.errors import CheckpointError
from fewmask.recipe import Recipe, differences

_NUMBER = re.compile(r"-(\d{3,})$")


class RunFolder:
    """Paths of one run.

    Args:
        path: the folder; need not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.data = self.path / "data.yaml"
        self.environment = self.path / "environment.json"
        self.log = self.path / "metrics.jsonl"
        self.metrics = self.path / "metrics.json"
        self.model = self.path / "model"
        self.pictures = self.path / "pictures"
        self.tensorboard = self.path / "tensorboard"
        self.next_steps = self.path / "NEXT_STEPS.txt"

    @property
    def started(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run here is complete: metrics.json is written last."""
        return self.metrics.is_file()

    def check_usable(self) -> None:
        """Refuse a folder that holds something else; nothing is written over.

        Raises:
            CheckpointError: it is a file, or holds files and no run.
        """
        if self.path.is_file():
            raise CheckpointError("the output is a file, not a folder", where=self.path, todo="give another --out")
        if self.path.is_dir() and not self.started:
            strange = sorted(
                p.name for p in self.path.iterdir() if not p.name.startswith(".") and p.name != "plan.json"
            )
            if strange:
                raise CheckpointError(
                    f"the output folder holds {strange[0]!r} and no run; nothing is written over", where=self.path,
                    todo="give an empty or new folder as --out",
                )  # fmt: skip

    def stored(self) -> dict[str, Any]:
        """Return config.yaml.

        Raises:
            CheckpointError: it cannot be read.
        """
        try:
            tree = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise CheckpointError(
                "config.yaml of the run cannot be read", where=self.config, todo="use --new"
            ) from error
        if not isinstance(tree, dict):
            raise CheckpointError("config.yaml of the run is not a mapping", where=self.config, todo="use --new")
        return tree

    def manifest(self) -> dict[str, Any]:
        """Return data.yaml of the run: hashes, counts and classes of the data it was started on."""
        return yaml.safe_load(self.data.read_text(encoding="utf-8"))

    def check_same(self, asked: Recipe) -> None:
        """Refuse to continue a run under another configuration.

        Raises:
            CheckpointError: with the keys that differ.
        """
        diff = differences(asked, self.stored())
        if diff:
            more = f" and {len(diff) - 4} more" if len(diff) > 4 else ""
            raise CheckpointError(
                f"the run has another configuration: {'; '.join(diff[:4])}{more}", where=self.path,
                todo="repeat its command, or give another --out (or --new)",
            )  # fmt: skip

    def read_metrics(self) -> dict[str, Any]:
        """Return metrics.json.

        Raises:
            CheckpointError: the run is not finished.
        """
        if not self.finished:
            raise CheckpointError(
                "no finished run here",
                where=self.path,
                todo="give a run folder; `fewmask train` continues unfinished ones",
            )
        return json.loads(self.metrics.read_text(encoding="utf-8"))


def choose_folder(asked: Recipe, base: Path, new: bool) -> RunFolder:
    """Return the newest unfinished run of this configuration below ``base``, else a fresh name there.

    Args:
        asked: the recipe as given.
        base: folder of the runs.
        new: start another run in any case.
    """
    method = re.sub(r"[^A-Za-z0-9_]+", "-", asked.method_name)
    stem = f"{Path(asked.data.dir).resolve().name}-{method}"
    numbered = sorted(
        (int(m[1]), p) for p in base.glob(f"{stem}-*")
        if (m := _NUMBER.search(p.name)) and p.name[: m.start()] == stem
    )  # fmt: skip
    if not new:
        for _, path in reversed(numbered):
            folder = RunFolder(path)
            if folder.started and not folder.finished and not differences(asked, folder.stored()):
                return folder
    last = numbered[-1][0] if numbered else 0
    return RunFolder(base / f"{stem}-{last + 1:03d}")
