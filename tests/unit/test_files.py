"""Atomic writes, leftovers, and the fault switch."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys

import pytest

from fewmask.engine import faults, files
from fewmask.engine.files import clean_leftovers, ensure_writable, temporary_path, write_atomic, write_json
from fewmask.errors import ConfigError, WriteError


def test_write_replaces_the_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / ("n" * 255)  # the longest name that file systems allow
    write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    write_atomic(path, "naïve")
    assert path.read_text(encoding="utf-8") == "naïve"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failed_write_keeps_the_old_content(tmp_path, monkeypatch, call):
    path = tmp_path / "f"
    write_atomic(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, call, full)
    with pytest.raises(WriteError, match="No space left on device") as caught:
        write_atomic(path, "new")
    monkeypatch.undo()
    assert caught.value.exit_code == 74
    assert caught.value.where == str(path)
    assert "free some disk space" in caught.value.todo
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_loses_bytes_silently_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomic(path, "old")
    # stands for a network disk that acknowledges a write and drops its end
    monkeypatch.setattr(files.os, "fsync", lambda fd: os.ftruncate(fd, 1) if os.fstat(fd).st_size else None)
    with pytest.raises(WriteError, match="kept 1 of 3 bytes"):
        write_atomic(path, "new")
    assert path.read_text() == "old"


def test_missing_folder_is_a_write_error(tmp_path):
    with pytest.raises(WriteError, match="No such file"):
        write_atomic(tmp_path / "none" / "f", "x")


def test_json_is_strict(tmp_path):
    obj = {"a": math.nan, "b": [math.inf, 1.5, (2, -math.inf)], "c": {"name": "caf\udce9"}}
    write_json(tmp_path / "j", obj)
    text = (tmp_path / "j").read_text()
    assert json.loads(text) == {"a": None, "b": [None, 1.5, [2, None]], "c": {"name": "caf\udce9"}}
    assert "NaN" not in text and "Infinity" not in text
    with pytest.raises(TypeError):
        write_json(tmp_path / "j", {"a": object()})
    assert list(tmp_path.iterdir()) == [tmp_path / "j"]


def test_clean_leftovers_removes_ours_only(tmp_path):
    theirs = [tmp_path / ".tmp-mine", tmp_path / "keep", tmp_path / "sub"]
    theirs[0].touch(), theirs[1].touch(), theirs[2].mkdir()
    below = temporary_path(theirs[2])
    below.touch()
    ours = [temporary_path(tmp_path) for _ in range(3)]
    ours[0].touch(), ours[1].mkdir(), (ours[1] / "f").touch(), ours[2].symlink_to(theirs[2])
    assert clean_leftovers(tmp_path) == sorted(p.name for p in ours)
    assert sorted(tmp_path.iterdir()) == sorted(theirs)
    assert below.exists(), "a link is removed, not what it points to"
    assert clean_leftovers(tmp_path / "none") == []


def test_ensure_writable(tmp_path):
    ensure_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(WriteError) as caught:
        ensure_writable(tmp_path / "file" / "run")
    assert caught.value.where == str(tmp_path / "file" / "run")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write to")
def test_ensure_writable_refuses_a_read_only_folder():
    with pytest.raises(WriteError) as caught:
        ensure_writable("/proc/self")
    assert caught.value.exit_code == 74


def test_faults_raise_at_the_named_call_only(monkeypatch):
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    faults.site("save.open")
    monkeypatch.setenv(faults.VARIABLE, "save.open:2:raise=ENOSPC, step.end:1:raise=EROFS")
    faults.site("save.open")
    faults.site("save.before_fsync")
    with pytest.raises(OSError) as caught:
        faults.site("save.open")
    assert caught.value.errno == errno.ENOSPC
    faults.site("save.open")
    with pytest.raises(OSError) as caught:
        faults.site("step.end")
    assert caught.value.errno == errno.EROFS


@pytest.mark.parametrize("spec", ["save.opne:1", "save.open", "save.open:0", "save.open:x", "save.open:1:raise=E"])
def test_unknown_faults_are_refused(monkeypatch, spec):
    monkeypatch.setenv(faults.VARIABLE, spec)
    with pytest.raises(ConfigError) as caught:
        faults.site("step.begin")
    assert caught.value.exit_code == 2 and caught.value.where == faults.VARIABLE
    if spec.startswith("save.opne"):
        assert caught.value.todo == "did you mean 'save.open'?"


def test_fault_kills_the_process():
    code = "from fewmask.engine.faults import site\nfor i in range(9): print(i, flush=True); site('step.end')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, faults.VARIABLE: "step.end:3", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.split() == ["0", "1", "2"]
