"""A data folder that nothing can be put into: what its owner has to say stands in a file elsewhere."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from process.helpers import Ended, assert_refused, content, environment, run, training

_DROP = 24  # PR_CAPBSET_DROP
_DAC_OVERRIDE = 1  # the right of root to write where permissions say no


def without_rights() -> None:
    """Take the right to pass over permissions from what is started next, where this is root."""
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(_DROP, _DAC_OVERRIDE, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot drop CAP_DAC_OVERRIDE")


def bound(words: list[str], cwd: Path) -> Ended:
    """Run a command in a process that permissions bind, whoever runs the tests."""
    command = [sys.executable, "-m", "fewmask", *words]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, preexec_fn=without_rights, timeout=240
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def closed(own_data, tmp_path):
    """The data folder without its data.yaml, and without permission to write; and that file, elsewhere."""
    if sys.platform != "linux":
        pytest.skip("permissions of folders are changed and checked as Linux has them")
    file = tmp_path / "photos.yaml"
    (own_data / "data.yaml").rename(file)
    folders = [own_data, *(p for p in own_data.rglob("*") if p.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    probe = "import sys; open(sys.argv[1], 'w')"
    try:
        tried = subprocess.run(
            [sys.executable, "-c", probe, str(own_data / "x")], preexec_fn=without_rights, capture_output=True
        )
        if tried.returncode == 0 or (own_data / "x").exists():
            pytest.skip("this file system lets everybody write: nothing can be shown here")
        yield own_data, file
    except subprocess.SubprocessError as error:  # what preexec_fn raises
        pytest.skip(f"root keeps its rights here: {error}")
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_from_check_to_suggest(closed, tmp_path, io):
    data, file = closed
    before = content(data)
    refused = bound(["check", str(data), "--write"], tmp_path)
    assert refused.code == 74 and "give -o FILE in another place" in refused.error and "--data-yaml" in refused.error
    told = bound(["check", str(data), "--data-yaml", "photos.yaml", "--json"], tmp_path)
    assert told.code == 0 and [c["name"] for c in json.loads(told.stdout)["classes"]] == ["sky", "sea", "sand"]
    unclear = bound(["labels", "import", str(data), str(data)], tmp_path)
    assert unclear.code == 3 and "write in data.yaml" in unclear.error
    assert "its place is taken by --data-yaml FILE" in unclear.stderr
    refused = bound(["labels", "import", str(data), str(data), "--data-yaml", "photos.yaml"], tmp_path)
    assert_refused(refused, 74, "masks", "labels export")

    command = training(data, tmp_path / "run", "--method", "fixmatch", "--data-yaml", "photos.yaml")
    ended = bound(command, tmp_path)
    assert ended.code == 0, ended.stderr
    again = run(io, command, cwd=tmp_path)
    assert again.code == 0 and "already finished" in again.stderr, again.stderr
    elsewhere = [str(file) if word == "photos.yaml" else word for word in command]
    assert run(io, elsewhere).code == 0
    bare = [word for word in command if word not in ("--data-yaml", "photos.yaml")]
    assert_refused(run(io, bare), 4, "data.data_yaml: 'photos.yaml' in the run, None asked")

    text = file.read_text()
    file.write_text(text + "ignore: [7]\n")
    assert_refused(run(io, elsewhere), 4, f"ignore in {file}")
    file.unlink()  # the run has noted what it said
    for words in (
        ["evaluate", "run", "--split", "test", "--json"],
        ["suggest", "run", "-n", "2", "-o", "next", "--json"],
        ["predict", "run", str(data / "images/test"), "-o", "out"],
    ):
        ended = run(io, words, cwd=tmp_path)
        assert ended.code == 0, ended.stderr
    assert "--data-yaml photos.yaml" in (tmp_path / "run/NEXT_STEPS.txt").read_text()
    file.write_text(text)
    other = run(io, ["evaluate", "run", str(data), "--data-yaml", str(file), "--json"], cwd=tmp_path)
    assert other.code == 0 and list(json.loads(other.stdout)["iou"]) == ["sky", "sea", "sand"], other.stderr
    assert content(data) == before


def test_a_memory_that_cannot_be_written(closed, tmp_path):
    data, file = closed
    command = [sys.executable, "-m", "fewmask", "check", str(data), "--data-yaml", str(file)]
    env = environment() | {"XDG_CACHE_HOME": str(data / "cache")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, preexec_fn=without_rights, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "note: what was found is not remembered" in done.stdout and "XDG_CACHE_HOME" in done.stdout
