"""What the command line makes of errors that no part of fewmask has put into words."""

from __future__ import annotations

import errno
import os

import pytest

from fewmask import cli


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_what_may_not_be_read_is_no_failed_write(tmp_path, monkeypatch):
    """Root may read everything, so who may is said here."""
    file = tmp_path / "data.yaml"
    file.write_text("x")
    error = PermissionError(errno.EACCES, "Permission denied", str(file))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cli._explain(error) == (f"cannot be read (Permission denied); {file}; change its permissions", 3)
    monkeypatch.setattr(os, "access", lambda path, mode: True)
    said, code = cli._explain(error)
    assert code == 74 and said.startswith("could not write (Permission denied)")
    said, code = cli._explain(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "new")))
    assert code == 74, "what is not there was to be written"


def test_what_takes_less_memory_are_options_of_the_command():
    said, code = cli._explain(MemoryError(), "predict")
    assert code == 7 and "--tile 1024" in said and "--probs" in said and "--batch" not in said
    assert "--unlabelled-batch" in cli._explain(MemoryError(), "train")[0]
