"""Random streams keyed by integers: the same numbers on every rank, machine and Python.

A key is folded from (seed, round, axis, ...) by splitmix64 (Steele, Lea & Flood 2014); a stream
walks on from its key. There is no state to carry, so any round can be drawn alone. Integer
arithmetic only; `subnetwork.theory.kernels` holds the compiled twins.
"""

from collections.abc import Iterator
from operator import index

_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1
_GOLDEN = 0x9E3779B97F4A7C15

PARTITION, DATA, INIT, NOISE = 1, 2, 3, 4  # the streams that one --seed is split into


def mix(z: int) -> int:
    """The finaliser of splitmix64: a bijection of the 64-bit integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


def key(*path: int) -> int:
    """A 64-bit key for a path of integers such as (seed, round, axis); order matters.

    Integers count modulo 2**64.
    """
    folded = 0
    for step in path:
        folded = mix((folded + _GOLDEN + mix(index(step) & _MASK64)) & _MASK64)
    return folded


def words(start: int) -> Iterator[int]:
    """The endless stream of 32-bit words that a key starts."""
    state = start
    while True:
        state = (state + _GOLDEN) & _MASK64
        yield mix(state) >> 32


def below(stream: Iterator[int], m: int) -> int:
    """A uniform integer in [0, m), 0 < m <= 2**32, without bias (Lemire 2019)."""
    product = next(stream) * m
    if product & _MASK32 < m:
        threshold = (1 << 32) % m
        while product & _MASK32 < threshold:
            product = next(stream) * m
    return product >> 32


def shuffled(size: int, stream: Iterator[int]) -> list[int]:
    """A uniform permutation of range(size) (Fisher-Yates)."""
    items = list(range(size))
    for i in range(size - 1, 0, -1):
        j = below(stream, i + 1)
        items[i], items[j] = items[j], items[i]
    return items
