"""What a call of ``fewmask predict`` has finished: the same call again continues, where one was stopped or failed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fewmask.config import load_json
from fewmask.engine.files import json_text, write_errors


def digest_of(model: Path) -> str:
    """Return what tells a model folder from others, by what it predicts."""
    digest = hashlib.sha256()
    for part in ("config.json", "model.safetensors"):
        with (model / part).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Journal:
    """A line of ``OUT/.predict-KEY.jsonl`` for each image that is done; gone when all are.

    The key is of the model, of how it predicts, and of the inputs as they were named: a file that had to be repaired or
    taken away in between does not matter.

    Args:
        out: the folder that is written to.
        model: ``digest_of`` it.
        inputs: as they were named.
        how: everything else that decides what is written.

    Attributes:
        rows: image name to what was told of it, of those that are done.
        begun: names of the images of the call that was not finished; their files are its own.
    """

    def __init__(self, out: Path, model: str, inputs: Sequence[Path], how: Mapping[str, Any]) -> None:
        digest = hashlib.sha256(model.encode())
        digest.update(json.dumps([[str(path.resolve()) for path in inputs], how], sort_keys=True).encode())
        self.path = out / f".predict-{digest.hexdigest()[:16]}.jsonl"
        self.begun: Collection[str] = ()
        self._names: Collection[str] = ()
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            self._read(self.path.read_text(encoding="utf-8").splitlines())

    def _read(self, lines: Sequence[str]) -> None:
        try:
            self.begun = set(load_json(lines[0])["names"])
            for line in lines[1:]:
                row = load_json(line)
                self.rows[row["name"]] = row
        except (ValueError, KeyError, TypeError, IndexError):
            return  # the last line of a killed process is torn: what it says is done again

    def own(self, targets: Mapping[str, Mapping[str, Path]]) -> set[Path]:
        """Return the files that the call which was not finished may have left unfinished.

        Args:
            targets: image name to what is written of it.
        """
        return {path for name, paths in targets.items() if name in self.begun for path in paths.values()}

    def begin(self, names: Collection[str]) -> None:
        """Say which images are to be done; it is written down with the first that is."""
        self._names = {*self.begun, *names}

    def add(self, row: dict[str, Any]) -> None:
        """Write down that an image is done."""
        with write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._names:
                lines = [json.dumps({"names": sorted(self._names)}), *map(json_text, self.rows.values())]
                self.path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                self._names = ()
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json_text(row) + "\n")
        self.rows[row["name"]] = row

    def end(self) -> None:
        """Forget the call: all of it is done."""
        self.path.unlink(missing_ok=True)
