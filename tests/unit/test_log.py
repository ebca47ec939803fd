"""The metrics log: whole lines, no step twice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pytest

from fewmask.engine.log import MetricsLog, TensorBoardLog, read_jsonl, tensorboard_available
from fewmask.errors import CheckpointError, WriteError


def _no_warning(text):
    raise AssertionError(text)


def test_lines_and_offset(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        assert log.offset == 0
        log.write({"step": 1, "loss": math.nan, "kept": 0.1})
        log.write({"step": 2, "loss": 1 / 3, "name": "a\nb"})
        assert log.offset == log.sync() == path.stat().st_size
    assert path.read_bytes().count(b"\n") == 2
    assert read_jsonl(path) == [
        {"step": 1, "loss": None, "kept": 0.1},
        {"step": 2, "loss": 1 / 3, "name": "a\nb"},
    ]


def test_a_line_is_one_system_call(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path / "m")
    calls = []

    class Spy:
        def write(self, data):
            calls.append(bytes(data))
            return len(data)

    real, log._file = log._file, Spy()
    log.write({"step": 1, "text": "x" * 20_000})
    real.close()
    assert len(calls) == 1 and calls[0].endswith(b"}\n")


def test_resume_cuts_torn_lines_and_repeated_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 4):
            log.write({"step": step})
        offset = log.sync()
        log.write({"step": 4})
    with open(path, "ab") as file:
        file.write(b'{"step": 5, "lo')  # killed inside a write
    assert [r["step"] for r in read_jsonl(path)] == [1, 2, 3, 4]
    with MetricsLog(path) as log:
        log.truncate(offset, _no_warning)
        assert log.offset == offset
        log.write({"step": 4, "again": True})
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}, {"step": 3}, {"step": 4, "again": True}]


def test_restart_before_the_first_checkpoint(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n{"st')
    with MetricsLog(path) as log:
        log.truncate(0, _no_warning)
        log.write({"step": 1})
    assert read_jsonl(path) == [{"step": 1}]


@pytest.mark.parametrize("offset", [12 + 5, 999])
def test_changed_log_loses_no_whole_line_and_says_so(tmp_path, offset):
    path = tmp_path / "m"
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    said = []
    with MetricsLog(path) as log:
        log.truncate(offset, said.append)
        assert log.offset == 12
    assert read_jsonl(path) == [{"step": 1}]
    assert len(said) == 1 and str(path) in said[0]


def test_reader_refuses_a_broken_line_inside_and_a_missing_file(tmp_path):
    path = tmp_path / "m"
    for inside in (b"{torn", b"[1]", b"", b"\xff"):
        path.write_bytes(b'{"step": 1}\n' + inside + b'\n{"step": 2}\n')
        with pytest.raises(CheckpointError, match="line 2"):
            read_jsonl(path)
    with pytest.raises(CheckpointError) as caught:
        read_jsonl(tmp_path / "none")
    assert caught.value.exit_code == 4
    path.write_bytes(b"")
    assert read_jsonl(path) == []


def test_every_torn_end_is_tolerated(tmp_path):
    path = tmp_path / "m"
    whole = b'{"step": 1}\n' + json.dumps({"step": 2, "name": "é"}).encode() + b"\n"
    for length in range(12, len(whole) + 1):
        path.write_bytes(whole[:length])
        assert [r["step"] for r in read_jsonl(path)] == ([1, 2] if length >= len(whole) - 1 else [1])


_FULL = """
import resource, sys
from fewmask.engine.log import MetricsLog
from fewmask.errors import WriteError
log = MetricsLog(sys.argv[1])
log.write({"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
try:
    log.write({"step": 2})  # 8 of its 12 bytes fit
except WriteError as error:
    sys.exit(error.exit_code)
"""


def test_full_disk_leaves_no_part_of_a_line(tmp_path):
    path = tmp_path / "m"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", _FULL, str(path)], env=env, timeout=60)
    assert done.returncode == WriteError.exit_code
    assert path.read_bytes() == b'{"step": 1}\n'


@pytest.mark.skipif(not tensorboard_available(), reason="the package tensorboard is not installed")
def test_tensorboard_hides_steps_that_are_repeated(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardLog(tmp_path)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": float(step), "val": {"miou": 50.0 + step}, "note": "x", "none": None})
    first.close()
    second = TensorBoardLog(tmp_path, first_step=3)
    second.write({"step": 3, "loss": 30.0, "bad": math.nan})
    second.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["loss", "val/miou"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
