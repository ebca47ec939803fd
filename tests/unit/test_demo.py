"""``fewmask demo``, in a process of its own and with few steps of a tiny network."""

import os
import subprocess
import sys

import pytest
import torch

from fewmask.data.scenes import CLASSES
from fewmask.demo import LABELLED, METHOD, UNLABELLED, demonstrate
from fewmask.errors import CheckpointError, ConfigError
from fewmask.nets import build
from fewmask.run.result import load

TINY = [
    "model.arch=tiny", "model.encoder=tiny", "machine.devices=cpu", "machine.precision=fp32", "data.crop=32",
    "train.log_every=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder that the command left, and what it printed."""
    cwd = tmp_path_factory.mktemp("demo")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    command = [sys.executable, "-m", "fewmask", "demo", "--out", "my demo", "--steps", "4", *TINY]
    ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return cwd / "my demo", ended.stdout


def test_the_demo_trains_both_methods_on_its_scenes(shown):
    out, text = shown
    assert sorted(p.name for p in out.iterdir()) == ["data", "run"]
    run = load(out / "run")
    assert run.metrics["method"] == METHOD["method.name"]
    assert load(run.folder.baseline.path).metrics["method"] == "supervised"
    for metrics in (run.metrics, load(run.folder.baseline.path).metrics):
        assert metrics["steps"] == 4 and metrics["labelled"] == LABELLED
        assert set(metrics["test"]["iou"]) == set(CLASSES)
        for role in ("val", "test"):
            assert f"{metrics[role]['miou']:.2f}" in text
    assert run.metrics["unlabelled"] == UNLABELLED
    assert list(run.folder.pictures.glob("*.png")) and str(run.folder.pictures.relative_to(out.parent)) in text
    assert run.metrics["gain"]["text"] in text.replace("\n", " ")
    assert "fewmask predict 'my demo/run' 'my demo/data/images/test' -o 'my demo/masks'" in text


def test_the_demo_again_is_done_at_once(shown, monkeypatch):
    out, _ = shown
    monkeypatch.chdir(out.parent)  # runs know their data by the path that was given
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    said = []
    run = demonstrate(out.relative_to(out.parent), steps=4, settings=TINY, say=said.append)
    assert run.metrics["method"] == METHOD["method.name"]
    assert sum("already finished" in line for line in said) == 1
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_another_demo_in_the_same_place_is_refused(shown, monkeypatch):
    out, _ = shown
    monkeypatch.chdir(out.parent)
    place = out.relative_to(out.parent)
    with pytest.raises(ConfigError, match="something else than these scenes"):
        demonstrate(place, steps=4, seed=1, settings=TINY, say=lambda _: None)
    with pytest.raises(CheckpointError, match=r"train\.steps: 4 in the run, 5 asked"):
        demonstrate(place, steps=5, settings=TINY, say=lambda _: None)


def test_a_wrong_setting_writes_nothing(tmp_path):
    with pytest.raises(ConfigError, match=r"optim\.rate"):
        demonstrate(tmp_path / "demo", settings=["optim.rate=1"], say=lambda _: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [(96, 128), (33, 50), (5, 4)])
def test_the_demos_network_takes_any_size(size):
    net = build("small", "small", len(CLASSES), weights="none").eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, *size)).shape == (1, len(CLASSES), *size)
