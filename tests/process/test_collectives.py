"""What processes tell each other in a step: each statistic once, as docs/scale.md says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewmask.contract.toys import CLASSES
from fewmask.run import evaluation, score

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
K = f"[{CLASSES}]"


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("counts") / "out.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).parent / "counting.py"
    done = subprocess.run([*command, script, out], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def kinds(calls: list[str]) -> list[int]:
    """Return how many are scalars, sums by class, gathered, and the normalisation statistics of all networks."""
    scalars, classes = calls.count("all_reduce []"), calls.count(f"all_reduce {K}")
    gathered = sum(call.startswith("all_gather") for call in calls)
    return [scalars, classes, gathered, len(calls) - scalars - classes - gathered]


def test_every_method_is_as_the_page_says(found):
    rows = [line.strip("| ").split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    said = {name: [int(n) for n in numbers] for name, *numbers in rows if numbers[0].isdigit()}
    measured = {name: [*kinds(one["steps"][-1]), len(one["steps"][-1])] for name, one in found.items()}
    assert said == measured


def test_every_step_is_alike_and_nothing_is_sent_twice(found):
    for name, one in found.items():
        assert all(sorted(calls) == sorted(one["steps"][0]) for calls in one["steps"]), name
        scalars, classes, gathered, normalisation = kinds(one["steps"][0])
        assert scalars <= 4, "two of each network in CPS"
        assert classes <= 2, "a sum and the number of its pixels"
        assert gathered == (2 if name.startswith("u2pl") else 0), "features, and which of them are real"
        assert normalisation == 1, name
        assert len(one["log"]) == 2, name


def test_a_scoring_pass_tells_its_counts_once(monkeypatch):
    """Of four images this process scores two; the sums go out when it has seen them."""
    sent: list[list[int]] = []

    def reduce(x: torch.Tensor) -> torch.Tensor:
        sent.append(list(x.shape))
        return x

    items = [SimpleNamespace(name=f"{n}", group="") for n in range(4)]
    index = SimpleNamespace(items={"val": items, "test": []}, classes=["a", "b"])
    fabric = SimpleNamespace(global_rank=1, world_size=2, device=torch.device("cpu"))
    method = SimpleNamespace(predictors=("student", "teacher"))
    seen: list[str] = []

    def confusion_of(forward: Any, mine: Any, pictures: Any, classes: int, protocol: Any, note: Any) -> torch.Tensor:
        assert not sent or len(seen) % 2 == 0
        for item in mine:
            seen.append(item.name)
            note(item, torch.eye(classes, dtype=torch.int64))
        return torch.eye(classes, dtype=torch.int64) * len(mine)

    monkeypatch.setattr(evaluation, "confusion_of", confusion_of)
    learner: Any = SimpleNamespace(fabric=fabric, reduce=reduce, method=method)
    prepared: Any = SimpleNamespace(index=index, recipe=SimpleNamespace(protocol="whole"), twins=())
    scorer = score.Scorer(learner, prepared, None)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(scorer, "forward", lambda predictor: None)
    for _ in range(2):
        assert scorer.score("val") is not None and scorer.score("test") is None
    assert seen == ["1", "3"] and sent == [[2, 2], [4, 3, 2]]
