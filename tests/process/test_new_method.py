"""``fewmask methods new``: what it writes keeps the contract and trains."""

from __future__ import annotations

import os
import sys

import pytest

from process.helpers import assert_refused, good, metrics_of, popen, run, training


@pytest.mark.parametrize(("name", "module"), [("MyMethod", "my_method"), ("UDA2", "uda2"), ("HTTPLike", "http_like")])
def test_a_new_method(name, module, data, tmp_path, io, monkeypatch):
    """From an empty folder, as its owner would: new, check, train."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = good(run(io, ["methods", "new", name]))
    assert f"fewmask methods check {module}:{name}" in ended.stdout
    assert_refused(run(io, ["methods", "new", name]), 2, "the file exists", f"{module}.py")
    compile((tmp_path / f"{module}.py").read_text(), module, "exec")
    if name != "MyMethod":
        return
    fewmask = [sys.executable, "-m", "fewmask"]
    path = os.pathsep.join([str(tmp_path), *sys.path])
    for words in (
        ["methods", "check", f"{module}:{name}"],
        training(data, tmp_path / "run", "--method", f"{module}:{name}"),
    ):
        monkeypatch.setattr(sys, "path", path.split(os.pathsep))
        process = popen(io, [*fewmask, *words])
        assert process.wait(240) == 0, (io / "stderr").read_text()
    assert metrics_of(tmp_path / "run")["method"] == f"{module}:{name}"


@pytest.mark.parametrize("name", ["my_method", "2Fast", "My-Method", "../Evil", "a.B"])
def test_no_name_of_a_class(name, tmp_path, io, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(run(io, ["methods", "new", name]), 2, "is no name of a class")
    assert not list(tmp_path.glob("*.py")) and not list(tmp_path.parent.glob("*.py"))


def test_a_file_with_an_error_is_told_with_its_line(tmp_path, io, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    good(run(io, ["methods", "new", "Broken"]))
    path = tmp_path / "broken.py"
    text = path.read_text().replace('return {"student"', 'return {"student', 1)
    path.write_text(text)
    line = 1 + text[: text.index('return {"student:')].count("\n")
    for words in (["methods", "check", "broken:Broken"], ["train", str(tmp_path), "--method", "broken:Broken"]):
        assert_refused(run(io, words), 2, "SyntaxError", f"broken.py:{line}")
