"""fewmask.ops.rng against the published vectors of Philox and against the laws of its draws."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from fewmask.batch import Slots
from fewmask.method import Step
from fewmask.ops.rng import Draws, Permutation, Purpose, order, torch_seed
from oracles import feistel, philox

# Random123's tests/kat_vectors, lines "philox4x64 10": counter, key, block. The third is made of the digits of pi.
PUBLISHED = [
    (
        (0, 0, 0, 0),
        (0, 0),
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        (2**64 - 1,) * 4,
        (2**64 - 1,) * 2,
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]

# words 0-3 of Draws(0, PERMUTATION) and of Draws(1, MIX, step=2, slot=3, view=64)
GOLDEN_PERMUTATION = [0xD037F8C3F9A1D176, 0xC057419B4C210765, 0xABF13115117B0065, 0x7BAE035DEA6EA5C0]
GOLDEN_MIX = [0x6DA7ADE30151BC4C, 0xDF0105A60DC7E8B1, 0x120C0709B2B2D359, 0xB2A3A9F9C1BA46A9]

# Upper bounds of chi-square with that many degrees of freedom, exceeded with probability 1e-4 (tables)
CHI2 = {5: 25.74, 9: 33.72, 15: 44.26, 23: 56.0, 63: 112.0}


def chi2(counts: list[int]) -> float:
    """Return the chi-square statistic against equal shares."""
    mean = sum(counts) / len(counts)
    return math.fsum((c - mean) ** 2 / mean for c in counts)


@pytest.mark.parametrize(("counter", "key", "block"), PUBLISHED)
def test_oracle_gives_the_published_blocks(
    counter: tuple[int, int, int, int], key: tuple[int, int], block: list[int]
) -> None:
    assert philox.philox4x64(counter, key) == block


@pytest.mark.parametrize(("counter", "key", "block"), PUBLISHED)
def test_numpy_gives_the_published_blocks(
    counter: tuple[int, int, int, int], key: tuple[int, int], block: list[int]
) -> None:
    # NumPy counts before it draws: stand one below, in the 256-bit counter of which word 0 is the lowest
    below = (sum(c << (64 * i) for i, c in enumerate(counter)) - 1) % 2**256
    start = [(below >> (64 * i)) % 2**64 for i in range(4)]
    exact = {"key": np.array(key, dtype=np.uint64), "counter": np.array(start, dtype=np.uint64)}
    assert np.random.Philox(**exact).random_raw(4).tolist() == block


@pytest.mark.parametrize(
    ("seed", "purpose", "step", "slot", "view"),
    [
        (0, Purpose.PERMUTATION, 0, 0, 0),
        (1, Purpose.GEOMETRY, 2, 3, 4),
        (2**63 + 1, Purpose.MIX, 0, 0, 0),  # NumPy would take a list with this number through float64
        (2**64 - 1, Purpose.SCENE, 10**12, 2**40, 129),
    ],
)
def test_words_are_philox_of_key_and_counter(seed: int, purpose: Purpose, step: int, slot: int, view: int) -> None:
    draws = Draws(seed, purpose, step, slot, view)
    expected = philox.words(11, seed, purpose, step, slot, view)
    assert draws.words(5).tolist() + draws.words(6).tolist() == expected  # the position in a block carries over


def test_golden_words() -> None:
    """Words that may never change. Computed with tests/oracles/philox.py, which holds the published vectors."""
    assert Draws(0, Purpose.PERMUTATION).words(4).tolist() == GOLDEN_PERMUTATION
    assert Draws(1, Purpose.MIX, step=2, slot=3, view=64).words(4).tolist() == GOLDEN_MIX


def test_purposes_keep_their_numbers() -> None:
    assert {p.name: int(p) for p in Purpose} == {
        "PERMUTATION": 1,
        "GEOMETRY": 2,
        "PHOTOMETRY": 3,
        "MIX": 4,
        "DROPOUT": 5,
        "BANK": 6,
        "SELECTION": 7,
        "INIT": 8,
        "DIVISION": 9,
        "SCENE": 10,
    }


def test_every_coordinate_changes_the_words() -> None:
    keys = [
        (5, Purpose.MIX, 6, 7, 8),
        (6, Purpose.MIX, 6, 7, 8),
        (5, Purpose.BANK, 6, 7, 8),
        (5, Purpose.MIX, 7, 7, 8),
        (5, Purpose.MIX, 6, 8, 8),
        (5, Purpose.MIX, 6, 7, 9),
    ]
    # neighbours share no word at any offset: streams do not run into each other
    words = [w for key in keys for w in Draws(*key).words(200).tolist()]
    assert len(set(words)) == len(words) == 1200


def test_uniforms_are_the_upper_53_bits() -> None:
    expected = [philox.uniform(w) for w in philox.words(9, 3, Purpose.MIX, 4, 5, 6)]
    draws = Draws(3, Purpose.MIX, 4, 5, 6)
    assert draws.uniforms(9).tolist() == expected
    assert expected[0] != expected[1] and all(0 <= u < 1 for u in expected)


def test_uniforms_stay_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Draws(0, Purpose.MIX)
    monkeypatch.setattr(draws, "words", lambda n: np.full(n, 2**64 - 1, dtype=np.uint64))
    assert draws.uniforms(1)[0] == 1 - 2**-53
    assert draws.integer(0, 7) == 6
    assert draws.integer(-3, 2**31) == 2**31 - 1


def share(first: int, count: int) -> Step:
    """Return step 11 on a rank that holds `count` slots of a global batch of 12."""
    slots = {"u": Slots(first, count, key=2, size=12, items=100)}
    return Step(11, 100, 0, 1, seed=3, rank=0, slots=slots, reduce=lambda x: x)


def test_draws_of_a_batch_do_not_depend_on_its_division() -> None:
    whole = [d.uniforms(5).tolist() for d in share(0, 12).draws("u", Purpose.DROPOUT, view=1)]
    for ranks in (2, 3, 4, 12):
        each = 12 // ranks
        parts = [d for r in range(ranks) for d in share(r * each, each).draws("u", Purpose.DROPOUT, view=1)]
        assert [d.uniforms(5).tolist() for d in parts] == whole
    # view 1 of stream 2 is keyed as view 2·64 + 1
    keys = [(3, Purpose.DROPOUT, 11, slot, 129) for slot in range(12)]
    assert whole == [[philox.uniform(w) for w in philox.words(5, *key)] for key in keys]


def test_uniforms_are_uniform() -> None:
    u = np.concatenate([Draws(17, Purpose.GEOMETRY, 3, slot).uniforms(20) for slot in range(500)])
    assert u.min() >= 0 and u.max() < 1
    assert chi2(np.histogram(u, bins=16, range=(0, 1))[0].tolist()) < CHI2[15]
    pairs = np.floor(u * 8).astype(int)  # neighbouring draws of one slot are independent
    assert chi2(np.bincount(pairs[0::2] * 8 + pairs[1::2], minlength=64).tolist()) < CHI2[63]


def test_integer_uniform_chance_shuffled() -> None:
    draws = Draws(23, Purpose.SELECTION)
    whole = [draws.integer(-2, 8) for _ in range(5000)]
    assert set(whole) == set(range(-2, 8))
    assert chi2(list(Counter(whole).values())) < CHI2[9]
    values = [draws.uniform(-1.5, 2.5) for _ in range(4000)]
    assert min(values) >= -1.5 and max(values) < 2.5
    assert abs(sum(values) / 4000 - 0.5) < 4 * (4 / math.sqrt(12)) / math.sqrt(4000)
    assert not any(draws.chance(0.0) for _ in range(100)) and all(draws.chance(1.0) for _ in range(100))
    hits = sum(draws.chance(0.3) for _ in range(4000))
    assert abs(hits - 1200) < 4 * math.sqrt(4000 * 0.3 * 0.7)
    orders = Counter(tuple(draws.shuffled(3)) for _ in range(3000))
    assert set(orders) == set(itertools.permutations(range(3)))
    assert chi2(list(orders.values())) < CHI2[5]


def test_torch_seed_is_the_upper_63_bits_of_the_first_word() -> None:
    seed = torch_seed(9, Purpose.INIT, 1, 2, 3)
    assert seed == philox.words(1, 9, Purpose.INIT, 1, 2, 3)[0] // 2
    torch.Generator().manual_seed(seed)


def test_oracle_gives_the_published_splitmix64() -> None:
    # first two outputs for seed 0, as in the reference code and in java.util.SplittableRandom
    assert feistel.splitmix64(0) == 0xE220A8397B1DCDAF
    assert feistel.splitmix64(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 1000, 4096, 4097, 10**7])
def test_permutation_is_the_documented_one(n: int) -> None:
    """The order of the items is part of the reproducibility promise."""
    keys = philox.words(8, 6, Purpose.PERMUTATION, step=4, view=5)
    permutation = Permutation(n, seed=6, stream=5, epoch=4)
    for i in {0, n // 3, n // 2, n - 1}:
        assert permutation[i] == feistel.permuted(i, n, keys)


@pytest.mark.parametrize("n", [*range(1, 40), 63, 64, 65, 255, 256, 257, 1000])
def test_permutation_is_a_bijection(n: int) -> None:
    permutation = Permutation(n, seed=n)
    assert sorted(permutation[i] for i in range(n)) == list(range(n))


def test_permutation_refuses_what_it_does_not_hold() -> None:
    with pytest.raises(ValueError, match="n=0"):
        Permutation(0, seed=0)
    for i in (-1, 10):
        with pytest.raises(IndexError, match=f"position {i}"):
            Permutation(10, seed=0)[i]


@pytest.mark.parametrize(("n", "draws"), [(3, 900), (4, 1200)])
def test_permutations_of_a_small_set_are_equally_frequent(n: int, draws: int) -> None:
    seen: Counter[tuple[int, ...]] = Counter()
    for epoch in range(draws):
        permutation = Permutation(n, seed=1, epoch=epoch)
        seen[tuple(permutation[i] for i in range(n))] += 1
    assert len(seen) == math.factorial(n)
    assert chi2(list(seen.values())) < CHI2[math.factorial(n) - 1]


def test_positions_are_uniform() -> None:
    # item at position 0, and its successor given that item is 0: neither favours anyone
    first = [Permutation(64, seed=2, epoch=e)[0] for e in range(3200)]
    assert chi2(np.bincount(first, minlength=64).tolist()) < CHI2[63]


def test_orders_differ_by_epoch_stream_and_seed() -> None:
    def listed(**kw: int) -> list[int]:
        permutation = Permutation(50, **({"seed": 1, "stream": 2, "epoch": 3} | kw))
        return [permutation[i] for i in range(50)]

    base = listed()
    assert base == listed()
    others = [listed(seed=2), listed(stream=3), listed(epoch=4), listed(seed=2, epoch=2), list(range(50))]
    for a, b in itertools.combinations([base, *others], 2):
        # two independent orders agree in one place on average; P(more than 8) is about 1e-6
        assert sum(x == y for x, y in zip(a, b, strict=True)) <= 8


def test_order_is_one_permutation_an_epoch() -> None:
    n = 7
    stream = [order(n, p, seed=4, stream=1) for p in range(5 * n)]
    epochs = [stream[e * n : (e + 1) * n] for e in range(5)]
    assert all(sorted(e) == list(range(n)) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 5
    assert stream[2 * n + 3] == Permutation(n, seed=4, stream=1, epoch=2)[3]


def test_order_needs_neither_a_list_nor_a_replay() -> None:
    n, start = 10**7, 16 * 10**9  # step 10^9 of a batch of 16
    order(n, start, seed=0)  # imports and caches
    tracemalloc.start()
    began = time.perf_counter()
    batch = [order(n, start + i, seed=0) for i in range(100)]
    seconds = time.perf_counter() - began
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(set(batch)) == 100 and all(0 <= i < n for i in batch)
    assert peak < 100_000  # bytes; a list of n entries takes 80 million
    assert seconds < 5
