"""fewmask.nets.bank: the ring buffers against plain lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fewmask.nets.bank import ClassBanks
from oracles.u2pl import Fifo


def filled(classes: int, length: int, dim: int) -> ClassBanks:
    """Return banks whose unused places hold marks, so that a write to them would show."""
    bank = ClassBanks(classes, length, dim)
    bank.features.copy_(-1.0 - torch.arange(classes * length * dim).view(classes, length, dim))
    return bank


def contents(bank: ClassBanks, c: int) -> list[list[float]]:
    """Return a class's features from the newest to the oldest."""
    held = int(bank.held[c])
    ages = torch.arange(max(1, held)).expand(len(bank.held), -1)
    return bank.newest(ages)[c, :held].tolist()


@pytest.mark.parametrize("first", [False, True], ids=["anywhere", "real first"])
@pytest.mark.parametrize("seed", range(8))
def test_fifo(seed: int, first: bool) -> None:
    """Forty pushes of up to L features of which some are real: none, all, several rounds; what stays is untouched."""
    rng = np.random.default_rng(seed)
    classes, length, dim = int(rng.integers(1, 5)), int(rng.integers(1, 9)), int(rng.integers(1, 4))
    bank, fifo = filled(classes, length, dim), Fifo(classes, length)
    total = np.zeros(classes, dtype=int)
    for turn in range(40):
        many = int(rng.integers(1, length + 1))
        features = rng.normal(size=(classes, many, dim)).astype(np.float32)
        real = rng.random((classes, many)) < (0.0, 0.3, 0.7, 1.0)[turn % 4]
        if first:  # as U2PL hands them over
            real = np.sort(real, axis=1)[:, ::-1].copy()
        before, bits = bank.features.clone(), bank.features.clone()
        bank.push(torch.from_numpy(features), torch.from_numpy(real))
        for c in range(classes):
            for f in features[c][real[c]]:
                fifo.push(c, f.tolist())
                bits[c, total[c] % length] = torch.from_numpy(f)
                total[c] += 1
            assert contents(bank, c) == fifo.queues[c][::-1]
        assert torch.equal(bank.features, bits) and bank.pushed.tolist() == total.tolist()
        if not real.any():
            assert torch.equal(before, bank.features)


@pytest.mark.parametrize("seed", range(6))
def test_fifo_of_more_than_fit(seed: int) -> None:
    """A push of more features than L, real ones anywhere among them: the last L real ones stay."""
    rng = np.random.default_rng(seed)
    bank, fifo = filled(3, 4, 2), Fifo(3, 4)
    for turn in range(12):
        many = int(rng.integers(5, 15))
        features = rng.normal(size=(3, many, 2)).astype(np.float32)
        real = rng.random((3, many)) < (0.2, 0.5, 1.0)[turn % 3]
        bank.push(torch.from_numpy(features), torch.from_numpy(real))
        for c in range(3):
            for f in features[c][real[c]]:
                fifo.push(c, f.tolist())
            assert contents(bank, c) == fifo.queues[c][::-1]


def test_few_real_ones_at_the_head_of_a_long_push() -> None:
    """As U2PL pushes, real ones first: two of eight, into a bank of four."""
    bank = ClassBanks(1, 4, 1)
    bank.push(torch.arange(8.0).view(1, 8, 1), torch.arange(8).view(1, 8) < 2)
    assert bank.held.tolist() == [2] and contents(bank, 0) == [[1.0], [0.0]]


def test_pushes_of_all_ranks_in_their_order() -> None:
    """Two ranks' features behind each other, [K, 2·P, D], with gaps where a rank had fewer."""
    bank = ClassBanks(2, 7, 1)
    real = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 0, 1, 0, 0]]).bool()
    bank.push(torch.arange(12.0).view(2, 6, 1), real)
    assert contents(bank, 0) == [[4.0], [3.0], [0.0]] and contents(bank, 1) == [[9.0]]


def test_state_is_checkpointed_and_no_gradient_enters() -> None:
    bank = ClassBanks(2, 3, 2)
    bank.push(torch.ones(2, 2, 2, requires_grad=True) * 2, torch.ones(2, 2, dtype=torch.bool))
    assert not bank.features.requires_grad
    other = ClassBanks(2, 3, 2)
    other.load_state_dict(bank.state_dict())
    assert set(bank.state_dict()) == {"features", "pushed"}
    assert other.held.tolist() == [2, 2] and torch.equal(other.features, bank.features)


def test_features_of_another_dtype() -> None:
    bank = ClassBanks(1, 2, 1)
    bank.push(torch.full((1, 1, 1), 0.5, dtype=torch.bfloat16), torch.ones(1, 1, dtype=torch.bool))
    assert bank.features.dtype == torch.float32 and contents(bank, 0) == [[0.5]]


class Touched(TorchDispatchMode):
    """Counts operations and the numbers they return; views return none of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append(str(func))
        written = isinstance(out, torch.Tensor) and not func.is_view and "index_put" not in str(func)
        self.numbers += out.numel() if written else 0
        return out


def test_a_step_touches_what_it_pushes_and_draws_and_nothing_that_grows_with_the_bank() -> None:
    new, real = torch.randn(3, 8, 4), torch.ones(3, 8, dtype=torch.bool)
    counts = set()
    for length in (16, 1_000, 50_000):
        bank = ClassBanks(3, length, 4)
        bank.push(new, real)
        with Touched() as touched:
            bank.newest(torch.randint(0, 8, (3, 20)))
            bank.products(torch.randint(0, 8, (3, 2, 10)), torch.randn(3, 2, 4))
            bank.push(new, real)
        counts.add((tuple(touched.operations), touched.numbers))
        assert touched.numbers < 3 * 16 * 4 * 20
    assert len(counts) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_features(dtype: torch.dtype) -> None:
    """Class by class, and all at once as on other devices: the same to the last bit, values and gradients."""
    bank, generator = ClassBanks(3, 40, 16), torch.Generator().manual_seed(0)
    for _ in range(3):
        bank.push(torch.randn(3, 20, 16, generator=generator), torch.rand(3, 20, generator=generator) < 0.8)
    age = torch.randint(0, 40, (3, 4, 5), generator=generator)
    one, other = (torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        ours = bank.products(age, one)
        expected = (bank.newest(age.flatten(1)).unflatten(1, (4, 5)) @ other.unsqueeze(-1)).squeeze(-1)
    assert ours.shape == (3, 4, 5) and torch.equal(ours, expected)
    for out in (ours, expected):
        out.float().square().sum().backward()
    assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)
