"""What was trained and how, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewmask.config import dump_yaml
from fewmask.report.record import Record, get, is_number
from fewmask.report.text import command, count, duration, number
from fewmask.report.verdict import seeds_text

Rows = list[tuple[str, str]]

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Facts:
    """Terms and values by topic, the command, every setting, the labelled images, and what was seen in the data."""

    topics: list[tuple[str, Rows]]
    command: str
    config: str
    labelled: list[str]
    labelled_more: int
    notes: list[str]
    doubts: list[str]


@dataclass(frozen=True)
class Step:
    """A next step: what it is for, and the lines to paste; either may be empty."""

    about: list[str]
    lines: list[str]


def facts(record: Record) -> Facts:
    """Return what was trained and how."""
    labelled = record.manifest.get("labelled_names")
    labelled = [str(name) for name in labelled] if isinstance(labelled, list) else []
    words = record.environment.get("command")
    settings = dump_yaml(dict(record.recipe)) if record.recipe else ""
    return Facts(
        [("Method", _method(record)), ("Training", _training(record)), ("Data", _data(record)),
         ("Machine", _machine(record))],
        command(words) if isinstance(words, list) else "", settings, labelled[:200], max(0, len(labelled) - 200),
        *(_sentences(record.manifest.get(key)) for key in ("notes", "doubts")),
    )  # fmt: skip


def relabel_command(text: str) -> str:
    """Return the command that ranks all training masks of a run; it is called there as NEXT_STEPS.txt calls it."""
    found = next((line for line in text.splitlines() if line.startswith("fewmask suggest ")), "fewmask suggest RUN")
    try:
        run = shlex.split(found)[2]
    except ValueError:
        run = "RUN"
    return command(["fewmask", "suggest", run, "--relabel", "-n", 20, "-o", "doubtful"])


def _sentences(found: Any, most: int = 40) -> list[str]:
    texts = [str(text) for text in found] if isinstance(found, list) else []
    return texts[:most] + ([f"and {len(texts) - most} more: see fewmask check"] if len(texts) > most else [])


def _text(value: Any, none: str = NOT_RECORDED) -> str:
    if value is None:
        return none
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)


def _method(record: Record) -> Rows:
    model = record.recipe.get("model")
    init, stride, rates = (get(model, key) for key in ("init", "output_stride", "atrous_rates"))
    return [
        ("Method", record.method), *([("Chosen", record.chosen)] if record.chosen else []),
        ("Paper", record.paper or NOT_RECORDED),
        ("Architecture", _text(get(model, "arch"))), ("Encoder", _text(get(model, "encoder"))),
        *([("Output stride", str(stride))] if stride else []),
        *([("Atrous rates", ", ".join(map(str, rates)))] if rates else []),
        ("Weights", _text(get(model, "weights"))), *([("Started from", str(init))] if init else []),
    ]  # fmt: skip


def _training(record: Record) -> Rows:
    recipe, metrics = record.recipe, record.metrics
    batch, more = get(recipe, "data", "batch"), get(recipe, "data", "unlabelled_batch")
    batches = f"{batch} labelled" + (f" + {more} unlabelled" if more and metrics.get("unlabelled") else "")
    return [
        ("Steps", count(metrics.get("steps"))), ("Batch", batches if batch else NOT_RECORDED),
        ("Crop", _text(get(recipe, "data", "crop"))),
        ("Input size", _text(get(recipe, "data", "resize"), "native" if recipe else NOT_RECORDED)),
        ("Optimiser", _optimiser(get(recipe, "optim"))),
        ("Precision", _text(get(recipe, "machine", "precision"))), ("Seeds", seeds_text(record)),
    ]  # fmt: skip


def _optimiser(optim: Any) -> str:
    if not isinstance(optim, Mapping):
        return NOT_RECORDED
    return f"{optim.get('name')}, rate {optim.get('lr')}, weight decay {optim.get('weight_decay')}"


def _data(record: Record) -> Rows:
    manifest, metrics = record.manifest, record.metrics
    hashes = [(f"{part.capitalize()} hash", _text(manifest.get(f"{part}_hash"))) for part in ("data", "split")]
    return [
        ("Folder", record.data), ("Classes", count(len(record.classes))),
        ("Labelled images", count(metrics.get("labelled"))), ("Unlabelled images", count(metrics.get("unlabelled"))),
        ("Val images", "none: labelled images, by networks that had not seen them" if record.crossed
         else count(manifest.get("val"))),
        ("Test images", count(manifest.get("test"))),
        ("Protocol", str(metrics.get("protocol", NOT_RECORDED)) + (f": {record.protocol}" if record.protocol else "")),
        *hashes,
    ]  # fmt: skip


def _machine(record: Record) -> Rows:
    environment, metrics = record.environment, record.metrics
    memory, fixed = metrics.get("peak_memory_mb"), metrics.get("deterministic")
    versions = [(name, v) for name, v in (get(environment, "packages") or {}).items() if v]
    hardware = environment.get("cuda") or (
        f"CPU ({environment.get('cpu')}), {environment.get('cores')} cores, threads: {environment.get('threads')}"
        if environment.get("cores") else NOT_RECORDED
    )  # fmt: skip
    return [
        ("Hardware", str(hardware)), ("Time", duration(metrics.get("seconds"))),
        ("Images a second", number(metrics.get("images_per_second"))),
        ("Peak memory", f"{count(memory)} MB" if is_number(memory) else NOT_RECORDED),
        ("Deterministic", "yes" if fixed is True else "no" if fixed is False else NOT_RECORDED),
        ("System", _text(environment.get("platform"))), ("Python", _text(environment.get("python"))),
        ("fewmask", _text(environment.get("fewmask"))), *[(str(n), str(v)) for n, v in versions],
    ]  # fmt: skip


def next_steps(text: str) -> list[Step]:
    """Return NEXT_STEPS.txt in parts: blocks are parted by blank lines, and # says what a command is for."""
    steps: list[Step] = []
    for block in text.strip().split("\n\n"):
        lines = [line.rstrip() for line in block.splitlines() if line.strip()]
        about = [line.lstrip("#").strip() for line in lines if line.startswith("#")]
        commands = [line for line in lines if not line.startswith("#")]
        if lines:
            steps.append(Step(about, commands))
    return steps
