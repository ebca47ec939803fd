"""Philox-4x64 with plain Python integers, written from the paper.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3 and its constants.
"""

M0, M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157  # multipliers
W0, W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B  # Weyl increments of the key: golden ratio, sqrt(3) - 1
WORD = 2**64


def philox4x64(counter: tuple[int, int, int, int], key: tuple[int, int], rounds: int = 10) -> list[int]:
    """Return the block of four words at `counter`."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = divmod(M0 * c0, WORD)
        high1, low1 = divmod(M1 * c2, WORD)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + W0) % WORD, (k1 + W1) % WORD
    return [c0, c1, c2, c3]


def words(n: int, seed: int, purpose: int, step: int = 0, slot: int = 0, view: int = 0) -> list[int]:
    """Return n words of key (seed, purpose), counter (1, view, slot, step), (2, view, slot, step), ..."""
    out: list[int] = []
    block = 0
    while len(out) < n:
        block += 1
        out += philox4x64((block, view, slot, step), (seed, purpose))
    return out[:n]


def uniform(word: int) -> float:
    """Return the multiple of 2^-53 in [0, 1) that the upper 53 bits of a word stand for."""
    return (word // 2**11) / 2**53
