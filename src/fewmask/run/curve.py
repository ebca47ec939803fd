"""How many more masks? The run's better arm again, on parts of its labelled images: ``RUN/curve/``.

Parts are nested: of one draw, the images of a smaller part are among those of a larger one, groups whole. Everything
else is the run's: steps, network, val images or folds, and the unlabelled images, among which are those whose masks are
hidden. Of a cross-fitted run every fold is trained on a part of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from fewmask.data.folds import units_of
from fewmask.data.index import Item
from fewmask.engine.determinism import deterministic
from fewmask.engine.evaluate import scores
from fewmask.engine.failure import failing_together
from fewmask.engine.files import ensure_writable, write_atomic, write_json
from fewmask.engine.launch import is_first_process, launch
from fewmask.engine.lock import RunLock
from fewmask.errors import ConfigError, DataError, Interrupted
from fewmask.ops.learning import FURTHEST, forecast
from fewmask.ops.rng import Permutation
from fewmask.run.arms import SUPERVISED, Arm, matched_recipe
from fewmask.run.crossfit import pooled
from fewmask.run.doubt import pools_of
from fewmask.run.folder import RunFolder
from fewmask.run.notes import Notes, Say
from fewmask.run.prepare import Prepared, prepare
from fewmask.run.report import write_report
from fewmask.run.rounds import train_arm

FILE = "curve.json"
_STREAM = 0x5B117_0004


@dataclass(frozen=True)
class Part:
    """One training of a curve.

    Attributes:
        of: 2, 4, 8, …: a half, a quarter, an eighth of the labelled images.
        draw: which images, from 0.
        fold: of a cross-fitted run, from 1; None = the run has val images.
        names: of the images.
    """

    of: int
    draw: int
    fold: int | None
    names: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its folder below ``RUN/curve``."""
        return f"{self.of}-{self.draw}" + ("" if self.fold is None else f"-{self.fold}")


def curve(run: Path, say: Say, draws: int = 2, sizes: int = 3) -> dict[str, Any]:
    """Train on parts of a finished run's labelled images, fit a law, and foretell what as many again would bring.

    Trainings that are finished are not repeated; an interrupted one continues.

    Args:
        run: a finished run.
        say: receives sentences.
        draws: of each part; with fewer than 2 nothing is foretold.
        sizes: how many: halves, quarters, eighths, …

    Returns:
        The content of ``RUN/curve/curve.json``.

    Raises:
        CheckpointError: the run is not finished.
        ConfigError: it has no scores on val, or began with networks that have seen all masks.
        DataError: its data have changed.
        Interrupted: somebody has asked to stop.
    """
    folder, notes = RunFolder(run), Notes(say if is_first_process() else lambda text: None)
    metrics, recipe = folder.read_metrics(), folder.recipe()
    if recipe.model.init:
        raise ConfigError("the run began with networks that have seen masks before", where=folder.path,
                          todo="a curve needs a run without --init")  # fmt: skip
    if metrics["val"] is None or metrics["val"]["miou"] is None:
        raise ConfigError(
            "the run has no score on val", where=folder.path, todo="train on a folder with 3 masks or more"
        )
    first = folder.seed(metrics["seeds"][0]) if "seeds" in metrics else folder
    with ExitStack() as stack:
        stack.enter_context(deterministic(recipe.machine.deterministic))
        parts: list[Part] = []
        jobs: list[Prepared] = []
        if is_first_process():
            ensure_writable(folder.curve)
            stack.enter_context(RunLock(folder.curve))
            parts = list(_parts(first, draws, sizes, notes))
            jobs = [_prepared(part, first, folder.curve, metrics["delivered"]["run"]) for part in parts]
        fabric = launch(recipe.machine.devices, recipe.machine.precision, recipe.machine.rank_timeout)
        stack.enter_context(failing_together(fabric))
        parts, jobs = fabric.broadcast((parts, jobs))
        if jobs:
            one = jobs[0].recipe
            notes(f"{len(jobs)} trainings of {one.method_name}, {one.train.steps} steps each")
        for n, job in enumerate(jobs, start=1):
            if fabric.broadcast(RunFolder(job.folder).finished):
                continue
            title = f"training {n} of {len(jobs)}: {len(job.pools.labelled)} labelled images"
            who = train_arm(Arm(job), job, fabric, notes, title)
            if who and n < len(jobs):
                raise Interrupted(f"stopped by {who} after training {n} of {len(jobs)}", where="the state is saved",
                                  todo="run the same command again to continue")  # fmt: skip
        notes.release()
        found = fabric.broadcast(_told(folder, parts, metrics) if is_first_process() else {})
        if is_first_process():
            write_json(folder.curve / FILE, found)
            write_report(folder.path)
        fabric.barrier()
        return found


def _parts(run: RunFolder, draws: int, sizes: int, say: Say) -> Iterator[Part]:
    """Yield the parts, the largest first.

    Raises:
        DataError: the labelled images are not those of the run any more.
    """
    _, pools = pools_of(run, say)
    had = run.manifest().get("labelled_names")
    if had != [item.name for item in pools.labelled]:
        raise DataError("the labelled images are not those that the run was trained on", where=run.recipe().data.dir,
                        todo="train again, and take the curve of that run")  # fmt: skip
    bases = [(k, [i for i in pools.labelled if i.name not in names]) for k, names in enumerate(run.folds, start=1)]
    known: set[tuple[int | None, int, tuple[str, ...]]] = set()
    for of in (2**n for n in range(1, sizes + 1)):
        for draw in range(draws):
            for fold, items in bases or [(None, list(pools.labelled))]:
                names = _prefix(items, round(len(items) / of), draw)
                if names and (fold, draw, names) not in known and len(names) < len(items):
                    known.add((fold, draw, names))
                    yield Part(of, draw, fold, names)


def _prefix(items: Sequence[Item], count: int, draw: int) -> tuple[str, ...]:
    """Return the sorted names of the first groups of a draw that make up so many images."""
    units, out = units_of(items), list[str]()
    order = Permutation(max(1, len(units)), draw, _STREAM)
    for n in range(len(units)):
        if len(out) >= count:
            break
        out += units[order[n]]
    return tuple(sorted(out))


def _prepared(part: Part, run: RunFolder, curve: Path, arm: str) -> Prepared:
    """Return one training, checked as any other."""
    recipe, place, names = run.recipe(), curve / part.name, curve / "lists" / f"{part.name}.txt"
    if not names.is_file():
        names.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(names, "".join(f"{name}\n" for name in part.names))
    asked = recipe.model_copy(update={"baseline": False, "seeds": 1, "fold": part.fold})
    asked = asked.replace("data", labelled=str(names)).replace("train", seed=recipe.train.seed + part.draw)
    asked = asked if arm == "method" else matched_recipe(asked)
    return prepare(asked, RunFolder(place), lambda text: None, like=run)


def _told(folder: RunFolder, parts: Sequence[Part], metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what was found: the points, the law, and what it foretells.

    Images are counted as the run's owner counts them: in a cross-fitted run, where a fold's network has seen a part of
    the labelled images, a half of that part stands for half of all.
    """
    arm, labelled = metrics["delivered"]["run"], metrics["labelled"]
    seen = fmean([labelled - len(names) for names in folder.folds] or [labelled])
    points = []
    for one in {(part.of, part.draw): part for part in parts}.values():
        same = [part for part in parts if (part.of, part.draw) == (one.of, one.draw)]
        found = pooled([RunFolder(folder.curve / part.name) for part in same])
        miou = scores(torch.from_numpy(found.matrix), folder.manifest()["classes"])["miou"]
        images = round(fmean(len(part.names) for part in same) * labelled / seen, 1)
        points.append({"images": images, "draw": one.draw, "miou": miou})
    runs = [folder.seed(seed) for seed in metrics["seeds"]] if "seeds" in metrics else [folder]
    for n, each in enumerate(run.read_metrics() for run in runs):
        miou = (each if arm == "method" else each["baseline"])["val"]["miou"]
        points.append({"images": float(labelled), "draw": n, "miou": miou})
    points.sort(key=lambda point: (point["images"], point["draw"]))
    told = _foretold(points)
    arm = metrics["method"] if arm == "method" else SUPERVISED
    return {"arm": arm, "points": points, **told, "text": _sentence(points, told)}


def _foretold(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    known = [(point["images"], point["miou"]) for point in points if point["miou"] is not None]
    images, miou = zip(*known, strict=True) if known else ((), ())
    found = forecast(images, miou)
    law = None if found.law is None else asdict(found.law)
    if found.law is None or found.why_not:
        return {"law": law, "forecast": None, "why_not": found.why_not}
    most = max(images)
    at, had = round(FURTHEST * most), fmean(m for n, m in known if n == most)
    told = dict(zip(("miou", "low", "high"), (round(v, 2) for v in found.law.ahead(at, had)), strict=True))
    return {"law": law, "forecast": {"images": at, **told}, "why_not": ""}


def _sentence(points: Sequence[dict[str, Any]], told: dict[str, Any]) -> str:
    """Return what a curve says, for people."""
    if (at := told["forecast"]) is None:
        return f"Nothing is foretold: {told['why_not']}."
    most = max(point["images"] for point in points)
    now = fmean(p["miou"] for p in points if p["images"] == most and p["miou"] is not None)
    expected = (
        f"ith {at['images']} labelled images instead of {most:g}, {at['miou']:.1f} mIoU can be expected (80 % "
        f"interval {at['low']:.1f} to {at['high']:.1f}); it is {now:.1f} now."
    )
    more = round(at["miou"], 1) > round(now, 1)
    return f"W{expected}" if more else f"Nothing is shown to be gained by more masks: w{expected}"
