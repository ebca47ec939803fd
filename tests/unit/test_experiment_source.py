"""Which changes of the source make a result old: those of code that computes it, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.experiments import source

METHODS = ("supervised", "fixmatch", "cps", "mean_teacher", "dars")


@pytest.fixture
def after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], set[str]]:
    """Return a function: edit a copied file (old text, new text), and say which methods' hashes have changed."""
    shutil.copytree(source.ROOT, tmp_path / "fewmask", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(source, "ROOT", tmp_path / "fewmask")

    def hashes() -> dict[str, str]:
        source._parse.cache_clear()
        source._file.cache_clear()
        return {m: source.source_hash(m) for m in METHODS}

    before = hashes()

    def changed(file: str, old: str, new: str) -> set[str]:
        path = tmp_path / "fewmask" / file
        text = path.read_text(encoding="utf-8")
        assert old in text, "the test edits code that is gone"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        now = hashes()
        return {m for m in METHODS if now[m] != before[m]}

    yield changed
    source._parse.cache_clear()
    source._file.cache_clear()


def test_docstrings_comments_and_new_functions_change_nothing(after):
    assert after("ops/losses.py", '"""', '"""More words: ') == set()
    other = "# why\n\n\ndef other(x):\n    return x\n\n\ndef cross_entropy"
    assert after("ops/losses.py", "def cross_entropy", other) == set()
    assert after("engine/checkpoint.py", "class Store", "OTHER = 3\n\n\nclass Store") == set()


@pytest.mark.parametrize(
    ("file", "old", "new", "whose"),
    [
        ("methods/cps.py", "default=1.5", "default=1.6", {"cps"}),
        ("offline.py", "together: bool = False", "together: bool = True", {"dars"}),
        ("engine/label.py", "share.rank == 0", "share.rank == 1", {"dars"}),
        ("run/labelling.py", "* 1e6", "* 1e5", {"dars"}),
        ("ops/ema.py", "1.0 - decay", "0.5 - decay", {"fixmatch", "mean_teacher"}),
        ("ops/mix.py", "* height * width", "* height * height", {"fixmatch"}),
        ("ops/mix.py", "boxes: int = 3", "boxes: int = 4", {"cps"}),
        ("ops/pseudo.py", "top_BHW - ", "top_BHW + ", {"fixmatch", "dars"}),
        ("nets/running.py", "1.0 - decay", "0.5 - decay", {"fixmatch"}),
        ("engine/learner.py", "optimiser.step()", "pass", set(METHODS)),
        ("ops/rng.py", "_ROUNDS = ", "_ROUNDS = 1 + ", set(METHODS)),
        ("data/views.py", "hflip(image)", "vflip(image)", set(METHODS)),
        ("ops/metrics.py", "def iou(", "def iou(more, ", set(METHODS)),
    ],
)  # fmt: skip
def test_code_that_computes(after, file, old, new, whose):
    assert after(file, old, new) == whose
