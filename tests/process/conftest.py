from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from process.helpers import FIXMATCH, STEPS, VARIANTS, good, metrics_of, outcome, run, tiny_data, training


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """Keep the memory of the data scan out of the user's home."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """A folder that no test may change."""
    return tiny_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def own_data(tmp_path) -> Path:
    """The same folder, for this test alone."""
    return tiny_data(tmp_path / "data")


@pytest.fixture(scope="session")
def unbroken(data, tmp_path_factory) -> Callable[..., Path]:
    """Return the folder of a finished, never interrupted run of a variant."""
    known: dict[tuple[str, int], Path] = {}

    def folder(variant: str, save_every: int = 3) -> Path:
        if (variant, save_every) not in known:
            out = tmp_path_factory.mktemp(variant) / "run"
            ended = run(out.parent / "io", training(data, out, *VARIANTS[variant], save_every=save_every))
            assert ended.code == 0, ended.stderr
            _assert_it_trained(outcome(out))
            known[variant, save_every] = out
        return known[variant, save_every]

    return folder


def _assert_it_trained(result: dict[str, Any]) -> None:
    """Prove that equal outcomes would say something: every loss term acts, and the log and checkpoints are there."""
    steps = [line for line in result["metrics.jsonl"] if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    rounds = sorted(key.partition("/")[0] for key in result if key.endswith("/DONE"))
    if not rounds:
        assert [line["step"] for line in result["metrics.jsonl"] if "val" in line] == [4, 8, 12]
    terms = steps[-1].keys() - {"step", "lr", "loss", "kept", "pseudo", "agree", "data_wait", "round"}
    steps = [line for line in steps if line.get("round", 0) == max(0, len(rounds) - 1)]
    assert terms and all(any(line[term] > 0 for line in steps) for term in terms), steps
    last = f"{rounds[-1]}/step-{len(steps):08d}" if rounds else f"step-{STEPS:08d}"
    for name in ("networks", "optimiser"):
        assert len(result[f"{last}/{name}.safetensors"]) > 1000


@pytest.fixture
def finished(unbroken, tmp_path) -> Path:
    """A finished run that this test may damage."""
    return shutil.copytree(unbroken("cps"), tmp_path / "finished")


@pytest.fixture(scope="session")
def beside(tmp_path_factory) -> Path:
    """The folder in which ``compared``, ``second`` and ``three`` lie beside each other."""
    return tmp_path_factory.mktemp("baseline") / "runs"


@pytest.fixture(scope="session")
def compared(data, beside) -> Path:
    """FixMatch with a baseline of its own."""
    out = beside / "one"
    ended = good(run(beside.parent / "io", training(data, out, *FIXMATCH, "--baseline", "--json")))
    assert json.loads(ended.stdout) == metrics_of(out)
    assert "baseline: supervised, 12 steps" in ended.stderr and "training 2 of 2: fixmatch, seed 0" in ended.stderr
    return out


@pytest.fixture(scope="session")
def second(data, beside, compared) -> tuple[Path, str]:
    """CPS in the folder beside it, and what it said."""
    out = beside / "two"
    return out, good(run(beside.parent / "io", training(data, out, *VARIANTS["cps"], "--baseline"))).stderr


@pytest.fixture(scope="session")
def three(data, beside, compared) -> tuple[Path, str]:
    """FixMatch with three seeds in a third folder beside them, and what it said."""
    out = beside / "three"
    return out, good(run(beside.parent / "io", training(data, out, *FIXMATCH, "--seeds", "3"))).stderr


@pytest.fixture
def io(tmp_path) -> Path:
    """Where the output of processes goes."""
    return tmp_path / "io"
