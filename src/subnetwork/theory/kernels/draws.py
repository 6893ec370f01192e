"""Compiled `subnetwork.deals`: who holds which coordinate in a round, for a chunk of seeds.

`deals.Perm` shuffles a deck and cuts it into hands. Here the deck is never made: after the swaps
t_{d-1}, ..., t_1 of Fisher-Yates, position p holds coordinate t_{d-1}...t_1(p), so the owner of
coordinate j is the worker of position t_1...t_{d-1}(j), which is what the swaps give when they are
applied to the workers of the positions in the opposite order. The words of a stream can be computed
in any order, and owners scanned in order give hands that are already sorted.
"""

from typing import NamedTuple

import numpy as np

from subnetwork.theory.kernels.streams import (
    Ints,
    Short,
    State,
    below,
    compiled,
    fold,
    mix,
    shuffle,
)

FULL, PERM, RAND_Q, BERNOULLI = 0, 1, 2, 3
Swaps = np.ndarray[tuple[int], np.dtype[np.uint32]]


class Law(NamedTuple):
    """A deal in numbers."""

    kind: int  # FULL, PERM, RAND_Q or BERNOULLI
    number: int  # Rand-q: q. Bernoulli: round(p 2**32). Others: 0
    weights: Ints  # (n,), shares of Perm
    axis: int
    even: bool  # Perm: hands have the same sizes in every round


@compiled
def draw_swaps(start: np.uint64, swaps: Swaps) -> None:
    """Partner j <= i of every i > 0 in the shuffle whose stream stands at `start`."""
    d = len(swaps)
    refused = np.uint64(0)
    for i in range(1, d):  # vectorised: word number d - i of the stream, as if never rejected
        m = np.uint64(i + 1)
        product = (
            mix(start + np.uint64(d - i) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
        ) * m
        refused |= np.uint64(product & np.uint64(0xFFFFFFFF) < m)
        swaps[i] = np.uint32(product >> np.uint64(32))
    if refused:  # d^2 / 2**33 of all draws: one by one, where a word may be drawn again
        state = np.array([start], dtype=np.uint64)
        for i in range(d - 1, 0, -1):
            swaps[i] = np.uint32(below(state, i + 1))


@compiled
def owners(start: np.uint64, positions: Short, swaps: Swaps, own: Short) -> None:
    """own[j] = positions[p] where a shuffled deck holds coordinate j at position p."""
    draw_swaps(start, swaps)
    own[0] = positions[0]
    for i in range(1, len(own)):
        j = swaps[i]
        own[i] = own[j]
        own[j] = positions[i]


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
def perm_owners(start: np.uint64, law: Law, ends: Ints, positions: Short, own: Short) -> None:
    """The worker of every coordinate in one draw of `deals.Perm`; fills `ends` on the way."""
    state = np.array([start], dtype=np.uint64)
    perm_ends(ends, len(own), law.weights, state)
    for i in range(len(law.weights)):
        for p in range(ends[i], ends[i + 1]):
            positions[p] = i
    owners(state[0], positions, np.empty(len(own), dtype=np.uint32), own)


@compiled
def deal_owners(seeds: State, k: int, law: Law, ends: Ints, own: Short) -> None:
    """Round k of Perm for every seed: own[s, j] holds j, and ends[s] bounds the sorted hands.

    Args:
        seeds: `key` of every seed alone.
        k: the round.
        law: a Perm.
        ends: (m, n + 1), filled.
        own: (m, d), filled.
    """
    m, d = own.shape
    positions, swaps = np.empty(d, dtype=np.uint16), np.empty(d, dtype=np.uint32)
    for s in range(m):
        start = fold(fold(seeds[s], np.uint64(k)), np.uint64(law.axis))
        if s == 0 or not law.even:
            perm_owners(start, law, ends[s], positions, own[s])
        else:
            ends[s] = ends[0]
            owners(start, positions, swaps, own[s])


@compiled
def sort_hands(own: Short, ends: Ints, hands: Short) -> None:
    """hands[s, ends[s, i]:ends[s, i + 1]] = what worker i holds, ascending."""
    m, d = own.shape
    at = np.empty(ends.shape[1] - 1, dtype=np.uint64)
    for s in range(m):
        for i in range(len(at)):
            at[i] = np.uint64(ends[s, i])
        for j in range(d):
            worker = own[s, j]
            hands[s, at[worker]] = j
            at[worker] += np.uint64(1)


@compiled
def deal_alone(seeds: State, k: int, worker: int, law: Law, ends: Ints, hands: Short) -> None:
    """Round k of a deal without partners, one worker, every seed: hands[s, :ends[s, 1]].

    The worker draws from a stream of its own, so nobody else's hand is needed.
    """
    m, d = hands.shape
    own, positions = np.zeros(d, dtype=np.uint16), np.ones(d, dtype=np.uint16)
    swaps = np.empty(d, dtype=np.uint32)
    positions[: law.number] = 0
    for s in range(m):
        start = fold(fold(seeds[s], np.uint64(k)), np.uint64(law.axis))
        start = fold(start, np.uint64(worker))
        if law.kind == RAND_Q:
            owners(start, positions, swaps, own)
        elif law.kind == BERNOULLI:
            for j in range(d):
                at = start + np.uint64(j + 1) * np.uint64(0x9E3779B97F4A7C15)
                own[j] = mix(at) >> np.uint64(32) >= np.uint64(law.number)
        count = np.uint64(0)
        for j in range(d):
            hands[s, count] = j
            count += np.uint64(own[j] == 0)
        ends[s, 0], ends[s, 1] = 0, count
