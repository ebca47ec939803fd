"""Checkpoints: a snapshot comes back bit for bit, which ones are kept, and bit rot (reliability F1 F6)."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from fewmask.engine.checkpoint import Snapshot, Store
from fewmask.errors import CheckpointError
from fixtures_checkpoint import assert_is, assert_same, no_warning, saved, snapshot_of

torch.set_num_threads(1)

FILES = {"networks.safetensors", "optimiser.safetensors", "state.json", "MANIFEST.json"}


# ---- a snapshot comes back as it was


def test_layout_and_manifest(tmp_path):
    folder = saved(tmp_path, 1200).path(1200)
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
    store = Store(tmp_path, warn=no_warning)
    store.save(Snapshot(0, tensors, {}, {}))
    back = store.latest()
    assert back is not None
    assert_same(back.networks, tensors)
    assert back.optimisers == {}


def test_state_comes_back_exactly(tmp_path):
    state = {"a": [1, 2.5, None, True, "x\ud800é"], "pi": math.pi, "tiny": 5e-324, "inf": -math.inf, "d": {"": {}}}
    store = Store(tmp_path, warn=no_warning)
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


# ---- which ones are kept


def test_the_last_two_and_the_best_are_kept(tmp_path):
    store = Store(tmp_path, warn=no_warning)
    assert store.latest() is None and store.best_step is None
    for step in range(10, 100, 10):
        store.save(snapshot_of(step), best=step in (20, 50))
        assert len(store.steps()) <= 3
        assert Store(tmp_path).best_step == store.best_step
        if store.best_step is not None:
            assert_is(store.load(store.best_step), store.best_step)
    assert store.steps() == [50, 80, 90]
    assert store.best_step == 50
    assert_is(store.latest(), 90)


def test_steps_that_always_remain(tmp_path):
    store = Store(tmp_path, keep=1, always=(2, 4))
    for step in range(1, 7):
        store.save(snapshot_of(step))
    assert store.steps() == [2, 4, 6]
    assert_is(store.load(2), 2)


def test_going_back_also_goes_back_to_what_was_best_then(tmp_path):
    store = Store(tmp_path)
    for step in (10, 20, 30):
        store.save(snapshot_of(step), best=step in (10, 30))
    _damage(store.path(30) / "networks.safetensors")
    said = []
    again = Store(tmp_path, warn=said.append)
    assert again.best_step == 10
    assert_is(again.load(10), 10)
    assert len(said) == 1
    again.save(snapshot_of(25))  # the damaged later one goes, and does not count as one of the last two
    assert again.steps() == [10, 20, 25]
    assert again.best_step == 10


def test_continuing_from_a_named_step_forgets_later_ones(tmp_path):
    saved(tmp_path, 10, 20, keep=3).save(snapshot_of(30), best=True)
    store = Store(tmp_path, keep=3)
    assert_is(store.load(10), 10)
    store.save(snapshot_of(15))
    assert store.steps() == [10, 15]
    assert store.best_step is None


def test_same_step_may_be_saved_again(tmp_path):
    store = saved(tmp_path, 10, keep=1)
    store.save(snapshot_of(10), best=True)
    store.save(snapshot_of(10))
    assert store.best_step == 10 and store.steps() == [10]
    assert_is(store.latest(), 10)
    assert [p.name for p in store.folder.iterdir()] == ["step-00000010"]


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
    path = saved(tmp_path, 10, 20).path(20) / name
    harm(path)
    said = []
    store = Store(tmp_path, warn=said.append)
    assert_is(store.latest(), 10)
    assert len(said) == 1 and "step-00000020" in said[0] and name in said[0]
    if harm is _truncate and name != "MANIFEST.json":
        size = path.stat().st_size
        assert f"{size} bytes instead of {size + 1}" in said[0]
    with pytest.raises(CheckpointError, match="cannot be used") as caught:
        store.load(20)
    assert caught.value.exit_code == 4
    assert caught.value.where == str(path)


def test_no_flipped_bit_changes_what_is_loaded(tmp_path):
    folder = saved(tmp_path, 10).path(10)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        for at in range(0, len(good), 7):
            _damage(path, at)
            try:
                assert_is(Store(tmp_path).load(10), 10)  # white space and unused keys of the manifest may change
            except CheckpointError:
                pass
            else:
                assert path.name == "MANIFEST.json", (path.name, at)
            path.write_bytes(good)


def test_all_damaged_is_an_error_and_no_silent_start(tmp_path):
    store = saved(tmp_path, 10, 20)
    for step in (10, 20):
        _damage(store.path(step) / "optimiser.safetensors")
    said = []
    with pytest.raises(CheckpointError, match="none of the 2") as caught:
        Store(tmp_path, warn=said.append).latest()
    assert caught.value.exit_code == 4 and len(said) == 2


def test_missing_step_names_the_others(tmp_path):
    store = saved(tmp_path, 10, 20)
    with pytest.raises(CheckpointError, match="no checkpoint of step 15") as caught:
        store.load(15)
    assert caught.value.todo == "steps with one: 10, 20"


def test_renamed_folder_and_other_format_are_refused(tmp_path, monkeypatch):
    store = saved(tmp_path, 10)
    shutil.copytree(store.path(10), store.path(30))
    with pytest.raises(CheckpointError, match="is of step 10"):
        store.load(30)
    monkeypatch.setattr("fewmask.engine.checkpoint.FORMAT", 2)
    with pytest.raises(CheckpointError, match="format 1"):
        store.load(10)


def test_crafted_tensor_files_are_refused(tmp_path):
    store = saved(tmp_path, 10)
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
