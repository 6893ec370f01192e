"""Compiled twins of `subnetwork.keys`, `subnetwork.deals` and `rounds` on quadratics.

The same integers as the plain Python they stand beside, and, for `simulate`, the same iterates;
tests hold them together. `subnetwork.theory.simulation` is the checked way to call them.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

F = TypeVar("F", bound=Callable[..., object])
Array = NDArray[np.float64]
Ints = NDArray[np.int64]
State = NDArray[np.uint64]  # one word: where a stream stands

UPDATE, MERGE, HOLDERS = 0, 1, 2  # eq. (2), eq. (4), as networks are merged


def compiled(function: F) -> F:
    """Compile to machine code, kept on disk where a folder for it can be written."""
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # "cannot cache function": neither NUMBA_CACHE_DIR nor any other folder
        return cast(F, njit(nogil=True)(function))


class Setup(NamedTuple):
    """What `simulate` runs: Algorithm 1 with Perm on a quadratic problem."""

    L: Array  # (n, d, d)
    b: Array  # (n, d)
    scales: Array  # (n, d), [C_i]_jj where held
    weights: Ints  # (n,), shares of the deal
    x0: Array  # (d,)
    x_star: Array  # (d,), the origin of the measures
    measures: Array  # (m, d, d), matrices A of the reported e' A e
    step_size: float
    n_steps: int
    form: int  # UPDATE, MERGE or HOLDERS


@compiled
def mix(z: np.uint64) -> np.uint64:
    """`keys.mix` on uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def key(path: State) -> np.uint64:
    """`keys.key` of an array of uint64."""
    folded = np.uint64(0)
    for step in path:
        folded = mix(folded + np.uint64(0x9E3779B97F4A7C15) + mix(step))
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


@compiled
def perm_ends(ends: Ints, size: int, weights: Ints, state: State) -> None:
    """Where hands end in the deck of `deals.Perm`: ends[0] = 0, ..., ends[n] = size."""
    n, total = len(weights), weights.sum()
    ends[0] = 0
    ends[1:] = size * weights // total
    if ends[1:].sum() != size:
        order = np.arange(n)
        shuffle(order, state)
        line = below(state, total)
        for i in order:
            line += size * weights[i] % total
            ends[i + 1] += line // total
            line %= total
    for worker in range(n):
        ends[worker + 1] += ends[worker]


@compiled
def perm_hands(deck: Ints, ends: Ints, weights: Ints, stream: np.uint64) -> None:
    """One draw of `deals.Perm`, unsorted: hand i is deck[ends[i]:ends[i + 1]]."""
    state = np.array([stream], dtype=np.uint64)
    perm_ends(ends, len(deck), weights, state)
    for j in range(len(deck)):
        deck[j] = j
    shuffle(deck, state)


@compiled
def bernoulli_hand(size: int, threshold: int, stream: np.uint64) -> Ints:
    """One worker's hand of `deals.Bernoulli`, ascending; threshold = round(p 2**32)."""
    state = np.array([stream], dtype=np.uint64)
    kept = np.empty(size, dtype=np.int64)
    count = 0
    for j in range(size):
        if word(state) < np.uint64(threshold):
            kept[count] = j
            count += 1
    return kept[:count]


@compiled
def rand_q_hand(size: int, q: int, stream: np.uint64) -> Ints:
    """One worker's hand of `deals.RandQ`, ascending."""
    items = np.arange(size)
    shuffle(items, np.array([stream], dtype=np.uint64))
    return np.sort(items[:q])


@compiled
def train(hand: Ints, w: Array, z: Array, grad: Array, worker: int, setup: Setup) -> None:
    """Lines 5-6 on the held coordinates alone: z = the local steps from w, in q x q work."""
    L, b, s = setup.L[worker], setup.b[worker], setup.scales[worker]
    z[: len(hand)] = w[: len(hand)]
    for _ in range(setup.n_steps):
        for u in range(len(hand)):
            row = L[hand[u]]
            total = -b[hand[u]]
            for v in range(len(hand)):
                total += row[hand[v]] * z[v]
            grad[u] = total
        for u in range(len(hand)):
            z[u] -= setup.step_size * s[hand[u]] * grad[u]


@compiled
def merge(hand: Ints, w: Array, z: Array, x: Array, setup: Setup) -> None:
    """Line 9 on the held coordinates, which nobody else holds."""
    n = len(setup.weights)
    for u in range(len(hand)):
        j = hand[u]
        if setup.form == UPDATE:
            x[j] += (z[u] - w[u]) / n
        elif setup.form == MERGE:
            x[j] = z[u] / n
        else:
            x[j] = z[u]


@compiled
def measure(x: Array, setup: Setup, out: Array) -> None:
    """Fill `out` with e' A e for every A in the measures, e = x - x*."""
    e = x - setup.x_star
    for a in range(len(setup.measures)):
        total = 0.0
        for j in range(len(e)):
            row = setup.measures[a, j]
            inner = 0.0
            for m in range(len(e)):
                inner += row[m] * e[m]
            total += e[j] * inner
        out[a] = total


@compiled
def simulate(setup: Setup, seeds: State, out: Array) -> None:
    """Run Algorithm 1 once for every seed; out[s, k, a] = e' A_a e at x^k, k = 0..K."""
    n, d = setup.b.shape
    deck, ends = np.empty(d, dtype=np.int64), np.empty(n + 1, dtype=np.int64)
    w, z, grad = np.empty(d), np.empty(d), np.empty(d)
    path = np.zeros(3, dtype=np.uint64)  # (seed, k, axis 0)
    for run in range(len(seeds)):
        x = setup.x0.copy()
        measure(x, setup, out[run, 0])
        for k in range(out.shape[1] - 1):
            path[0], path[1] = seeds[run], np.uint64(k)
            perm_hands(deck, ends, setup.weights, key(path))
            for i in range(n):
                hand = deck[ends[i] : ends[i + 1]]
                for u in range(len(hand)):
                    w[u] = setup.scales[i, hand[u]] * x[hand[u]]
                train(hand, w, z, grad, i, setup)
                merge(hand, w, z, x, setup)
            measure(x, setup, out[run, k + 1])
