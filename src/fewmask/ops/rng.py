"""Randomness without state: every draw is a function of (seed, purpose, step, slot, view).

One counter-based generator, Philox-4x64 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), read
as raw 64-bit words. The key is ``(seed, purpose)``, the counter ``(draw, view, slot, step)``, so no stream can run into
its neighbour, nothing has to be replayed on resume, and the number of workers or ranks cannot change a draw.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_MASK64 = (1 << 64) - 1
_ROUNDS = 8  # Feistel rounds; 4 suffice for a random round function, the rest is margin for small domains


class Purpose(IntEnum):
    """What a draw is for. Values are part of the reproducibility promise: append, never renumber."""

    PERMUTATION = 1
    GEOMETRY = 2
    PHOTOMETRY = 3
    MIX = 4
    DROPOUT = 5
    BANK = 6
    SELECTION = 7
    INIT = 8
    DIVISION = 9
    SCENE = 10


class Draws:
    """A short sequence of random numbers for one (seed, purpose, step, slot, view).

    Args:
        seed: the run's seed, any non-negative integer below 2**64.
        purpose: what the numbers are for.
        step: global step (or epoch, or item number where there is no step).
        slot: position in the global batch.
        view: which view of the item; streams that need separate draws use separate views.
    """

    def __init__(self, seed: int, purpose: Purpose, step: int = 0, slot: int = 0, view: int = 0) -> None:
        # uint64 arrays: lists of large Python integers would pass through float64
        key, counter = np.array([seed, purpose], np.uint64), np.array([0, view, slot, step], np.uint64)
        self._bits = np.random.Philox(key=key, counter=counter)

    def words(self, n: int) -> np.ndarray:
        """Return ``n`` raw words, uint64."""
        return self._bits.random_raw(n)

    def uniforms(self, n: int) -> np.ndarray:
        """Return ``n`` float64 numbers, uniform on [0, 1)."""
        return (self.words(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return one float, uniform on [low, high)."""
        return low + (high - low) * float(self.uniforms(1)[0])

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self.uniform() < probability

    def integer(self, low: int, high: int) -> int:
        """Return one integer, uniform on low..high-1 (bias below (high-low)/2**53)."""
        return min(low + int((high - low) * self.uniform()), high - 1)

    def shuffled(self, n: int) -> list[int]:
        """Return a random order of 0..n-1; for short lists only (it sorts n keys)."""
        return np.argsort(self.words(n), kind="stable").tolist()


def torch_seed(seed: int, purpose: Purpose, step: int = 0, slot: int = 0, view: int = 0) -> int:
    """Return a 63-bit seed for ``torch.manual_seed`` or a ``torch.Generator``."""
    return int(Draws(seed, purpose, step, slot, view).words(1)[0]) >> 1


def _mix64(x: int) -> int:
    """Scramble one 64-bit word (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


class Permutation:
    """A keyed permutation of 0..n-1 that stores no list: a Feistel network with cycle walking.

    Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002. Memory and time do not depend on ``n``.

    Args:
        n: size of the set, at least 1.
        seed: the run's seed.
        stream: which stream is permuted (streams must not share an order).
        epoch: which pass over the set.
    """

    def __init__(self, n: int, seed: int, stream: int = 0, epoch: int = 0) -> None:
        if n < 1:
            raise ValueError(f"a permutation needs at least one element, got n={n}")
        self.n = n
        # at least 3 bits a half: with fewer, a Feistel network reaches only few permutations
        self._half = max(3, ((n - 1).bit_length() + 1) // 2)
        self._low = (1 << self._half) - 1
        keys = Draws(seed, Purpose.PERMUTATION, step=epoch, view=stream).words(_ROUNDS)
        self._keys = [int(k) for k in keys]

    def __getitem__(self, i: int) -> int:
        """Return where position ``i`` of this epoch points to."""
        if not 0 <= i < self.n:
            raise IndexError(f"position {i} outside 0..{self.n - 1}")
        while True:  # cycle walking: at most 4 expected turns for n > 16, since the domain is below 4 n
            left, right = i >> self._half, i & self._low
            for key in self._keys:
                left, right = right, left ^ (_mix64(right ^ key) & self._low)
            i = (left << self._half) | right
            if i < self.n:
                return i


def order(n: int, position: int, seed: int, stream: int = 0) -> int:
    """Return which of ``n`` items stands at ``position`` of an endless stream, reshuffled every ``n`` positions."""
    epoch, i = divmod(position, n)
    return Permutation(n, seed, stream, epoch)[i]
