"""What disks do to a run: damaged checkpoints and records, and no space left."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 160 kB, which may be made larger; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", place], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("no right to mount a tmpfs here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_no_room_for_the_report(small_disk, data, io):
    """The run is done and its numbers are there: that is said, and no file is named that does not exist."""
    subprocess.run(["mount", "-o", "remount,size=300k", small_disk], check=True)
    ended = run(io, training(data, small_disk / "run", *VARIANTS["cps"]))
    assert ended.code == 0 and (small_disk / "run" / "metrics.json").is_file(), ended.stderr
    assert "WARNING: no report" in ended.stderr and "fewmask report" in ended.stderr
    assert not any(line.startswith("report:") for line in ended.stderr.splitlines())


def test_a_disk_that_is_really_full(small_disk, data, unbroken, io):
    """Whatever it is that does not fit, what was saved stays, and with more room the run is the unbroken one."""
    command = training(data, small_disk / "run", *VARIANTS["cps"])
    ended = run(io, command)
    assert_refused(ended, 74, "could not write", str(small_disk / "run"), "free some disk space", first=False)
    assert not (small_disk / "run" / "metrics.json").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    ended = run(io, command)
    assert ended.code == 0, ended.stderr
    assert_same(outcome(small_disk / "run"), outcome(unbroken("cps")))


@pytest.mark.parametrize("size", ["16k", "64k"])
def test_no_room_for_predictions(size, small_disk, data, unbroken, io, tmp_path):
    """Masks or probabilities do not fit: exit 74, no file in parts, and the same command says what is there already."""
    subprocess.run(["mount", "-o", f"remount,size={size}", small_disk], check=True)
    photos = tmp_path / "photos"
    photos.mkdir()
    for n in range(2):
        Image.new("RGB", (160, 120), (n, 80, 90)).save(photos / f"{n}.png")
    words = ["predict", str(unbroken("cps")), str(photos), "-o", str(small_disk / "out"), "--probs"]
    ended = run(io, words)
    assert_refused(ended, 74, "could not write", str(small_disk / "out"), "free some disk space", first=False)
    notes = [p for p in small_disk.rglob(".*") if p.name.startswith(".predict-")]  # of what is done
    hidden = [p for p in small_disk.rglob("*") if p.name.startswith(".") and p.name != ".predict.json"]
    assert hidden == notes and len(notes) <= 1
    for file in small_disk.rglob("*.npy"):
        np.load(file, allow_pickle=False)
    for file in small_disk.rglob("*.png"):
        Image.open(file).load()
