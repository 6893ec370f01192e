"""Random streams keyed by integers: the same numbers on every rank, machine and Python.

A key is folded from (seed, round, axis, ...) by splitmix64 (Steele, Lea & Flood 2014); a stream
walks on from its key. There is no state to carry, so any round can be drawn alone. Integer
arithmetic only; `subnetwork.theory.kernels` holds the compiled twins.
"""

from collections.abc import Iterable, Iterator
from operator import index

import numpy as np
from numpy.typing import NDArray

_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_AT_ONCE = 1 << 14  # words of a stream

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


class Words(Iterator[int]):
    """The endless stream of 32-bit words that a key starts: word t is mix(start + t golden)."""

    def __init__(self, start: int) -> None:
        self._state = start & _MASK64

    def __next__(self) -> int:
        self._state = (self._state + _GOLDEN) & _MASK64
        return mix(self._state) >> 32

    def ahead(self, n: int) -> NDArray[np.uint64]:
        """The next n words, which are still to come afterwards."""
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(self._state)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (z ^ (z >> np.uint64(31))) >> np.uint64(32)

    def skip(self, n: int) -> None:
        """Leave the next n words out."""
        self._state = (self._state + n * _GOLDEN) & _MASK64


def words(start: int) -> Words:
    """The endless stream of 32-bit words that a key starts."""
    return Words(start)


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
    if isinstance(stream, Words):
        places: Iterable[int] = _places(size, stream)
    else:
        places = (below(stream, m) for m in range(size, 1, -1))
    for i, j in zip(range(size - 1, 0, -1), places, strict=True):
        items[i], items[j] = items[j], items[i]
    return items


def _places(size: int, stream: Words) -> list[int]:
    """below(size), below(size - 1), ..., below(2), as many at once as need no second word."""
    places: list[int] = []
    m = size
    while m > 1:
        bounds = np.arange(m, max(1, m - _AT_ONCE), -1, dtype=np.uint64)
        products = stream.ahead(len(bounds)) * bounds
        doubtful = np.flatnonzero((products & np.uint64(_MASK32)) < bounds)
        sure = int(doubtful[0]) if len(doubtful) else len(bounds)
        places += (products[:sure] >> np.uint64(32)).tolist()
        stream.skip(sure)
        m -= sure
        if len(doubtful):
            places.append(below(stream, m))
            m -= 1
    return places
