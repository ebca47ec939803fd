"""The run folder: names, states, and which folder a command means."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, ValidationError

from fewmask.config import MAX_BYTES, load_json, load_yaml
from fewmask.data.datayaml import DataYaml
from fewmask.data.declared import declared_by
from fewmask.errors import CheckpointError, ConfigError
from fewmask.recipe import Recipe
from fewmask.run.differences import differences

_NUMBER = re.compile(r"-(\d{3,})$")


class _Round(BaseModel):
    name: Annotated[str, Field(pattern=r"^\w[\w-]*$")]  # of a folder
    steps: int


class _Best(BaseModel):
    step: int | None = None


class _Delivered(BaseModel):
    run: Literal["method", "baseline"] = "method"
    step: int | None = None
    val: float | None = None


class _Metrics(BaseModel):
    """Types of what other commands use of metrics.json: a whole folder may have come from somebody else."""

    method: str | None = None
    seed: int | None = None
    steps: int | None = None
    best: _Best | None = None
    delivered: _Delivered | None = None
    baseline_run: str | None = None
    rounds: list[_Round] | None = None
    seeds: list[int] | None = None
    folds: list[dict[str, Any]] | None = None


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
        self.plots = self.path / "plots"
        self.tensorboard = self.path / "tensorboard"
        self.evaluation = self.path / "evaluation.npz"
        self.report = self.path / "report.html"
        self.next_steps = self.path / "NEXT_STEPS.txt"
        self.done = self.path / "DONE"
        self.pseudo = self.path / "pseudo"
        self.ranking = self.path / "ranking.json"
        self.debug = self.path / "debug"
        self.quarantine = self.path / "quarantine.jsonl"
        self.part = self.path / "unlabelled.json"
        self.plan = self.path / "plan.json"
        self.doubtful = self.path / "doubtful"
        self.curve = self.path / "curve"
        self.halving = self.path / "halving"

    SEEDS: ClassVar[str] = "seeds"

    @property
    def baseline(self) -> RunFolder:
        """The matched supervised run that was trained beside this one; need not exist."""
        return RunFolder(self.path / "baseline")

    def seed(self, seed: int) -> RunFolder:
        """Return the run of one seed, in a run of several."""
        return RunFolder(self.path / self.SEEDS / str(seed))

    @property
    def all(self) -> RunFolder:
        """The training on all labelled images, in a run that is cross-fitted; need not exist."""
        return RunFolder(self.path / "all")

    @property
    def delivering(self) -> RunFolder:
        """The finished run whose model is this one's: of several seeds the best, else itself.

        Raises:
            CheckpointError: it is not finished.
        """
        seed = (self.read_metrics().get("delivered") or {}).get("seed")
        return self if seed is None else self.seed(seed)

    def compared_with(self, metrics: Mapping[str, Any]) -> RunFolder | None:
        """Return the baseline that this run's metrics.json names, inside it or elsewhere; None = there is none."""
        named = metrics.get("baseline_run")
        return None if named is None else RunFolder(self.path / named)

    def fold(self, number: int) -> RunFolder:
        """Return the run of one fold, from 1, in a run of several; 0 = the one that is trained on all of them."""
        return RunFolder(self.path / "folds" / str(number)) if number else self.all

    def round(self, number: int, name: str) -> RunFolder:
        """Return the run of one round, in a run of several."""
        return RunFolder(self.path / "rounds" / f"{number}-{name}")

    def path_from(self, other: RunFolder) -> str:
        """Return this folder's path as a run notes it: relative where it lies inside that run's folder."""
        here = self.path.resolve()
        return here.relative_to(top).as_posix() if here.is_relative_to(top := other.path.resolve()) else str(here)

    @property
    def started(self) -> bool:
        """Whether a run was begun here."""
        return self.config.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run here is complete: metrics.json is written last."""
        return self.metrics.is_file()

    @property
    def planned(self) -> bool:
        """Whether all that it holds is a plan.json, which ``--plan`` wrote."""
        return self.plan.is_file() and all(p == self.plan for p in self.path.iterdir())

    def check_usable(self, new: bool = False) -> None:
        """Refuse a folder that holds something else; nothing is written over.

        Args:
            new: refuse one that holds a run, too.

        Raises:
            CheckpointError: it is a file, or holds files and no run.
        """
        if new and self.started:
            raise CheckpointError("a run is here, and --new continues none", where=self.path, todo="give another --out")
        if self.path.is_file():
            raise CheckpointError("the output is a file, not a folder", where=self.path, todo="give another --out")
        if self.path.is_dir() and not self.started:
            ours = {self.plan.name}
            if (self.path / ".lock").exists():  # a start that was killed before it wrote config.yaml
                ours |= {self.data.name, self.environment.name, self.halving.name, self.part.name}
            strange = sorted(p.name for p in self.path.iterdir() if not p.name.startswith(".") and p.name not in ours)
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
        return self._mapping(self.config)

    def _mapping(self, file: Path) -> dict[str, Any]:
        todo = "start another run, with --new or another --out"
        try:
            with file.open("rb") as handle:
                tree = load_yaml(handle.read(MAX_BYTES + 1))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file.name} of the run cannot be read", where=file, todo=todo) from error
        if not isinstance(tree, dict):
            raise CheckpointError(f"{file.name} of the run is not a mapping", where=file, todo=todo)
        return tree

    def recipe(self) -> Recipe:
        """Return config.yaml as the recipe it was written from.

        Raises:
            CheckpointError: it cannot be read, or is no recipe of this version.
        """
        try:
            recipe = Recipe.model_validate({"folds": 1} | self.stored())  # a run that is older than folds had none
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            raise CheckpointError(
                f"config.yaml of the run is not a recipe ({key}: {first['msg']})", where=self.config,
                todo="start another run, with --new or another --out",
            ) from error  # fmt: skip
        if Path(recipe.data.dir).is_dir():
            return recipe
        place = self._place()  # the run was started in another working directory
        if place is None or not place.is_dir():
            return recipe
        if recipe.data.data_yaml is not None and (noted := self.declared) is not None:
            recipe = recipe.replace("data", data_yaml=str(noted.aside))
        return recipe.replace("data", dir=str(place))

    def _place(self) -> Path | None:
        """Return where the run's data lay, from the root of the file system; None where that was not written down."""
        place = self.manifest().get("place") if self.data.is_file() else None
        return Path(place) if isinstance(place, str) else None

    def manifest(self) -> dict[str, Any]:
        """Return data.yaml of the run: hashes, counts and classes of the data it was started on.

        Raises:
            CheckpointError: it cannot be read.
        """
        return self._mapping(self.data)

    @property
    def declared(self) -> DataYaml | None:
        """What took the place of the data folder's data.yaml when the run began; None = nothing did.

        Raises:
            CheckpointError: the manifest is damaged.
        """
        noted = self.manifest().get("declared")
        if noted is None:
            return None
        try:
            return declared_by(noted["keys"], self.data).lying(Path(noted["file"]))
        except (KeyError, TypeError, AttributeError, ConfigError) as error:
            todo = "start another with --new"
            raise CheckpointError("what the run notes of its data is damaged", where=self.data, todo=todo) from error

    @property
    def set_aside(self) -> dict[str, str]:
        """Unlabelled images that the run leaves out, with the reason.

        Raises:
            CheckpointError: see ``manifest``.
        """
        return self.manifest().get("set_aside", {})

    @property
    def folds(self) -> list[list[str]]:
        """Names of the labelled images of each fold; none where there are no folds.

        Raises:
            CheckpointError: the manifest is damaged.
        """
        found = self.manifest().get("folds", [])
        if isinstance(found, list) and all(isinstance(x, list) and all(isinstance(n, str) for n in x) for x in found):
            return found
        raise CheckpointError("the folds of the run are damaged", where=self.data, todo="start another with --new")

    @property
    def chosen(self) -> list[str]:
        """Names of the unlabelled images that were chosen by what they show.

        Raises:
            CheckpointError: the list is lost or damaged.
        """
        try:
            names = load_json(self.part.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            names = error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                "the list of the chosen unlabelled images is lost", where=self.part, todo="start another run with --new"
            )
        return names

    def check_same(self, asked: Recipe) -> None:
        """Refuse to continue a run under another configuration.

        Raises:
            CheckpointError: with the keys that differ.
        """
        stored = self.stored()
        if self._place() == Path(asked.data.dir).resolve():  # however it is spelt
            asked = asked.replace("data", dir=stored["data"]["dir"])
        theirs = self.declared if asked.data.data_yaml is not None else None
        if theirs is not None and theirs.aside == Path(asked.data.data_yaml or "").resolve():
            asked = asked.replace("data", data_yaml=stored["data"]["data_yaml"])
        diff = differences(asked, stored)
        if diff:
            more = f" and {len(diff) - 4} more" if len(diff) > 4 else ""
            raise CheckpointError(
                f"the run has another configuration: {'; '.join(diff[:4])}{more}", where=self.path,
                todo="repeat its command, or give another --out (or --new)",
            )  # fmt: skip

    def read_metrics(self) -> dict[str, Any]:
        """Return metrics.json.

        Raises:
            CheckpointError: the run is not finished, or the file is damaged.
        """
        if not self.finished:
            raise CheckpointError(
                "no finished run here",
                where=self.path,
                todo="give a run folder; `fewmask train` continues unfinished ones",
            )
        try:
            metrics = load_json(self.metrics.read_text(encoding="utf-8"))
            _Metrics.model_validate(metrics)
        except ValueError as error:
            raise CheckpointError(
                "metrics.json of the run is damaged", where=self.metrics,
                todo="remove the file and repeat the run's train command: it scores again",
            ) from error  # fmt: skip
        return metrics


def choose_folder(asked: Recipe, base: Path, new: bool, same: Callable[[RunFolder], bool]) -> RunFolder:
    """Return the newest unfinished run of this configuration below ``base``, else a fresh name, or a planned one.

    Args:
        asked: the recipe as given.
        base: folder of the runs.
        new: start another run in any case.
        same: whether what was begun in a folder, if anything was, has the configuration that is asked for.
    """
    method = re.sub(r"[^A-Za-z0-9_]+", "-", asked.method_name)
    stem = f"{Path(asked.data.dir).resolve().name}-{method}"
    numbered = sorted(
        (int(m[1]), p) for p in base.glob(f"{glob.escape(stem)}-*")
        if (m := _NUMBER.search(p.name)) and p.name[: m.start()] == stem
    )  # fmt: skip
    if not new:
        for _, path in reversed(numbered):
            folder = RunFolder(path)
            if not folder.finished and same(folder):
                return folder
    if numbered and RunFolder(numbered[-1][1]).planned:
        return RunFolder(numbered[-1][1])
    last = numbered[-1][0] if numbered else 0
    return RunFolder(base / f"{stem}-{last + 1:03d}")


def finished_in(beside: Path) -> Iterator[RunFolder]:
    """Yield the finished runs in a folder of runs, and the seeds, folds and baselines inside them, newest first."""
    runs, parts = ("*", "*/seeds/*"), ("", "/baseline", "/folds/*", "/folds/*/baseline")
    found = [file for run in runs for part in parts for file in beside.glob(f"{run}{part}/metrics.json")]
    for file in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True):
        yield RunFolder(file.parent)
