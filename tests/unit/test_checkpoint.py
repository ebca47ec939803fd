"""Checkpoints: bit for bit, and through kills, full disks and bit rot (reliability F1 F2 F3 F6).

Run as a script (``test_checkpoint.py FOLDER``) it is the process that is killed: one import of torch, one fork a place.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from fewmask.engine import checkpoint, faults
from fewmask.engine.checkpoint import (
    Snapshot,
    Store,
    flatten_optimiser,
    load_networks,
    networks_to_flat,
    restore_optimiser,
)
from fewmask.errors import CheckpointError, WriteError

torch.set_num_threads(1)

FILES = {"networks.safetensors", "optimiser.safetensors", "state.json", "MANIFEST.json"}


def _snapshot(step):
    generator = torch.Generator().manual_seed(step)
    networks = {"net.weight": torch.randn(3, 4, generator=generator), "net.step": torch.tensor(step)}
    return Snapshot(step, networks, {"opt.0.m": torch.randn(5, generator=generator)}, {"miou": step / 7})


def _no_warning(text):
    raise AssertionError(text)


def _same(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert value.dtype == b[key].dtype, key
        assert value.shape == b[key].shape, key
        assert (
            value.contiguous().reshape(-1).view(torch.uint8).equal(b[key].contiguous().reshape(-1).view(torch.uint8))
        ), key


def _is(snapshot, step):
    wanted = _snapshot(step)
    assert snapshot.step == step
    assert snapshot.state == wanted.state
    _same(snapshot.networks, wanted.networks)
    _same(snapshot.optimisers, wanted.optimisers)


def _run(tmp_path, *steps, **options):
    store = Store(tmp_path, warn=_no_warning, **options)
    for step in steps:
        store.save(_snapshot(step))
    return store


# ---- a snapshot comes back as it was


def test_layout_and_manifest(tmp_path):
    folder = _run(tmp_path, 1200).path(1200)
    assert folder == tmp_path / "checkpoints" / "step-00001200"
    assert {p.name for p in folder.iterdir()} == FILES
    assert [p.name for p in folder.parent.iterdir()] == ["step-00001200"]
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert set(manifest["files"]) == FILES - {"MANIFEST.json"}
    for path in folder.iterdir():
        head = path.read_bytes()[:9]
        assert head[8:9] == b"{" if path.suffix == ".safetensors" else head[:1] == b"{"  # and no pickle


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.complex64,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.uint8,
        torch.int8,
        torch.bool,
    ],
)
def test_every_dtype_and_shape_comes_back(tmp_path, dtype):
    values = torch.tensor([0.0, -0.0, 1.0, 3.0]) if dtype.is_floating_point else torch.tensor([0, 1, 1, 3])
    tensors = {
        "vector": values.to(dtype, copy=True),
        "scalar": values[2].to(dtype, copy=True),
        "empty": torch.empty(0, 3, dtype=dtype),
        "name with spaces/ünï": values.reshape(2, 2).to(dtype, copy=True),
    }
    if dtype.is_floating_point:
        tensors["special"] = torch.tensor([math.nan, math.inf, -math.inf, 1e-40]).to(dtype)
    store = Store(tmp_path, warn=_no_warning)
    store.save(Snapshot(0, tensors, {}, {}))
    back = store.latest()
    assert back is not None
    _same(back.networks, tensors)
    assert back.optimisers == {}


def test_state_comes_back_exactly(tmp_path):
    state = {"a": [1, 2.5, None, True, "x\ud800é"], "pi": math.pi, "tiny": 5e-324, "inf": -math.inf, "d": {"": {}}}
    store = Store(tmp_path, warn=_no_warning)
    store.save(Snapshot(3, {}, {}, {**state, "nan": math.nan}))
    back = store.load(3).state
    assert math.isnan(back.pop("nan"))
    assert back == state
    assert [type(v) for v in back["a"]] == [int, float, type(None), bool, str]


@pytest.mark.parametrize("state", [{"a": (1, 2)}, {"a": {1: 2}}, {"a": [torch.tensor(1)]}])
def test_state_that_json_would_change_is_refused(tmp_path, state):
    with pytest.raises(TypeError, match=r"state\.a"):
        Store(tmp_path).save(Snapshot(0, {}, {}, state))
    assert not (tmp_path / "checkpoints").exists()


# ---- networks


def _net():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net.register_buffer("bank", torch.randn(2, 3, dtype=torch.float16))
    return net


def test_networks_come_back_in_place(tmp_path):
    torch.manual_seed(0)
    source = {"student": _net(), "teacher": _net()}
    source["student"].to(memory_format=torch.channels_last)
    source["teacher"][0].bias = source["student"][0].bias  # shared memory, which safetensors alone refuses
    flat = networks_to_flat(source)
    kept = {key: value.clone() for key, value in flat.items()}
    with torch.no_grad():
        source["student"][0].bias.add_(1)
    _same(flat, kept)  # a copy, not a view
    store = Store(tmp_path)
    store.save(Snapshot(0, flat, {}, {}))
    nets = {"student": _net().to(memory_format=torch.channels_last), "teacher": _net()}
    before = {key: value.data_ptr() for key, value in nets["student"].state_dict().items()}
    load_networks(nets, store.load(0).networks)
    _same(networks_to_flat(nets), kept)
    assert {key: value.data_ptr() for key, value in nets["student"].state_dict().items()} == before
    assert nets["student"][0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda flat: flat.pop("a.0.bias"), "1 missing: a.0.bias"),
        (lambda flat: flat.update({"a.9.x": torch.ones(1), "b.y": torch.ones(1)}), "2 unexpected: a.9.x, b.y"),
        (lambda flat: flat.update({"a.0.bias": torch.ones(5)}), r"a.0.bias \(float32 \[5\], .* float32 \[4\]\)"),
        (lambda flat: flat.update({"a.0.bias": torch.ones(4).half()}), r"1 different: a.0.bias \(float16 \[4\]"),
    ],
)
def test_other_networks_are_refused_and_nothing_is_copied(change, said):
    nets = {"a": _net()}
    before = networks_to_flat(nets)
    flat = {key: torch.zeros_like(value) for key, value in before.items()}
    change(flat)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_networks(nets, flat)
    assert caught.value.exit_code == 4
    _same(networks_to_flat(nets), before)


# ---- optimisers


def _adamw(parameters, **options):
    return torch.optim.AdamW(parameters, lr=0.1 * 3, betas=(0.9, 0.98), fused=False, **options)


def _sgd(parameters, **options):
    return torch.optim.SGD(parameters, lr=1 / 3, weight_decay=1e-4, **options)


OPTIMISERS = {
    "adamw": lambda p: _adamw(p, foreach=False),
    "adamw-foreach": lambda p: _adamw(p, foreach=True),
    "adamw-amsgrad": lambda p: _adamw(p, amsgrad=True),
    "sgd": lambda p: _sgd(p),
    "sgd-momentum": lambda p: _sgd(p, momentum=0.9, foreach=False),
    "sgd-nesterov": lambda p: _sgd(p, momentum=0.9, nesterov=True, foreach=True),
}


def _setup(make):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)).to(memory_format=torch.channels_last)
    unused = nn.Parameter(torch.ones(2))  # never gets a gradient, so it has no state
    groups = [{"params": [*net[0].parameters(), unused]}, {"params": net[1].parameters(), "lr": 0.7e-3}]
    return net, make(groups)


def _train(net, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(2, 3, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_training_continues_bit_for_bit(tmp_path, name, before):
    net, optimizer = _setup(OPTIMISERS[name])
    _train(net, optimizer, range(before))
    tensors, structure = flatten_optimiser("opt", optimizer)
    store = Store(tmp_path)
    store.save(Snapshot(before, networks_to_flat({"n": net}), tensors, {"opt": structure}))
    _train(net, optimizer, range(before, 6))

    snapshot = store.latest()
    other, again = _setup(OPTIMISERS[name])
    _train(other, again, range(50, 52))  # state of its own, which must go
    load_networks({"n": other}, snapshot.networks)
    restore_optimiser("opt", again, snapshot.optimisers, snapshot.state["opt"])
    for group, wanted in zip(again.state_dict()["param_groups"], structure["param_groups"], strict=True):
        for key in ("lr", "weight_decay", "foreach"):
            assert group[key] == wanted["dict"][key]
        assert type(group.get("betas", ())) is tuple
    if before and "sgd" != name:
        moments = again.state[other[0].weight]
        moment = moments["momentum_buffer" if "sgd" in name else "exp_avg"]
        assert moment.is_contiguous(memory_format=torch.channels_last)
        assert not moment.is_contiguous()
    _train(other, again, range(before, 6))
    _same(networks_to_flat({"n": other}), networks_to_flat({"n": net}))
    _same(flatten_optimiser("opt", again)[0], flatten_optimiser("opt", optimizer)[0])


def test_none_momentum_and_odd_state_come_back():
    parameter = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    optimizer.state[parameter] = {
        "momentum_buffer": None,
        "master": torch.tensor([1.0, 1e-6, math.pi]),  # fp32 beside a bf16 parameter: must not be cast
        "count": torch.tensor([7], dtype=torch.uint8),
        "factor": 0.1 + 0.2,
    }
    tensors, structure = flatten_optimiser("o", optimizer)
    assert set(tensors) == {"o.0.master", "o.0.count"}
    structure = json.loads(json.dumps(structure))
    other = torch.optim.SGD([nn.Parameter(torch.ones(3, dtype=torch.bfloat16))], lr=0.5, momentum=0.9)
    restore_optimiser("o", other, tensors, structure)
    state = other.state[other.param_groups[0]["params"][0]]
    assert state["momentum_buffer"] is None and state["factor"] == 0.1 + 0.2
    assert state["master"].dtype == torch.float32 and state["master"].equal(tensors["o.0.master"])
    assert state["count"].dtype == torch.uint8
    assert state["master"] is not tensors["o.0.master"]


def test_other_optimisers_are_refused():
    net, optimizer = _setup(OPTIMISERS["adamw"])
    _train(net, optimizer, range(1))
    tensors, structure = flatten_optimiser("o", optimizer)
    with pytest.raises(CheckpointError, match="other parameters"):
        restore_optimiser("o", torch.optim.AdamW(net[0].parameters()), tensors, structure)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with pytest.raises(CheckpointError, match="other groups"):
        restore_optimiser("o", torch.optim.AdamW(parameters), tensors, structure)
    del tensors["o.0.exp_avg"]
    with pytest.raises(CheckpointError, match="o.0.exp_avg"):
        restore_optimiser("o", optimizer, tensors, structure)


# ---- which ones are kept


def test_the_last_two_and_the_best_are_kept(tmp_path):
    store = Store(tmp_path, warn=_no_warning)
    assert store.latest() is None and store.best_step is None
    for step in range(10, 100, 10):
        store.save(_snapshot(step), best=step in (20, 50))
        assert len(store.steps()) <= 3
        assert Store(tmp_path).best_step == store.best_step
        if store.best_step is not None:
            _is(store.load(store.best_step), store.best_step)
    assert store.steps() == [50, 80, 90]
    assert store.best_step == 50
    _is(store.latest(), 90)


def test_going_back_also_goes_back_to_what_was_best_then(tmp_path):
    store = Store(tmp_path)
    for step in (10, 20, 30):
        store.save(_snapshot(step), best=step in (10, 30))
    _damage(store.path(30) / "networks.safetensors")
    said = []
    again = Store(tmp_path, warn=said.append)
    assert again.best_step == 10
    _is(again.load(10), 10)
    assert len(said) == 1
    again.save(_snapshot(25))  # the damaged later one goes, and does not count as one of the last two
    assert again.steps() == [10, 20, 25]
    assert again.best_step == 10


def test_continuing_from_a_named_step_forgets_later_ones(tmp_path):
    _run(tmp_path, 10, 20, keep=3).save(_snapshot(30), best=True)
    store = Store(tmp_path, keep=3)
    _is(store.load(10), 10)
    store.save(_snapshot(15))
    assert store.steps() == [10, 15]
    assert store.best_step is None


def test_same_step_may_be_saved_again(tmp_path):
    store = _run(tmp_path, 10, keep=1)
    store.save(_snapshot(10), best=True)
    store.save(_snapshot(10))
    assert store.best_step == 10 and store.steps() == [10]
    _is(store.latest(), 10)
    assert [p.name for p in store.folder.iterdir()] == ["step-00000010"]


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
                Store(run).save(_snapshot(20))
                Store(run).save(_snapshot(30))
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
    _run(folder / "template", 10, 20)
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
        store = Store(killed / name, warn=_no_warning)  # nothing may look damaged
        store.clean()
        newest = store.steps()[-1]
        assert newest in (20, 30)
        _is(store.latest(), newest)
        assert {p.name for p in store.folder.iterdir()} == {store.path(s).name for s in store.steps()}
        for step in store.steps():
            _is(store.load(step), step)
        store.save(_snapshot(40))  # and life goes on
        _is(Store(killed / name).latest(), 40)


def test_order_of_what_reaches_the_disk(tmp_path, monkeypatch):
    """A kill keeps the page cache, so only the order of the calls speaks about a power cut."""
    store = _run(tmp_path, 10)
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
    store.save(_snapshot(20))
    files = ["networks.safetensors", "optimiser.safetensors", "state.json", "MANIFEST.json"]
    assert done == [*files, "temporary", "rename to step-00000020", "checkpoints"]


# ---- F3 F4: the disk refuses


PLACES = ["save.open", "save.mid_write", "save.before_fsync", "save.before_manifest", "save.before_rename"]


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS"])
@pytest.mark.parametrize("place", [*PLACES, "save.after_rename"])
def test_one_failed_write_warns_and_is_repeated(tmp_path, monkeypatch, place, code):
    _run(tmp_path, 10, 20)
    said = []
    store = Store(tmp_path, warn=said.append)
    monkeypatch.setenv(faults.VARIABLE, f"{place}:1:raise={code}")
    store.save(_snapshot(30))
    assert len(said) == 1 and "WARNING: could not write" in said[0] and "step-00000030" in said[0]
    _is(Store(tmp_path, warn=_no_warning).latest(), 30)
    assert {p.name for p in store.folder.iterdir()} == {"step-00000020", "step-00000030"}


@pytest.mark.parametrize("place", PLACES)
def test_second_failure_is_an_error_and_the_previous_ones_are_kept(tmp_path, monkeypatch, place):
    _run(tmp_path, 10, 20)
    monkeypatch.setenv(faults.VARIABLE, f"{place}:1:raise=ENOSPC,{place}:2:raise=ENOSPC")
    said = []
    with pytest.raises(WriteError, match="No space left") as caught:
        Store(tmp_path, warn=said.append).save(_snapshot(30))
    assert caught.value.exit_code == 74
    assert caught.value.where.endswith("step-00000030")
    assert len(said) == 1
    store = Store(tmp_path, warn=_no_warning)
    assert {p.name for p in store.folder.iterdir()} == {"step-00000010", "step-00000020"}
    _is(store.latest(), 20)


def test_a_replaced_step_is_put_back_when_the_rename_fails(tmp_path, monkeypatch):
    _run(tmp_path, 20)
    monkeypatch.setenv(faults.VARIABLE, "save.mid_replace:1:raise=EIO,save.mid_replace:2:raise=EIO")
    with pytest.raises(WriteError):
        Store(tmp_path, warn=lambda _: None).save(_snapshot(20))
    store = Store(tmp_path, warn=_no_warning)
    assert [p.name for p in store.folder.iterdir()] == ["step-00000020"]
    _is(store.latest(), 20)


def test_a_prune_that_fails_does_not_stop_the_run(tmp_path, monkeypatch):
    _run(tmp_path, 10, 20)
    monkeypatch.setenv(faults.VARIABLE, "save.mid_prune:1:raise=EACCES")
    said = []
    store = Store(tmp_path, warn=said.append)
    store.save(_snapshot(30))
    assert len(said) == 1 and "could not remove" in said[0]
    assert len(store.clean()) == 1
    _is(store.latest(), 30)


def test_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    _run(tmp_path, 10)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fewmask.engine.checkpoint.sync_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).save(_snapshot(20))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]


def test_a_file_that_really_does_not_fit(killed):
    assert (killed / "full" / "code").read_text() == "74"
    store = Store(killed / "full", warn=_no_warning)
    assert {p.name for p in store.folder.iterdir()} == {"step-00000010", "step-00000020"}
    _is(store.latest(), 20)


# ---- F6: bit rot


def _damage(path, at=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if at is None else at] ^= 0x10
    path.write_bytes(data)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [_damage, _truncate, Path.unlink, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", sorted(FILES))
def test_damaged_newest_falls_back_and_a_named_one_is_an_error(tmp_path, name, harm):
    path = _run(tmp_path, 10, 20).path(20) / name
    harm(path)
    said = []
    store = Store(tmp_path, warn=said.append)
    _is(store.latest(), 10)
    assert len(said) == 1 and "step-00000020" in said[0] and name in said[0]
    if harm is _truncate and name != "MANIFEST.json":
        size = path.stat().st_size
        assert f"{size} bytes instead of {size + 1}" in said[0]
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        store.load(20)
    assert caught.value.exit_code == 4
    assert caught.value.where == str(path)


def test_no_flipped_bit_changes_what_is_loaded(tmp_path):
    folder = _run(tmp_path, 10).path(10)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for at in range(0, len(good), 7):
            _damage(path, at)
            try:
                _is(Store(tmp_path).load(10), 10)  # white space and unused keys of the manifest may change
            except CheckpointError:
                pass
            else:
                assert path.name == "MANIFEST.json", (path.name, at)
            path.write_bytes(good)


def test_all_damaged_is_an_error_and_no_silent_start(tmp_path):
    store = _run(tmp_path, 10, 20)
    for step in (10, 20):
        _damage(store.path(step) / "optimiser.safetensors")
    said = []
    with pytest.raises(CheckpointError, match="none of the 2") as caught:
        Store(tmp_path, warn=said.append).latest()
    assert caught.value.exit_code == 4 and len(said) == 2


def test_missing_step_names_the_others(tmp_path):
    store = _run(tmp_path, 10, 20)
    with pytest.raises(CheckpointError, match="no checkpoint of step 15") as caught:
        store.load(15)
    assert caught.value.todo == "steps with one: 10, 20"


def test_renamed_folder_and_other_format_are_refused(tmp_path, monkeypatch):
    store = _run(tmp_path, 10)
    shutil.copytree(store.path(10), store.path(30))
    with pytest.raises(CheckpointError, match="is of step 10"):
        store.load(30)
    monkeypatch.setattr("fewmask.engine.checkpoint.FORMAT", 2)
    with pytest.raises(CheckpointError, match="format 1"):
        store.load(10)


def test_crafted_tensor_files_are_refused(tmp_path):
    store = _run(tmp_path, 10)
    path = store.path(10) / "networks.safetensors"
    manifest = path.with_name("MANIFEST.json")
    header = b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,4]}}'
    for data in (b"\xff" * 8, len(header).to_bytes(8, "little") + header + b"\0" * 4, b"\x80\x04N."):
        path.write_bytes(data)  # with a manifest that agrees
        entries = json.loads(manifest.read_text())
        entries["files"][path.name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest.write_text(json.dumps(entries))
        with pytest.raises(CheckpointError, match="cannot be used"):
            store.load(10)


if __name__ == "__main__":
    _kill_everywhere(Path(sys.argv[1]))
    _fill(Path(sys.argv[1]))
