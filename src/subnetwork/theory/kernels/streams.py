"""Compiled `subnetwork.keys`."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., object])
Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Short = NDArray[
    np.uint16
]  # workers and coordinates: small, so that a chunk of seeds stays in cache
State = NDArray[np.uint64]  # one word: where a stream stands


def compiled(function: F, *, inline: bool = False, nrt: bool = True) -> F:
    """Compile to machine code, kept on disk where a folder for it can be written.

    a * b + c becomes one instruction ("contract"); nothing else is reordered, so all sums run in
    the order written. Never add two products where seeds are lanes of a vector: the compiler may
    pick either for the one instruction, and another one for the lanes left over.
    """
    quick = partial(
        njit,
        nogil=True,
        fastmath={"contract"},
        error_model="numpy",
        forceinline=inline,
        _nrt=nrt,
    )
    try:
        return cast(F, quick(cache=True)(function))
    except RuntimeError:  # "cannot cache function": neither NUMBA_CACHE_DIR nor any other folder
        return cast(F, quick()(function))


def bare(function: F) -> F:
    """`compiled` for functions that make no arrays: references to arrays are not counted."""
    return compiled(function, nrt=False)


def inlined(function: F) -> F:
    """`compiled` into its callers: a call hands over seven words for every array."""
    return compiled(function, inline=True, nrt=False)


@inlined
def mix(z: np.uint64) -> np.uint64:
    """`keys.mix` on uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inlined
def fold(folded: np.uint64, step: np.uint64) -> np.uint64:
    """One step of `keys.key`: the key of a path that is longer by `step`."""
    return mix(folded + np.uint64(0x9E3779B97F4A7C15) + mix(step))


@compiled
def key(path: State) -> np.uint64:
    """`keys.key` of an array of uint64."""
    folded = np.uint64(0)
    for step in path:
        folded = fold(folded, step)
    return folded


@compiled
def word(state: State) -> np.uint64:
    """The next 32-bit word of a stream, as `keys.words`."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return mix(state[0]) >> np.uint64(32)


@compiled
def below(state: State, m: int | np.int64) -> np.int64:
    """`keys.below`: uniform in [0, m), with the same rejections."""
    m64 = np.uint64(m)
    product = word(state) * m64
    if product & np.uint64(0xFFFFFFFF) < m64:
        threshold = np.uint64(0x100000000) % m64
        while product & np.uint64(0xFFFFFFFF) < threshold:
            product = word(state) * m64
    return np.int64(product >> np.uint64(32))


@compiled
def shuffle(items: Ints, state: State) -> None:
    """`keys.shuffled` in place; `items` comes in as 0, 1, 2, ..."""
    for i in range(len(items) - 1, 0, -1):
        j = below(state, i + 1)
        items[i], items[j] = items[j], items[i]
