"""Choosing a part of many points, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fewmask.ops import coreset


def points(count, dim, seed):
    return F.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


@pytest.mark.parametrize("seed", range(5))
def test_nearest_is_the_sorted_list(seed):
    pool, given = points(40, 6, seed), points(3, 6, 100 + seed)
    closest = [max(float(np.dot(p, g)) for g in given.numpy()) for p in pool.numpy()]
    expected = sorted(range(40), key=lambda i: (-closest[i], i))[:11]
    assert coreset.nearest(pool, given, 11).tolist() == expected


@pytest.mark.parametrize("seed", range(5))
def test_k_centre_takes_the_farthest_from_all_before(seed):
    pool, given = points(40, 6, seed), points(3, 6, 100 + seed)
    taken, centres = [], list(given.numpy())
    for _ in range(11):
        close = [max(float(np.dot(p, c)) for c in centres) for p in pool.numpy()]
        taken.append(min((i for i in range(40) if i not in taken), key=lambda i: close[i]))
        centres.append(pool[taken[-1]].numpy())
    assert coreset.k_centre(pool, given, 11).tolist() == taken


def test_by_hand():
    """Directions at 0°, 12°, 80°, 90°, 180°, given 0°: first 180°, then 90°, then 12°, for 80° is near 90°."""
    angle = torch.deg2rad(torch.tensor([0.0, 12, 80, 90, 180]))
    pool = torch.stack((angle.cos(), angle.sin()), 1)
    assert coreset.k_centre(pool, pool[:1], 3).tolist() == [4, 3, 1]
    assert coreset.nearest(pool, pool[:1], 3).tolist() == [0, 1, 2]


def test_equal_points_are_taken_once_each_in_their_order(monkeypatch):
    monkeypatch.setattr(coreset, "_ROWS", 2)
    pool = torch.tensor([[1.0, 0]]).repeat(5, 1)
    assert coreset.k_centre(pool, pool[:1], 5).tolist() == [0, 1, 2, 3, 4]
    assert coreset.nearest(pool, pool[:1], 5).tolist() == [0, 1, 2, 3, 4]
