"""A keyed permutation of 0..n-1: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.

A balanced Feistel network on the smallest even number of bits (at least 6) that holds n, walked until it lands below n.
Its round function is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""


def splitmix64(state: int) -> int:
    """Return the output of SplitMix64 for one state (before its increment)."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z // 2**30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z // 2**27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z // 2**31)


def permuted(i: int, n: int, keys: list[int]) -> int:
    """Return where i goes."""
    half = 3
    while 4**half < n:
        half += 1
    while True:
        left, right = divmod(i, 2**half)
        for key in keys:
            left, right = right, left ^ (splitmix64(right ^ key) % 2**half)
        i = left * 2**half + right
        if i < n:
            return i
