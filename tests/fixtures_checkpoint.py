"""Snapshots that are known by their step, run folders of them, and what one must be when it comes back."""

from __future__ import annotations

import torch

from fewmask.engine.checkpoint import Snapshot, Store


def snapshot_of(step):
    generator = torch.Generator().manual_seed(step)
    networks = {"net.weight": torch.randn(3, 4, generator=generator), "net.step": torch.tensor(step)}
    return Snapshot(step, networks, {"opt.0.m": torch.randn(5, generator=generator)}, {"miou": step / 7})


def no_warning(text):
    raise AssertionError(text)


def assert_same(a, b):
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    for key, value in a.items():
        assert value.dtype == b[key].dtype, key
        assert value.shape == b[key].shape, key
        assert (
            value.contiguous().reshape(-1).view(torch.uint8).equal(b[key].contiguous().reshape(-1).view(torch.uint8))
        ), key


def assert_is(snapshot, step):
    wanted = snapshot_of(step)
    assert snapshot.step == step, snapshot.step
    assert snapshot.state == wanted.state, snapshot.state
    assert_same(snapshot.networks, wanted.networks)
    assert_same(snapshot.optimisers, wanted.optimisers)


def saved(tmp_path, *steps, **options):
    store = Store(tmp_path, warn=no_warning, **options)
    for step in steps:
        store.save(snapshot_of(step))
    return store
