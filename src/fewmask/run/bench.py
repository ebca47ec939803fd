"""How fast this machine trains: steps of methods beside supervised ones, and the reading of images.

Times of one machine say little about another, and on a shared one little about itself: what is reported are ratios
within one process, whose rounds take turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from fewmask.batch import Batch
from fewmask.data.scenes import write_scenes
from fewmask.data.stream import to_device
from fewmask.engine.launch import launch, leave
from fewmask.engine.learner import Learner
from fewmask.errors import ConfigError
from fewmask.methods import METHODS, resolve
from fewmask.recipe import for_its_length, read_recipe
from fewmask.run.arms import SUPERVISED
from fewmask.run.environment import environment
from fewmask.run.flops import Counts, counted
from fewmask.run.folder import RunFolder
from fewmask.run.pace import state_bytes, views_of, wait_for
from fewmask.run.prepare import Prepared, Say, parts_of, prepare
from fewmask.run.rehearse import made_up
from fewmask.run.training import dataset_of, learner_of

Kind = Literal["step", "data"]

DEFAULT = (SUPERVISED, "mean_teacher", "fixmatch", "cps", "ucc")
"""Methods whose steps are timed where none are named."""

_SMALL: dict[str, Any] = {
    "model.arch": "deeplabv3plus", "model.encoder": "mobilenet_v2", "model.weights": "none", "data.crop": "96",
    "data.batch": 2, "data.unlabelled_batch": 2, "machine.precision": "fp32", "machine.workers": 0,
}  # fmt: skip
_LATE = 0.75  # of the schedule: nothing is warming up any more
_BATCHES = 8  # read in a round
_RATIOS = ("R", "L", "ops", "core_ms", "images_per_second")  # what --compare looks at


def bench(
    kind: Kind, data: Path | None, methods: Sequence[str], settings: Sequence[str], rounds: int, say: Say
) -> dict[str, Any]:  # fmt: skip
    """Time something on a data folder, or on generated scenes, and return {"environment", "kind", "setting", "rows"}.

    Args:
        kind: "step": steps of methods on made-up batches; "data": reading and augmentation.
        data: the folder; None = scenes that are made for this.
        methods: names; none = ``DEFAULT``; supervised is always among them.
        settings: ``key=value`` words of any recipe key.
        rounds: how often each is timed.
        say: receives sentences.

    Raises:
        ConfigError: an unknown method or key.
        DataError: the data are unusable.
    """
    names = list(dict.fromkeys((SUPERVISED, *(methods or DEFAULT))))
    for name in names:
        resolve(name)
    with TemporaryDirectory(prefix="fewmask-bench-") as scratch:
        root = data or write_scenes(Path(scratch) / "scenes", labelled=8, unlabelled=24, val=2, test=0)
        keys = _SMALL | {"data.dir": str(root), "method": SUPERVISED}
        prepared = prepare(read_recipe(None, keys, settings), RunFolder(Path(scratch) / "none"), lambda text: None)
        recipe = prepared.recipe
        fabric = launch(recipe.machine.devices, prepared.layout.precision, recipe.machine.rank_timeout)
        try:
            make = {"step": _steps, "data": _reading}[kind]
            rows = make([_with_method(prepared, name) for name in names], fabric, rounds, say)
        finally:
            leave()
    setting = {
        "data": "generated scenes" if data is None else str(data), "arch": recipe.model.arch,
        "encoder": recipe.model.encoder, "crop": recipe.data.crop, "batch": recipe.data.batch,
        "unlabelled_batch": recipe.data.unlabelled_batch, "classes": prepared.task.classes,
        "precision": prepared.layout.precision, "device": str(fabric.device), "rounds": rounds,
    }  # fmt: skip
    return {"environment": environment(), "kind": kind, "setting": setting, "rows": rows}


def names_of(text: str | None) -> list[str]:
    """Return the methods of ``--methods``: names with commas, or all."""
    return list(METHODS) if text == "all" else [n for n in (text or "").split(",") if n]


def compare(found: dict[str, Any], base: Path) -> list[dict[str, Any]]:
    """Return {"method", "what", "then", "now", "ratio"} of every ratio that a bench shares with an earlier one.

    Raises:
        ConfigError: the file is none of a bench, or of another kind or setting.
    """
    try:
        then = json.loads(base.read_text(encoding="utf-8"))
        old = {row["method"]: row for row in then["rows"]}
        other = [key for key in ("kind", "setting") if _plain(found[key]) != then[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError("is no file of fewmask bench", where=base, todo="write one with --json FILE") from error
    if other:
        raise ConfigError(f"another {other[0]} was timed there", where=base, todo="repeat it with the same options")
    out = []
    for row in found["rows"]:
        for what in _RATIOS:
            now, before = (_middle(one.get(what)) for one in (row, old.get(row["method"], {})))
            if now is not None and before:
                out.append({"method": row["method"], "what": what, "then": before, "now": now, "ratio": now / before})
    return out


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _middle(value: Any) -> float | None:
    return value["median"] if isinstance(value, dict) else value


def _with_method(prepared: Prepared, name: str) -> Prepared:
    recipe = prepared.recipe.model_copy(update={"method": {"name": name}})
    return replace(prepared, recipe=for_its_length(recipe))


@dataclass
class _Arm:
    """The steps of one training of a method, over and over on one batch."""

    share: float
    learner: Learner
    batch: Callable[[], Batch]
    t: int

    def step(self) -> None:
        self.learner.update(self.batch(), self.t)
        wait_for(self.learner.fabric.device)


def _arms(prepared: Prepared, fabric: Any) -> list[_Arm]:
    method = resolve(prepared.recipe.method_name)(prepared.recipe.constants(), prepared.task)
    shares = [one.share for one in method.rounds()] or [1.0]
    out = []
    for share, (recipe, one) in zip(shares, parts_of(prepared.recipe, method), strict=True):
        part = replace(prepared, recipe=recipe)
        learner = learner_of(part, one, fabric)
        learner.train_mode()
        mean, std = (torch.tensor(values, device=fabric.device) for values in prepared.statistics)
        assert recipe.data.crop is not None  # prepare() has chosen it
        raw = made_up(one.streams, learner.slots, recipe.data.crop, prepared.task.classes, len(mean))

        def batch(raw: Any = raw, mean: torch.Tensor = mean, std: torch.Tensor = std) -> Batch:
            return to_device(raw, fabric.device, mean, std, prepared.layout.channels_last)

        out.append(_Arm(share, learner, batch, int(_LATE * recipe.train.steps)))
    return out


def _steps(each: Sequence[Prepared], fabric: Any, rounds: int, say: Say) -> list[dict[str, Any]]:
    """Time steps of every method in turn; a method of several rounds counts as the mean of its trainings."""
    arms, counts, peaks = dict[str, list[_Arm]](), dict[str, list[Counts]](), dict[str, float | None]()
    for prepared in each:
        name = prepared.recipe.method_name
        say(f"counting {name}")
        with _peak(fabric.device) as peak:
            arms[name] = _arms(prepared, fabric)
            for arm in arms[name]:
                arm.step()  # optimisers get their state, kernels are chosen
            counts[name] = [counted(arm.step) for arm in arms[name]]
        peaks[name] = peak()
    spent: dict[str, list[float]] = {name: [] for name in arms}
    for n in range(rounds):
        say(f"round {n + 1} of {rounds}")
        for name in list(arms) if n % 2 else list(arms)[::-1]:  # none is always the first
            total = 0.0
            for arm in arms[name]:
                began = time.perf_counter()
                arm.step()
                total += arm.share * (time.perf_counter() - began)
            spent[name].append(total)

    def mean(name: str, what: str) -> float:
        return sum(arm.share * getattr(c, what) for arm, c in zip(arms[name], counts[name], strict=True))

    rows = []
    for name, seconds in spent.items():
        ratio = _summary([a / b for a, b in zip(seconds, spent[SUPERVISED], strict=True)])
        work = mean(name, "flops") / mean(SUPERVISED, "flops")
        state = max(state_bytes(arm.learner) for arm in arms[name])
        rows.append({
            "method": name, "N": None, "R": ratio, "L": round(work, 4), "G": round(ratio["median"] / work, 4),
            "ops": round(mean(name, "ops")), "syncs": round(mean(name, "syncs"), 2), "seconds": _summary(seconds),
            "state_mb": round(state / 1e6, 1), "peak_memory_mb": peaks[name],
        })  # fmt: skip
    return rows


def _reading(each: Sequence[Prepared], fabric: Any, rounds: int, say: Say) -> list[dict[str, Any]]:
    """Time the making of batches in this process: files from the disk, and then from the cache."""
    rows = []
    for prepared in each:
        name = prepared.recipe.method_name
        method = resolve(name)(prepared.recipe.constants(), prepared.task)
        recipe, one = parts_of(prepared.recipe, method)[0]  # the first reads nothing that is not there yet
        part = replace(prepared, recipe=recipe)
        learner = learner_of(part, one, fabric, trains=False)
        views, first, again, cores = views_of(one, learner), list[float](), list[float](), list[float]()
        for n in range(rounds):
            say(f"{name}: round {n + 1} of {rounds}")
            dataset = dataset_of(part, one, learner)  # with an empty cache
            for spent in (first, again):
                began, used = time.perf_counter(), time.process_time()
                for t in range(_BATCHES):
                    dataset[t]
                spent.append(_BATCHES * views / (time.perf_counter() - began))
                cores += [1000 * (time.process_time() - used) / (_BATCHES * views)] if spent is again else []
        rows.append({
            "method": name, "views": views, "images_per_second": _summary(again),
            "images_per_second_first": _summary(first), "core_ms": _summary(cores),
        })  # fmt: skip
    return rows


@contextmanager
def _peak(device: torch.device) -> Any:
    """Yield a function that returns the most memory that was taken on a CUDA device inside, in MB; None on others."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if cuda else 0  # of the methods before
    yield lambda: round((torch.cuda.max_memory_allocated(device) - before) / 1e6, 1) if cuda else None


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 5), "low": round(min(values), 5), "high": round(max(values), 5)}
