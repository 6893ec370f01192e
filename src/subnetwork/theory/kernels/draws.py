"""Compiled `subnetwork.deals`: who holds which coordinate in a round, for a chunk of seeds.

`deals.Perm` shuffles a deck and cuts it into hands. Here the deck is never made: after the swaps
t_{d-1}, ..., t_1 of Fisher-Yates, position p holds coordinate t_{d-1}...t_1(p), so the owner of
coordinate j is the worker of position t_1...t_{d-1}(j), which is what the swaps give when they are
applied to the workers of the positions in the opposite order. The words of a stream can be computed
in any order, and owners scanned in order give hands that are already sorted.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from subnetwork.theory.kernels.streams import (
    Ints,
    Short,
    State,
    bare,
    below,
    compiled,
    fold,
    inlined,
    mix,
    shuffle,
)

FULL, PERM, RAND_Q, BERNOULLI = 0, 1, 2, 3
U = np.uint64
ONE = U(1)


class Law(NamedTuple):
    """A deal in numbers."""

    kind: int  # FULL, PERM, RAND_Q or BERNOULLI
    number: int  # Rand-q: q. Bernoulli: round(p 2**32). Others: 0
    weights: Ints  # (n,), shares of Perm
    axis: int
    even: bool  # hands have the same sizes in every round


class Deck(NamedTuple):
    """Room for the draws of m seeds; flat, one seed after the other."""

    positions: Short  # (d,), the worker who gets what lies at a position of the deck
    swaps: NDArray[np.uint32]  # (d,), from the start of a cache line
    own: Short  # (m d,), the worker who holds a coordinate
    hands: Short  # (m d,), the coordinates of a worker, ascending
    ends: Ints  # (m (n + 1),), hand i is hands[ends[i]:ends[i + 1]]; of one seed if Law.even
    at: State  # (n,), where the next coordinate of a hand goes


@compiled
def draw_slowly(start: np.uint64, d: int, swaps: NDArray[np.uint32]) -> None:
    """As `draw_swaps`, one by one: a word may be rejected and drawn again."""
    state = np.empty(1, dtype=np.uint64)
    state[0] = start
    for i in range(d - 1, 0, -1):
        swaps[i - 1] = np.uint32(below(state, i + 1))


@inlined
def draw_swaps(start: np.uint64, d: int, swaps: NDArray[np.uint32]) -> None:
    """Fill swaps[i - 1], the partner j <= i of i > 0, in the shuffle of the stream at `start`."""
    refused = U(0)
    for w in range(d - 1):  # word number d - i of the stream, as if never rejected
        m = U(w + 2)
        product = (mix(start + U(d - 1 - w) * U(0x9E3779B97F4A7C15)) >> U(32)) * m
        refused |= U(product & U(0xFFFFFFFF) < m)
        swaps[w] = np.uint32(product >> U(32))
    if refused:  # d^2 / 2**33 of all draws
        draw_slowly(start, d, swaps)


@inlined
def owners(start: np.uint64, deck: Deck, zero: np.uint64) -> None:
    """own[zero + j] = positions[p] where a shuffled deck holds coordinate j at position p."""
    positions, swaps, own = deck.positions, deck.swaps, deck.own
    draw_swaps(start, len(positions), swaps)
    own[zero] = positions[0]
    for i in range(1, len(positions)):
        j = zero + U(swaps[i - 1])
        own[zero + U(i)] = own[j]
        own[j] = positions[i]


@compiled
def perm_ends(ends: Ints, size: int, weights: Ints, state: State) -> None:
    """Where hands end in the deck of `deals.Perm`: ends[0] = 0, ..., ends[n] = size."""
    n, total, dealt = len(weights), np.int64(0), np.int64(0)
    for weight in weights:
        total += weight
    ends[0] = 0
    for i in range(n):
        ends[i + 1] = size * weights[i] // total
        dealt += ends[i + 1]
    if dealt != size:
        order = np.empty(n, dtype=np.int64)
        for i in range(n):
            order[i] = i
        shuffle(order, state)
        line = below(state, total)
        for worker in order:
            line += size * weights[worker] % total
            ends[worker + 1] += line // total
            line %= total
    for i in range(n):
        ends[i + 1] += ends[i]


@compiled
def cut(start: np.uint64, law: Law, deck: Deck, ends: Ints) -> np.uint64:
    """Fill the sizes of one draw of Perm into `ends` and positions; where the stream goes on."""
    state = np.empty(1, dtype=np.uint64)
    state[0] = start
    perm_ends(ends, len(deck.positions), law.weights, state)
    for i in range(len(law.weights)):
        for p in range(ends[i], ends[i + 1]):
            deck.positions[p] = i
    return np.uint64(state[0])


@bare
def deal_owners(seeds: State, k: int, law: Law, deck: Deck) -> None:
    """Round k of Perm for every seed: fills own and ends.

    Args:
        seeds: `key` of every seed alone.
        k: the round.
        law: a Perm. If it is even, positions and ends are set already: see `cut`.
        deck: where to.
    """
    d, n = len(deck.positions), len(law.weights)
    for s in range(len(seeds)):
        start = fold(fold(seeds[s], U(k)), U(law.axis))
        if not law.even:
            start = cut(start, law, deck, deck.ends[s * (n + 1) : (s + 1) * (n + 1)])
        owners(start, deck, U(s) * U(d))


@bare
def sort_hands(m: int, law: Law, deck: Deck) -> None:
    """Fill the hands of m seeds from own and ends."""
    own, hands, ends, at = deck.own, deck.hands, deck.ends, deck.at
    d, n = len(deck.positions), len(law.weights)
    for s in range(m):
        zero = U(s) * U(d)
        first = U(0) if law.even else U(s) * U(n + 1)
        for i in range(n):
            at[i] = zero + U(ends[first + U(i)])
        for j in range(d):
            worker = own[zero + U(j)]
            hands[at[worker]] = j
            at[worker] += ONE


@bare
def deal_alone(seeds: State, k: int, worker: int, law: Law, deck: Deck) -> None:
    """Round k of a deal without partners, one worker, every seed: hands from 0 to ends[2 s + 1].

    The worker draws from a stream of its own, so nobody else's hand is needed.
    """
    own, hands, d = deck.own, deck.hands, len(deck.positions)
    for s in range(len(seeds)):
        zero = U(s) * U(d)
        start = fold(fold(fold(seeds[s], U(k)), U(law.axis)), U(worker))
        if law.kind == RAND_Q:
            owners(start, deck, zero)
        for j in range(d):
            if law.kind == FULL:
                own[zero + U(j)] = 0
            elif law.kind == BERNOULLI:
                word = mix(start + U(j + 1) * U(0x9E3779B97F4A7C15)) >> U(32)
                own[zero + U(j)] = word >= U(law.number)
        count = zero
        for j in range(d):
            hands[count] = j
            count += U(own[zero + U(j)] == 0)
        deck.ends[2 * s], deck.ends[2 * s + 1] = 0, count - zero
