"""Saves that are killed at any place, or refused by the disk (reliability F2 F3 F4).

Run as a script (``test_checkpoint_writes.py FOLDER``) it is the process that is killed: one import of torch, one fork a
place.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fewmask.engine import checkpoint, faults
from fewmask.engine.checkpoint import Snapshot, Store
from fewmask.errors import WriteError
from fixtures_checkpoint import assert_is, no_warning, saved, snapshot_of

torch.set_num_threads(1)


# ---- F2: killed inside a save


def _kill_everywhere(folder):
    """Fork one process a place of a save, which dies there; write {place: exit status} to ``report.json``."""
    report = {}
    for name in (site for site in faults.SITES if site.startswith("save.")):
        for call in range(1, 9):
            run = folder / f"{name}-{call}"
            shutil.copytree(folder / "template", run)
            pid = os.fork()
            if pid == 0:
                os.environ[faults.VARIABLE] = f"{name}:{call}"
                # step 20 is there already, and is replaced; saving 30 removes 10
                Store(run).save(snapshot_of(20))
                Store(run).save(snapshot_of(30))
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status == 0:
                shutil.rmtree(run)
                break
            report[run.name] = status
    (folder / "report.json").write_text(json.dumps(report))


def _fill(folder):
    """Save in a fork with room for half of the networks, as a full disk has; write the error's exit code."""
    shutil.copytree(folder / "template", folder / "full")
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            Store(folder / "full").save(Snapshot(30, {"big": torch.zeros(50_000)}, {}, {}))
        except WriteError as error:
            (folder / "full" / "code").write_text(str(error.exit_code))
        os._exit(0)
    os.waitpid(pid, 0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder of run folders whose writers died, and ``report.json``."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    folder = tmp_path_factory.mktemp("killed")
    saved(folder / "template", 10, 20)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, __file__, str(folder)], env=env, timeout=120, check=True)
    return folder


def test_killed_at_every_place_of_a_save(killed):
    report = json.loads((killed / "report.json").read_text())
    assert set(report.values()) == {-signal.SIGKILL}
    reached = {name.rsplit("-", 1)[0] for name in report}
    assert reached == {name for name in faults.SITES if name.startswith("save.")}
    assert sum(name.startswith("save.mid_write-") for name in report) == 8, "4 files in each of the 2 saves"
    for name in report:
        store = Store(killed / name, warn=no_warning)  # nothing may look damaged
        store.clean()
        newest = store.steps()[-1]
        assert newest in (20, 30)
        assert_is(store.latest(), newest)
        assert {p.name for p in store.folder.iterdir()} == {store.path(s).name for s in store.steps()}
        for step in store.steps():
            assert_is(store.load(step), step)
        store.save(snapshot_of(40))  # and life goes on
        assert_is(Store(killed / name).latest(), 40)


def test_order_of_what_reaches_the_disk(tmp_path, monkeypatch):
    """A kill keeps the page cache, so only the order of the calls speaks about a power cut."""
    store = saved(tmp_path, 10)
    done = []

    def spy(owner, name, label):
        real = getattr(owner, name)

        def call(*arguments):
            done.append(label(*arguments))
            return real(*arguments)

        monkeypatch.setattr(owner, name, call)

    spy(checkpoint, "sync_file", lambda handle, size: Path(handle.name).name)
    spy(checkpoint, "sync_folder", lambda folder: "temporary" if ".tmp-" in folder.name else folder.name)
    spy(checkpoint.os, "rename", lambda old, new: f"rename to {new.name}")
    store.save(snapshot_of(20))
    files = ["networks.safetensors", "optimiser.safetensors", "state.json", "MANIFEST.json"]
    assert done == [*files, "temporary", "rename to step-00000020", "checkpoints"]


# ---- F3 F4: the disk refuses


PLACES = ["save.open", "save.mid_write", "save.before_fsync", "save.before_manifest", "save.before_rename"]


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS"])
@pytest.mark.parametrize("place", [*PLACES, "save.after_rename"])
def test_one_failed_write_warns_and_is_repeated(tmp_path, monkeypatch, place, code):
    saved(tmp_path, 10, 20)
    said = []
    store = Store(tmp_path, warn=said.append)
    monkeypatch.setenv(faults.VARIABLE, f"{place}:1:raise={code}")
    store.save(snapshot_of(30))
    assert len(said) == 1 and "WARNING: could not write" in said[0] and "step-00000030" in said[0]
    assert_is(Store(tmp_path, warn=no_warning).latest(), 30)
    assert {p.name for p in store.folder.iterdir()} == {"step-00000020", "step-00000030"}


@pytest.mark.parametrize("place", PLACES)
def test_second_failure_is_an_error_and_the_previous_ones_are_kept(tmp_path, monkeypatch, place):
    saved(tmp_path, 10, 20)
    monkeypatch.setenv(faults.VARIABLE, f"{place}:1:raise=ENOSPC,{place}:2:raise=ENOSPC")
    said = []
    with pytest.raises(WriteError, match="No space left") as caught:
        Store(tmp_path, warn=said.append).save(snapshot_of(30))
    assert caught.value.exit_code == 74
    assert caught.value.where.endswith("step-00000030")
    assert len(said) == 1
    store = Store(tmp_path, warn=no_warning)
    assert {p.name for p in store.folder.iterdir()} == {"step-00000010", "step-00000020"}
    assert_is(store.latest(), 20)


def test_a_replaced_step_is_put_back_when_the_rename_fails(tmp_path, monkeypatch):
    saved(tmp_path, 20)
    monkeypatch.setenv(faults.VARIABLE, "save.mid_replace:1:raise=EIO,save.mid_replace:2:raise=EIO")
    with pytest.raises(WriteError):
        Store(tmp_path, warn=lambda _: None).save(snapshot_of(20))
    store = Store(tmp_path, warn=no_warning)
    assert [p.name for p in store.folder.iterdir()] == ["step-00000020"]
    assert_is(store.latest(), 20)


def test_a_prune_that_fails_does_not_stop_the_run(tmp_path, monkeypatch):
    saved(tmp_path, 10, 20)
    monkeypatch.setenv(faults.VARIABLE, "save.mid_prune:1:raise=EACCES")
    said = []
    store = Store(tmp_path, warn=said.append)
    store.save(snapshot_of(30))
    assert len(said) == 1 and "could not remove" in said[0]
    assert len(store.clean()) == 1
    assert_is(store.latest(), 30)


def test_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    saved(tmp_path, 10)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fewmask.engine.checkpoint.sync_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).save(snapshot_of(20))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_file_that_really_does_not_fit(killed):
    assert (killed / "full" / "code").read_text() == "74"
    store = Store(killed / "full", warn=no_warning)
    assert {p.name for p in store.folder.iterdir()} == {"step-00000010", "step-00000020"}
    assert_is(store.latest(), 20)


if __name__ == "__main__":
    _kill_everywhere(Path(sys.argv[1]))
    _fill(Path(sys.argv[1]))
