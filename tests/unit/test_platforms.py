"""What Windows and macOS lack, by substitution: no directory fsync, no SIGUSR1, no SIGKILL, no resource module."""

from __future__ import annotations

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch

from fewmask.data.feed import bearable_workers
from fewmask.data.pool import read_index
from fewmask.data.quarantine import QuarantineFile, Skip
from fewmask.engine import faults, files
from fewmask.engine.signals import StopRequest
from fewmask.run import finish


@pytest.fixture
def windows(monkeypatch):
    """Windows as far as files are concerned: a folder cannot be opened, and has nothing to sync."""

    def refusing(path, flags, *rest, **more):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, flags, *rest, **more)

    monkeypatch.setattr(files, "os", SimpleNamespace(**vars(os) | {"name": "nt", "open": refusing}))


def test_files_without_directory_fsync(windows, tmp_path):
    files.sync_folder(tmp_path)
    files.write_atomic(tmp_path / "a.txt", "one")
    files.write_atomic(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_substitution_bites(windows, monkeypatch, tmp_path):
    monkeypatch.setattr(files.os, "name", "posix")
    with pytest.raises(OSError):
        files.sync_folder(tmp_path)


def test_signals_without_sigusr1(monkeypatch):
    monkeypatch.delattr(signal, "SIGUSR1", raising=False)
    with StopRequest() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested and stop.name == "SIGTERM"


def test_kills_without_sigkill(monkeypatch):
    """A fault ends a process on Windows too, where there is only SIGTERM to do it."""
    sent = []
    monkeypatch.delattr(signal, "SIGKILL", raising=False)
    monkeypatch.setattr(faults.os, "kill", lambda pid, number: sent.append((pid, number)))
    monkeypatch.setenv(faults.VARIABLE, "step.end:1")
    faults._calls.clear()
    faults.site("step.end")
    assert sent == [(os.getpid(), signal.SIGTERM)]


def test_without_the_resource_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert bearable_workers(3, 10, 10_000_000, pytest.fail) == 3, "there is no limit of open files to raise"
    assert finish._peak_memory_mb(torch.device("cpu")) is None


def test_binary_files(tmp_path):
    """Newlines are bytes: a line's place in the file is what was counted."""
    index = tmp_path / "pool.jsonl"
    index.write_bytes(b'{"image": "a.jpg"}\r\n{"image": "b.jpg"}\r\n')
    assert [i.image.name for i in read_index(index, tmp_path, [])] == ["a.jpg", "b.jpg"]
    file = QuarantineFile(tmp_path / "quarantine.jsonl", 9000)
    file.write([Skip(1, 0, "u", "x", "gone"), Skip(2, 0, "u", "x", "gone")])
    assert b"\r" not in file.path.read_bytes() and len(file.read()) == 2
