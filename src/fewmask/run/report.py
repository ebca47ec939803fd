"""Run folders as the report sees them, and the HTML files made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewmask.config import load_json, load_yaml
from fewmask.engine.files import write_atomic, write_errors
from fewmask.engine.infer import PROTOCOLS
from fewmask.errors import CheckpointError, ConfigError
from fewmask.methods import METHODS, resolve
from fewmask.report.along import SUPERVISED
from fewmask.report.compare import Comparison, compare
from fewmask.report.html import compare_page, report_page
from fewmask.report.plots import plots
from fewmask.report.record import Record, class_names, read_counts, read_doubtful, read_log, read_pictures, summed
from fewmask.run.folder import RunFolder
from fewmask.run.quality import load as load_quality

_MARK = b'<meta name="generator" content="fewmask'
_HEAD = 2000  # bytes within which a page of ours names its generator


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the report of a finished run and return the file.

    Args:
        path: a run folder.
        out: the file; None = report.html in the folder, and its charts in plots/ beside it.

    Raises:
        CheckpointError: no finished run is there.
        ConfigError: the file exists and is no page of fewmask.
        WriteError: the disk refused.
    """
    record = read_record(path)
    target = path / "report.html" if out is None else out
    _check_target(target)
    if out is None:
        _write_plots(RunFolder(path).plots, plots(record))
    return _write(target, report_page(record))


def _write_plots(folder: Path, made: Mapping[str, bytes | None]) -> None:
    """Write the charts; one of an earlier report that the run has no more is taken away."""
    for name, plot in made.items():
        if plot is not None:
            _write(folder / name, plot)
        elif (folder / name).exists():
            with write_errors(folder / name):
                (folder / name).unlink()


def compare_runs(paths: Sequence[Path]) -> Comparison:
    """Return finished runs in comparable groups.

    Args:
        paths: run folders; a run of several seeds stands for its seeds; one that is given twice counts once, one that
            was only planned not at all.

    Raises:
        CheckpointError: no finished run is in one of them.
    """
    once: dict[Path, Path] = {}
    for path in paths:
        if RunFolder(path).planned:
            continue
        once.setdefault(path.resolve(), path)
    return compare(read_record(path) for path in once.values())


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write a comparison as one HTML file and return it.

    Raises:
        ConfigError: the file exists and is no page of fewmask.
        WriteError: the disk refused.
    """
    _check_target(out)
    return _write(out, compare_page(comparison))


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise ConfigError("the output is a folder", where=target, todo="give a file as -o, such as report.html")
    if target.exists():
        with write_errors(target), target.open("rb") as file:
            ours = _MARK in file.read(_HEAD)
        if not ours:
            raise ConfigError(
                "the file exists and is no page of fewmask; nothing is written over", where=target,
                todo="give another -o",
            )  # fmt: skip


def _write(target: Path, page: bytes) -> Path:
    with write_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, page)
    return target


def read_record(path: Path, label: str = "", depth: int = 3) -> Record:
    """Return a finished run as the report sees it.

    Args:
        path: a run folder.
        label: what to call it beside others; the path where it is empty.
        depth: how far its seeds, their folds and the baselines of these are followed.

    Raises:
        CheckpointError: no finished run is there, or its metrics.json is damaged.
    """
    folder, label, notes = RunFolder(path), label or str(path), list[str]()
    metrics = folder.read_metrics()
    seeds = _seeds(folder, metrics, label, depth, notes)
    folds = _folds(folder, metrics, label, depth, notes)
    first = seeds[0] if seeds else Record({})  # a folder of several seeds leaves some files to their runs
    manifest = _mapping(folder.data, first.manifest, notes)
    log, problem = read_log(folder.log)
    notes += [problem] if problem and not seeds else []
    counts, problem = read_counts(folder.evaluation, len(class_names(manifest, metrics)))
    notes += [problem] if problem else []
    title, paper = _method(metrics)
    return Record(
        metrics, _mapping(folder.config, first.recipe, notes), manifest,
        _mapping(folder.environment, first.environment, notes), log, counts or summed([s.counts for s in seeds]),
        read_pictures(folder.pictures), _text(folder.next_steps), title, paper, _protocol(metrics), label, seeds,
        _baseline(folder, metrics, label, seeds or folds, depth, notes), notes, read_doubtful(folder.doubtful),
        _quality(folder), folds,
        _told(folder.curve / "curve.json", notes), str(_told(folder.halving / "halving.json", notes).get("why", "")),
    )  # fmt: skip


def _seeds(folder: RunFolder, metrics: dict[str, Any], label: str, depth: int, notes: list[str]) -> list[Record]:
    several = metrics.get("seeds")
    if not isinstance(several, list) or len(several) < 2 or not all(isinstance(n, int) for n in several) or not depth:
        return []
    return _complete({f"{label}/seeds/{n}": folder.seed(n) for n in several}, "seeds", depth, notes)


def _folds(folder: RunFolder, metrics: dict[str, Any], label: str, depth: int, notes: list[str]) -> list[Record]:
    folds = metrics.get("folds")
    if not isinstance(folds, list) or not depth or "seeds" in metrics:
        return []
    return _complete({f"{label}/folds/{n + 1}": folder.fold(n + 1) for n in range(len(folds))}, "folds", depth, notes)


def _complete(runs: Mapping[str, RunFolder], what: str, depth: int, notes: list[str]) -> list[Record]:
    """Return all runs of a part, by their names, or none: some of them would give another mean than what is told."""
    try:
        return [read_record(run.path, name, depth - 1) for name, run in runs.items()]
    except CheckpointError as error:
        notes.append(f"the runs of the {what} are not complete ({error.what}: {Path(error.where).name})")
        return []


def _baseline(
    folder: RunFolder, metrics: dict[str, Any], label: str, parts: Sequence[Record], depth: int, notes: list[str]
) -> Record | None:
    """Return the matched supervised run with those of all ``parts``, seeds or folds, if there are as many."""
    named = metrics.get("baseline_run")
    each = [part.baseline for part in parts if part.baseline is not None]
    each = each if len(each) == len(parts) else []
    if "seeds" in metrics and not named:
        return Record({"method": SUPERVISED}, seeds=each) if each else None
    if not isinstance(named, str) or not named or not depth:
        return None
    try:
        found = read_record(folder.path / named, str(Path(label) / named), depth - 1)
        return replace(found, folds=each) if each else found
    except CheckpointError as error:
        notes.append(f"the baseline's run cannot be read, so its curve is not shown ({error.what})")
        return None


def _mapping(file: Path, instead: Mapping[str, Any], notes: list[str]) -> Mapping[str, Any]:
    """Return a YAML or JSON file as a mapping; ``instead``, and a note if that is empty, where it is not there."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = load_json(text) if file.suffix == ".json" else load_yaml(text)
    except FileNotFoundError:
        notes += [] if instead else [f"{file.name} is not there"]
        return instead
    except (OSError, ValueError):
        tree = None
    if isinstance(tree, dict):
        return tree
    notes.append(f"{file.name} cannot be read")
    return {}


def _told(file: Path, notes: list[str]) -> Mapping[str, Any]:
    """Return a file that most runs do not have; else nothing."""
    return _mapping(file, {}, notes) if file.exists() else {}


def _quality(folder: RunFolder) -> Mapping[str, Any]:
    try:
        found = load_quality(folder.model)
    except CheckpointError:
        return {}
    return {} if found is None else found.model_dump() | {"rows": found.rows()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _method(metrics: dict[str, Any]) -> tuple[str, str]:
    """Return title and paper of a method of ours; code of others is not imported for a report."""
    name = metrics.get("method")
    if name not in METHODS:
        return "", ""
    method = resolve(name)
    return method.title, method.paper


def _protocol(metrics: dict[str, Any]) -> str:
    protocol = PROTOCOLS.get(str(metrics.get("protocol")))
    if protocol is None:
        return ""
    words = "the whole image in one forward pass"
    if protocol.window is not None:
        words = f"a sliding window of {protocol.window} pixels, stride {protocol.stride}, border {protocol.border}"
    if protocol.long_side is not None:
        words += f", of images whose longer side is resized to {protocol.long_side}"
    if protocol.pad is not None:
        words += f", padded to {protocol.pad} pixels a side at least"
    if protocol.padding is not None:
        words += f", where the margin counts as class {protocol.padding}"
    if protocol.flip:
        words += ", averaged with the mirror image"
    return words + (", logits averaged" if protocol.combine == "logits" else "")
