"""Real processes that run fewmask, a tiny data folder for them, and what two runs must agree on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context, set_start_method
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from fewmask.methods import METHODS
from fixtures_data import blocks, make_folder, save_mask

STEPS = 12
VARIANTS: dict[str, list[str]] = {name: ["--method", name] for name in METHODS}
VARIANTS["cbst"] += ["method.turns=2"]
VARIANTS["dars"] += ["method.alpha=[0.2, 0.5]", "method.beta=[0.2, 0.5]", "method.view=weak", "method.flip=false"]
VARIANTS["cps-cutmix"] = ["--method", "cps", "method.cutmix=true"]
VARIANTS["self_training-cbst"] = ["--method", "self_training", "method.rule=cbst", "method.more=1"]
VARIANTS["fixmatch-ema"] = ["--method", "fixmatch", "method.teacher=ema"]
for _name in ("fixmatch", "fixmatch-ema"):
    VARIANTS[_name] += ["method.tau=0.3"]  # untrained networks are not confident: nothing would train
"""Every method, and the forms of one that hold other state or read other streams; name to arguments."""
FIXMATCH = VARIANTS["fixmatch"]

CLASSES = {"sky", "sea", "sand"}  # of tiny_data
SEEDS = (0, 1, 2)  # of a training with --seeds 3

_forkserver = get_context("forkserver")
_forkserver.set_forkserver_preload(["process.warm"])


def tiny_data(root: Path) -> Path:
    """Write 5 masked and 7 bare training images, 3 of val and 2 of test, 16x12 pixels; file ids 5, 0, 9."""
    masked = [f"train/{i:02d}" for i in range(5)]
    scored = [*(f"val/{i:02d}" for i in range(3)), *(f"test/{i:02d}" for i in range(2))]
    make_folder(root, [*masked, *scored], [f"train/bare{i}" for i in range(7)], classes=None)
    for name in [*masked, *scored]:
        save_mask(root / "masks" / f"{name}.png", blocks((5, 0, 9, 255)))
    (root / "data.yaml").write_text("classes: {5: sky, 0: sea, 9: sand}\n")
    return root


def training(data: Path, out: Path, *more: str, save_every: int = 3) -> list[str]:
    """Return the arguments of a short training that saves every 3 and validates every 4 of its 12 steps.

    It has no baseline, which is a second training, unless ``more`` asks for one.
    """
    alone = [] if {"--baseline", "--seeds"} & set(more) else ["--no-baseline"]
    return [
        "train", str(data), "--out", str(out), "--arch", "tiny", "--weights", "none", "--crop", "12", "--batch", "2",
        "--unlabelled-batch", "2", "--steps", str(STEPS), "--precision", "fp32", "--devices", "cpu", "--workers", "0",
        f"train.save_every={save_every}", "train.eval_every=4", "train.log_every=1", *alone, *more,
    ]  # fmt: skip


@dataclass
class Running:
    """A process of its own that runs a fewmask command; its output goes to files in ``folder``."""

    process: BaseProcess
    folder: Path

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(self.pid, number)

    def wait(self, timeout: float = 120) -> Ended:
        self.process.join(timeout)
        code = self.process.exitcode
        if code is None:
            self.process.kill()
            raise AssertionError(f"still running after {timeout} s:\n{(self.folder / 'stderr').read_text()}")
        self.process.close()
        return Ended(code, (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text())


@dataclass(frozen=True)
class Ended:
    """How a command ended; a negative code is the signal that ended it."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line that says what was wrong."""
        return next((line for line in self.stderr.splitlines() if line.startswith("error:")), "")


def start(folder: Path, arguments: list[str], fault: str = "", cwd: Path | None = None) -> Running:
    """Run a command in a new process, forked from a server that has imported everything: an import takes 10 s."""
    folder.mkdir(parents=True, exist_ok=True)
    _serve()
    process = _forkserver.Process(target=_child, args=(str(folder), arguments, environment(fault), cwd))
    process.start()
    return Running(process, folder)


@cache
def _serve() -> None:
    """Start the server where it finds what it is to import; before Python 3.13 it is not handed ``sys.path``."""
    with patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):
        ensure_running()


def run(folder: Path, arguments: list[str], fault: str = "", cwd: Path | None = None) -> Ended:
    """Run a command in a new process to its end; see ``start``."""
    return start(folder, arguments, fault, cwd).wait()


def popen(folder: Path, command: list[str], fault: str = "") -> subprocess.Popen[str]:
    """Start a command line as a user does, from nothing; its output goes to files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
        return subprocess.Popen(command, env=environment(fault), stdout=out, stderr=err, text=True)


@contextmanager
def ending(*processes: subprocess.Popen[str]) -> Iterator[None]:
    """Kill what still runs at the end of the block: where a test fails."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def two_tasks(io: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """Start a command as srun does for two tasks on two nodes, here both this one; the output goes to io/0 and io/1.

    Nobody watches them: a task ends by itself, with a code of its own.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    shared = {
        "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "train",
        "SLURM_JOB_ID": "4711", "SLURM_NODELIST": "127.0.0.1,127.0.0.1", "SLURM_LOCALID": "0", "MASTER_PORT": port,
    }  # fmt: skip
    tasks = []
    for task in ("0", "1"):
        for key, value in {**shared, "SLURM_PROCID": task, "SLURM_NODEID": task}.items():
            monkeypatch.setenv(key, value)
        tasks.append(popen(io / task, [sys.executable, "-m", "fewmask", *arguments]))
    return tasks


def environment(fault: str = "") -> dict[str, str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return env | ({"FEWMASK_FAULT": fault} if fault else {})


def _child(folder: str, arguments: list[str], env: dict[str, str], cwd: Path | None) -> None:
    import torch

    from fewmask.cli import run as command

    os.environ.clear()
    os.environ.update(env)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # so that a signal can be sent to it and what it starts alone
    set_start_method(None, force=True)  # it was handed on; loaders are to start as they do elsewhere
    torch.set_num_threads(1)
    sys.argv = ["fewmask", *arguments]
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if cwd is not None:
        os.chdir(cwd)
        sys.path.insert(0, str(cwd))  # as PYTHONPATH=. does
    code = command(arguments)
    with suppress(ImportError):  # Windows
        from resource import RUSAGE_SELF, getrusage

        (Path(folder) / "memory").write_text(str(getrusage(RUSAGE_SELF).ru_maxrss * 1024))
    sys.exit(code)


def good(ended: Ended) -> Ended:
    assert ended.code == 0, ended.stderr
    return ended


def assert_refused(ended: Ended, code: int, *fragments: str, first: bool = True) -> None:
    """One line `error: what; where; what to do` with all fragments, the exit code, no traceback, empty stdout.

    It is the first line, unless something had been trained (and said) before.
    """
    assert ended.code == code, ended.stderr
    lines = ended.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error:")]
    assert len(errors) == 1 and (lines[0] == errors[0] or not first), ended.stderr
    assert "Traceback" not in ended.stderr and 'File "' not in ended.stderr, ended.stderr
    assert [f for f in fragments if f not in errors[0]] == [], errors[0]
    assert errors[0].count("; ") >= 1, "what is wrong, and where or what to do"
    assert ended.stdout == "", ended.stdout


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def evaluation(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "evaluation.npz", allow_pickle=False) as file:
        return dict(file)


def model_bytes(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def content(*folders: Path) -> dict[Path, bytes | None]:
    """Return every file below with its bytes, and every folder; but for locks, which come and go."""
    found = [p for folder in folders for p in [folder, *folder.rglob("*")] if not p.name.startswith(".lock")]
    return {p: p.read_bytes() if p.is_file() else None for p in found}


def outcome(run_folder: Path) -> dict[str, Any]:
    """Return everything that a finished run leaves and that interruptions may not change.

    Tensors as the bytes of their files; what measures time or memory is left out.
    """
    found: dict[str, Any] = {}
    for part in (run_folder / "rounds").glob("*"):
        found |= {f"{part.name}/{key}": value for key, value in outcome(part).items()}
        found |= {str(p.relative_to(run_folder)): p.read_bytes() for p in (part / "pseudo").rglob("*.png")}
        if (part / "pseudo").is_dir():
            found[f"{part.name}/manifest.json"] = json.loads((part / "pseudo" / "manifest.json").read_text())
        found[f"{part.name}/DONE"] = (part / "DONE").read_text()
    for path in sorted((run_folder / "checkpoints").glob("*/*.safetensors")):
        found[f"{path.parent.name}/{path.name}"] = path.read_bytes()
    for path in sorted((run_folder / "checkpoints").glob("*/state.json")):
        state = json.loads(path.read_text())
        found[f"{path.parent.name}/best_step"] = state["best_step"]
        found[f"{path.parent.name}/state"] = _without(state["state"], "seconds", "log_offset")
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    found["metrics.jsonl"] = [_without(line, "data_wait") for line in lines]
    metrics = json.loads((run_folder / "metrics.json").read_text())
    found["metrics.json"] = _without(metrics, "seconds", "images_per_second", "peak_memory_mb")
    if "rounds" in metrics:
        found["metrics.json"]["rounds"] = [_without(one, "seconds") for one in metrics["rounds"]]
    found["model"] = (run_folder / "model" / "model.safetensors").read_bytes()
    found["pictures"] = {p.name: p.read_bytes() for p in (run_folder / "pictures").glob("*")}
    return found


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Compare two outcomes; a difference of megabytes of tensors is told by its key."""
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())
    different = [key for key in one if one[key] != other[key]]
    assert not different, f"these differ: {different}"


def _without(record: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in keys}


def one_json(text: str):
    """Return the one JSON value that a text is, with nothing before or after."""
    value, end = json.JSONDecoder().raw_decode(text)
    assert text[end:] == "\n" and text[0] in "[{"
    return value
