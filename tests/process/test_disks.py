"""What disks do to a run: damaged checkpoints and records, and no space left."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from process.helpers import VARIANTS, assert_refused, assert_same, content, outcome, run, training


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture
def interrupted(data, tmp_path, io) -> list[str]:
    """The command of a run that was killed in step 11, with checkpoints of steps 8 and 9 at least."""
    command = training(data, tmp_path / "run", *VARIANTS["cps"])
    assert run(io, command, "step.inside:11").code == -signal.SIGKILL
    return command


@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, Path.unlink])
@pytest.mark.parametrize("name", ["networks.safetensors", "optimiser.safetensors", "state.json", "MANIFEST.json"])
def test_newest_checkpoint_damaged(name, damage, interrupted, unbroken, tmp_path, io):
    damage(tmp_path / "run/checkpoints/step-00000009" / name)
    ended = run(io, interrupted)
    assert ended.code == 0, ended.stderr
    assert "checkpoint step-00000009 is skipped" in ended.stderr and "continuing after step " in ended.stderr
    assert "continuing after step 9" not in ended.stderr
    assert_same(outcome(tmp_path / "run"), outcome(unbroken("cps")))


def test_every_checkpoint_damaged(interrupted, tmp_path, io):
    for file in (tmp_path / "run/checkpoints").glob("*/networks.safetensors"):
        flip_a_bit(file)
    before = content(tmp_path / "run")
    ended = run(io, interrupted)
    assert_refused(ended, 4, "checkpoints can be used", str(tmp_path / "run/checkpoints"))
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize(("name", "text"), [("config.yaml", "{"), ("config.yaml", "[1]"), ("data.yaml", "{")])
def test_records_of_a_run_damaged(name, text, interrupted, tmp_path, io):
    (tmp_path / "run" / name).write_text(text)
    assert_refused(run(io, interrupted), 4, name)


def test_metrics_damaged(finished, data, unbroken, io):
    (finished / "metrics.json").write_text("{")
    for command in (training(data, finished, *VARIANTS["cps"]), ["evaluate", str(finished)]):
        assert_refused(run(io, command), 4, "metrics.json", "damaged")
    (finished / "metrics.json").unlink()  # as the line says
    assert run(io, training(data, finished, *VARIANTS["cps"])).code == 0
    assert_same(outcome(finished), outcome(unbroken("cps")))


def test_a_full_disk_keeps_what_was_saved(data, unbroken, tmp_path, io):
    """The first save meets a full disk twice: exit 74; later the same command goes on."""
    command = training(data, tmp_path / "run", *VARIANTS["cps"])
    fault = "save.open:9:raise=ENOSPC,save.open:10:raise=ENOSPC"  # both tries of the third save
    ended = run(io, command, fault)
    assert ended.code == 74 and ended.error.startswith("error: could not write"), ended.stderr
    assert "trying once more" in ended.stderr
    assert not list((tmp_path / "run").rglob(".tmp-*"))
    ended = run(io, command)
    assert ended.code == 0 and "continuing after step " in ended.stderr, ended.stderr
    assert_same(outcome(tmp_path / "run"), outcome(unbroken("cps")))
