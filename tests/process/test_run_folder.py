"""A run folder that is finished, of another configuration or other data, foreign, or in use: not written over."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from fixtures_data import blocks, save_mask
from process.helpers import VARIANTS, assert_refused, content, run, start, training


def test_finished_already(finished, data, io):
    before = content(finished)
    ended = run(io, training(data, finished, *VARIANTS["cps"]))
    assert ended.code == 0 and "is already finished" in ended.stderr
    assert content(finished) == before


def test_a_finished_run_continued_from_elsewhere(finished, data, io, monkeypatch):
    """The folder may be spelled with a slash, and what a machine has may differ."""
    monkeypatch.chdir(data.parent)
    command = training(Path("x"), finished, *VARIANTS["cps"], "--workers", "1", "machine.cache_mb=7")
    command[1] = f"{data}/"
    assert run(io, command).code == 0


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        (("optim.lr=0.5",), ("optim.lr: ", "0.5 asked")),
        (("--steps", "13"), ("train.steps: 12 in the run, 13 asked",)),
        (("--method", "supervised"), ("method.name: 'cps' in the run, 'supervised' asked",)),
        (("--labelled", "3"), ("data.labelled: None in the run, '3' asked",)),
        (("--resize", "12x16"), ("data.resize: None in the run, [12, 16] asked",)),
    ],
)
def test_another_configuration(state, more, fragments, finished, data, io):
    if state == "unfinished":
        (finished / "metrics.json").unlink()
    before = content(finished)
    assert_refused(run(io, training(data, finished, *VARIANTS["cps"], *more)), 4, *fragments, str(finished))
    assert content(finished) == before


def test_a_limit_that_is_left_out_is_another_configuration(data, tmp_path, io):
    """Null means every mask and native sizes; it is no wildcard that any run satisfies."""
    out = tmp_path / "run"
    limits = ("--labelled", "2", "--unlabelled", "4", "--resize", "12x16")
    assert run(io, training(data, out, *VARIANTS["cps"], *limits)).code == 0
    ended = run(io, training(data, out, *VARIANTS["cps"]))
    assert_refused(ended, 4, "data.labelled: '2' in the run", "data.resize: [12, 16] in the run", "data.unlabelled: ")


def annotate_one(folder: Path) -> None:
    shutil.copy(folder / "masks/train/00.png", folder / "masks/train/bare0.png")


def correct_one(folder: Path) -> None:
    save_mask(folder / "masks/train/01.png", blocks((9, 9, 5)))


def replace_one(folder: Path) -> None:
    shutil.copy(folder / "images/train/bare1.jpg", folder / "images/train/bare0.jpg")


@pytest.mark.parametrize("state", ["finished", "unfinished"])
@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (annotate_one, ("labelled: 5 in the run, 6 now",)),
        (correct_one, ()),
        (replace_one, ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_data(state, change, fragments, own_data, tmp_path, io):
    out = tmp_path / "run"
    command = training(own_data, out, *VARIANTS["cps"])
    fault = "" if state == "finished" else "step.end:7"
    assert run(io, command, fault).code == (-signal.SIGKILL if fault else 0)
    change(own_data)
    before = content(out)
    ended = run(io, command)
    assert_refused(ended, 4, "the data have changed", f"--init {out}", *fragments)
    assert content(out) == before

    again = [str(tmp_path / "more") if word == str(out) else word for word in command]
    ended = run(io, [*again, "--init", str(out)])
    assert ended.code == 0 and f"f1: starts from f1 of {out}" in ended.stderr, ended.stderr


def test_foreign_files(data, tmp_path, io):
    out = tmp_path / "mine"
    out.mkdir()
    for name in ("thesis.tex", "data.yaml"):
        (out / name).write_text("precious")
        before = content(out)
        assert_refused(run(io, training(data, out)), 4, "nothing is written over", str(out))
        assert content(out) == before
        (out / name).unlink()
    (tmp_path / "file").write_text("precious")
    assert_refused(run(io, training(data, tmp_path / "file")), 4, "is a file")
    assert_refused(run(io, training(data, tmp_path / "file" / "run")), 74, "could not write", "file/run")
    assert (tmp_path / "file").read_text() == "precious"


def test_new_does_not_continue(finished, data, io):
    (finished / "metrics.json").unlink()
    assert_refused(run(io, training(data, finished, *VARIANTS["cps"], "--new")), 4, "--new", "another --out")


def test_in_use(data, tmp_path, io, monkeypatch):
    """Exactly one wins; when it is killed, its lock is taken over."""
    out, gate = tmp_path / "run", tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv("SPY_WAIT", str(gate))
    command = training(data, out, "--method", "process.spy:Waiting")
    owner = start(tmp_path / "owner", command)
    while owner.process.is_alive() and not (gate / "reached").exists():
        time.sleep(0.005)
    before = {p: c for p, c in content(out).items() if "tensorboard" not in p.parts}
    assert_refused(run(io, command), 6, f"process {owner.pid} on ", "is writing to this run", str(out))
    assert {p: c for p, c in content(out).items() if "tensorboard" not in p.parts} == before
    owner.kill()
    assert owner.wait().code == -signal.SIGKILL
    (gate / "go").touch()
    ended = run(io, command)
    assert ended.code == 0, ended.stderr
