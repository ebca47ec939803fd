"""The encoder's weights of a run: written down, and the same in every part of it."""

from __future__ import annotations

import hashlib
import json
import signal

import pytest
import torch
from safetensors.torch import save_file

from fewmask.nets import build
from process.helpers import assert_refused, good, run, training


@pytest.fixture
def file(tmp_path):
    return written(tmp_path / "encoder.safetensors", 1)


def written(path, seed):
    torch.manual_seed(seed)
    save_file(build("deeplabv3plus", "mobilenet_v2", 2, weights="none").encoder.state_dict(), path)
    return path


def command(data, out, weights, *more):
    network = ["--arch", "deeplabv3plus", "--encoder", "mobilenet_v2", "--crop", "32", "--steps", "4"]
    return training(data, out, *network, "--weights", str(weights), "--method", "supervised", *more)


def test_recorded_and_the_same_when_continued(data, file, tmp_path, io):
    out, digest = tmp_path / "run", hashlib.sha256(file.read_bytes()).hexdigest()
    asked = command(data, out, file)
    assert run(io, asked, "step.end:4").code == -signal.SIGKILL
    record = json.loads((out / "environment.json").read_text())
    assert record["weights"] == {"source": str(file), "sha256": digest}
    whole = file.read_bytes()
    written(file, 2)
    other = hashlib.sha256(file.read_bytes()).hexdigest()
    assert_refused(run(io, asked), 4, "the encoder's weights have changed since the run began", digest, other)
    file.write_bytes(whole)
    good(run(io, asked))


def test_another_file_than_the_recipe_names(data, file, tmp_path, io):
    pin = f"{file}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}"
    written(file, 2)
    assert_refused(run(io, command(data, tmp_path / "run", pin)), 2, "the weights have the SHA-256", pin[-64:])
    assert not (tmp_path / "run").exists()
