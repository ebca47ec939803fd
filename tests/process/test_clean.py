"""``fewmask clean``: finished runs give their checkpoints back, others keep everything."""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from process.helpers import VARIANTS, assert_refused, assert_same, content, good, outcome, run, training


@pytest.fixture
def runs(data, unbroken, tmp_path, io):
    """A folder with a finished run of rounds, one with a baseline, and one that was killed."""
    folder = tmp_path / "runs"
    shutil.copytree(unbroken("dars"), folder / "rounds")
    good(run(io, training(data, folder / "compared", *VARIANTS["cps"], "--baseline")))
    assert run(io, training(data, folder / "killed", *VARIANTS["cps"]), "step.inside:11").code == -signal.SIGKILL
    (folder / "notes.txt").write_text("mine")
    labels = next((folder / "rounds").glob("rounds/*/pseudo")) / "checkpoints"  # of images in a folder of that name
    labels.mkdir()
    (labels / "a.png").write_bytes(b"a label")
    return folder


def test_clean(runs, data, tmp_path, io, unbroken):
    before = content(runs)
    ended = good(run(io, ["clean", str(runs), "--json"]))
    found = json.loads(ended.stdout)
    assert content(runs) == before and found["freed"] == 0, "nothing is removed unasked"
    assert {one["run"].rpartition("/")[2] for one in found["runs"]} == {"rounds", "compared"}
    assert "killed: not finished" in ended.stderr
    size = sum(p.stat().st_size for p in runs.rglob("*") if p.is_file() and "checkpoints" in p.parts
               and "killed" not in p.parts and "pseudo" not in p.parts)  # fmt: skip
    assert found["bytes"] == size > 0
    listed = good(run(io, ["clean", str(runs)]))
    assert "--yes removes them" in listed.stderr and str(runs / "rounds") in listed.stdout

    assert json.loads(good(run(io, ["clean", str(runs), "--yes", "--json"])).stdout)["freed"] == size
    after = content(runs)
    gone = {p for p in before if p not in after}
    assert gone and all("checkpoints" in p.relative_to(runs).parts and "killed" not in p.parts for p in gone)
    assert not any("pseudo" in p.parts for p in gone)
    assert all(after[p] == before[p] for p in after if p.name not in (".lock", ".lock.json"))
    assert "no finished run" in good(run(io, ["clean", str(runs)])).stderr

    assert_refused(
        run(io, ["evaluate", str(runs / "compared"), "--which", "last"]), 4, "there is no checkpoint of step"
    )
    good(run(io, ["evaluate", str(runs / "compared")]))
    good(run(io, ["report", str(runs / "compared")]))
    good(run(io, training(data, tmp_path / "next", *VARIANTS["cps"], "--init", str(runs / "compared"))))
    same = good(run(io, training(data, runs / "compared", *VARIANTS["cps"], "--baseline")))
    assert "finished" in same.stderr or "done" in same.stderr
    good(run(io, training(data, runs / "killed", *VARIANTS["cps"])))
    assert_same(outcome(runs / "killed"), outcome(unbroken("cps")))


def test_no_such_folder(tmp_path, io):
    assert_refused(run(io, ["clean", str(tmp_path / "none")]), 4, "no such folder")
