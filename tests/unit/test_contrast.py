"""fewmask.ops.contrast: the quantile, the order of the classes, the draws, and the loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewmask.ops import contrast
from oracles import u2pl as oracle

DRAWS = 6000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def near(count: float, p: float, draws: int = DRAWS) -> bool:
    return abs(count - draws * p) <= 3 * math.sqrt(draws * p * (1 - p))


# --- quantile -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("q", [0.0, 0.05, 0.2, 0.5, 0.8, 0.9123, 1.0])
def test_quantile_is_numpys(seed: int, q: float) -> None:
    value = torch.rand(3, 5, 7, generator=generator(seed))
    if seed % 2:
        value = (4 * value).round() / 4  # ties
    valid = torch.rand(3, 5, 7, generator=generator(seed + 100)) < (0.02, 0.3, 0.9, 1.0)[seed % 4]
    valid[1, 2, 3] = True
    found = contrast.quantile(value, valid, q)
    assert found.shape == () and found.dtype == value.dtype
    assert found.item() == pytest.approx(np.percentile(value[valid].double().numpy(), 100 * q), rel=1e-6, abs=1e-7)


def test_quantile_of_one_and_of_none() -> None:
    value, valid = torch.tensor([[3.0, 1.0], [2.0, 4.0]]), torch.zeros(2, 2, dtype=torch.bool)
    for q in (0.0, 0.3, 1.0):
        assert contrast.quantile(value, valid, q).item() == math.inf
        one = valid.clone()
        one[1, 0] = True
        assert contrast.quantile(value, one, q).item() == 2


@pytest.mark.parametrize(("n", "q", "place"), [(5, 0.75, 3), (101, 0.53, 53), (101, 0.07, 7), (201, 0.29, 58)])
def test_quantile_at_a_value_is_that_value(n: int, q: float, place: int) -> None:
    """Where (n - 1)·q is whole, the quantile is a value itself, so that this value is a tie, and reliable."""
    value = torch.randperm(n, generator=generator(n)).float().square()
    expected = value.sort().values[place].item()
    assert np.float32(np.percentile(value.numpy(), 100 * q)) == expected
    assert contrast.quantile(value, torch.ones(n, dtype=torch.bool), q).item() == expected


@pytest.mark.parametrize("q", [0.0, 0.1, 0.5, 0.777, 1.0])
@pytest.mark.parametrize("kind", ["signs", "extremes", "steps", "equal"])
def test_quantile_by_bits_is_that_of_a_sort(kind: str, q: float) -> None:
    """To the last bit: negative numbers, both zeros, infinity, few different numbers, and one."""
    value = torch.randn(4001, generator=generator())
    value = {
        "signs": value, "steps": value.mul(2).round(), "equal": torch.full_like(value, 0.3),
        "extremes": torch.cat((value[:-6], torch.tensor([0.0, -0.0, math.inf, -math.inf, 1e-40, -3e38]))),
    }[kind]  # fmt: skip
    ordered, place = value.sort().values, 4000 * q
    low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
    expected = low if low == high else low + (high - low) * (place - math.floor(place))
    found = contrast.quantile(value, torch.ones(4001, dtype=torch.bool), q)
    assert found.item() == expected.item() and found.dtype == torch.float32


def test_quantile_of_float64_is_exact_in_float64() -> None:
    value = torch.rand(1000, generator=generator(), dtype=torch.float64)
    for q in (0.123456789, 0.8, 1 - 0.2 * (1 - 7 / 80)):
        found = contrast.quantile(value, torch.ones(1000, dtype=torch.bool), q).item()
        assert found == pytest.approx(np.percentile(value.numpy(), 100 * q), rel=1e-12)


# --- entropy and order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_entropy_and_order_are_the_oracles(seed: int) -> None:
    p = np.random.default_rng(seed).dirichlet(np.full(2 + seed, 0.3), (2, 3, 4)).astype(np.float32)
    p[0, 0, 0] = [1.0] + [0.0] * (1 + seed)
    if seed:
        p[1] = p[1].round(1)  # ties
    tensor = torch.from_numpy(np.moveaxis(p, -1, 1))
    high, order = contrast.entropy(tensor), contrast.class_order(tensor)
    assert order.dtype == torch.int64 and order.shape == tensor.shape
    for i, y, x in oracle.places(3, 4, 2):
        assert high[i, y, x].item() == pytest.approx(oracle.entropy(p[i, y, x].astype(float)), rel=1e-5, abs=1e-7)
        assert order[i, :, y, x].tolist() == oracle.order(p[i, y, x])


def test_order_of_equal_probabilities_is_that_of_the_classes() -> None:
    p = torch.tensor([[0.25] * 4, [0.1, 0.4, 0.1, 0.4], [0.3, 0.3, 0.4, 0.0]]).T.view(1, 4, 1, 3)
    assert contrast.class_order(p)[0, :, 0].T.tolist() == [[0, 1, 2, 3], [2, 0, 3, 1], [1, 2, 0, 3]]


# --- draws --------------------------------------------------------------------------------------------------------

MASK = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]]).bool()


def test_with_replacement_every_true_entry_is_as_likely() -> None:
    index = contrast.draw_with_replacement(MASK, torch.rand(4, DRAWS, generator=generator()))
    assert index.shape == (4, DRAWS) and index.dtype == torch.int64
    for row, drawn in zip(MASK, index, strict=True):
        count = drawn.bincount(minlength=6)
        assert not count[~row].any()
        assert all(near(n, 1 / row.sum().item()) for n in count[row].tolist())


def test_with_replacement_by_the_numbers() -> None:
    """Three entries: [0, ⅓) is the first, up to the largest number below 1 the last; a column may be alone."""
    below = np.nextafter(np.float32(1), np.float32(0)).item()
    u = torch.tensor([[0.0, 0.33, 0.34, 0.66, 0.67, below]]).expand(4, -1)
    index = contrast.draw_with_replacement(MASK, u)
    assert index[0].tolist() == [1, 1, 3, 3, 4, 4] and index[3].tolist() == [0, 1, 2, 3, 4, 5]
    assert index[1].tolist() == [0] * 6 and index[2].tolist() == [5] * 6
    wide = torch.zeros(1, 200_003, dtype=torch.bool)
    wide[0, [7, 200_002]] = True
    assert contrast.draw_with_replacement(wide, torch.tensor([[0.0, 0.5, below]])).tolist() == [[7, 200_002, 200_002]]


def test_with_replacement_from_an_empty_row() -> None:
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3] = True
    index = contrast.draw_with_replacement(mask, torch.rand(2, 4, generator=generator()))
    assert index.tolist() == [[0] * 4, [3] * 4]  # as its docstring says


def test_without_replacement_every_subset_is_as_likely() -> None:
    """Of {1, 3, 4} two: each of the three pairs a third of the time, in each order a sixth."""
    mask = MASK[:1].expand(DRAWS, -1)
    index, real = contrast.draw_without_replacement(mask, 2, torch.rand(DRAWS, 6, generator=generator()))
    assert index.shape == real.shape == (DRAWS, 2) and real.all() and index.dtype == torch.int64
    pairs = [tuple(pair) for pair in index.tolist()]
    assert set(pairs) == {(a, b) for a in (1, 3, 4) for b in (1, 3, 4) if a != b}
    assert all(near(pairs.count(pair), 1 / 6) for pair in set(pairs))


def test_without_replacement_takes_all_where_there_are_few() -> None:
    mask = torch.cat((MASK, torch.zeros(1, 6, dtype=torch.bool)))
    u = torch.rand(5, 6, generator=generator())
    u[:, 0] = 0.0  # a number that rand may give
    for count in (1, 4, 6):
        index, real = contrast.draw_without_replacement(mask, count, u)
        for row, i, r in zip(mask, index, real, strict=True):
            drawn = i[r].tolist()
            assert len(set(drawn)) == len(drawn) == min(count, row.sum().item())
            assert row[drawn].all() and r[: len(drawn)].all()  # the real ones stand first


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_info_nce_is_the_oracles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    classes, m, n, tau = 1 + seed, 3, 1 + 2 * seed, (0.05, 0.5, 1.0, 3.0)[seed]
    anchors, negatives = rng.normal(size=(classes, m, 4)), rng.normal(size=(classes, m, n, 4))
    positives = rng.normal(size=(classes, 4))
    use = [c != 1 for c in range(classes)]
    cos_p = torch.tensor([[oracle.cosine(a, p) for a in row] for row, p in zip(anchors, positives, strict=True)])
    cos_n = torch.tensor([[[oracle.cosine(anchors[c, i], v) for v in negatives[c, i]] for i in range(m)]
                          for c in range(classes)])  # fmt: skip
    found = contrast.info_nce(cos_p, cos_n, tau, torch.tensor(use))
    kept = [c for c in range(classes) if use[c]]
    expected = oracle.contrast(
        [list(anchors[c]) for c in kept], [positives[c] for c in kept], [[list(r) for r in negatives[c]] for c in kept],
        tau,
    )  # fmt: skip
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_info_nce_without_a_class() -> None:
    cosine = torch.zeros(2, 3, requires_grad=True)
    found = contrast.info_nce(cosine, torch.zeros(2, 3, 4), 0.5, torch.zeros(2, dtype=torch.bool))
    assert found.item() == 0 and found.requires_grad
    (gradient,) = torch.autograd.grad(found, cosine)
    assert not gradient.any()
