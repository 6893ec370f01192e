"""Rounds of Perm on tridiagonal quadratics: O(d) numbers a round, no d x d array anywhere.

A local step is z_j <- a z_j + c, plus what the neighbours add that the same worker holds.
"""

from typing import NamedTuple

import numpy as np

from subnetwork.theory.kernels.dense import HOLDERS, UPDATE
from subnetwork.theory.kernels.draws import Deck, Law, deal_owners
from subnetwork.theory.kernels.streams import Array, Ints, State, bare, compiled, inlined

U = np.uint64
ONE, TWO = U(1), U(2)


class Bands(NamedTuple):
    """What to run. With one local step the tables speak of x itself, otherwise of z = C_i x."""

    table: Array  # (rows n 2,): a and c at worker i, side by side
    rows: Ints  # (d,), where the row of coordinate j begins; coordinates may share one
    sides: Array  # (n d 2,): for worker i and coordinate j, what z_{j-1} and z_{j+1} add
    scales: Array  # (n d,), [C_i]_jj where held
    law: Law
    n_steps: int
    form: int
    tile: int  # coordinates whose part of the table stays in cache while all seeds pass


class Tile(NamedTuple):
    """Some coordinates."""

    first: int
    last: int


class Space(NamedTuple):
    """Room for one local step."""

    d: int
    push: Array  # (d + 1,), what its neighbours add to a coordinate
    pairs: State  # (d,), every j whose worker holds j + 1 too
    carry: Array  # (m,), push at the end of the last tile, for every seed


class Row(NamedTuple):
    """One seed's round: a matrix of three bands, whatever the hands are. All of shape (d,)."""

    a: Array
    c: Array
    left: Array
    right: Array
    z: Array
    before: Array


@inlined
def push_neighbours(
    problem: Bands, X: Array, zero: np.uint64, tile: Tile, deck: Deck, space: Space
) -> None:
    """What j and j + 1 add to each other where the same worker holds both, j in the tile."""
    pairs, push, sides, own, d = space.pairs, space.push, problem.sides, deck.own, space.d
    count = U(0)
    for w in range(tile.first, min(tile.last, d - 1)):
        pairs[count] = w
        count += U(own[zero + U(w)] == own[zero + U(w) + ONE])
    for e in range(count):
        w = pairs[e]
        j = zero + w
        side = TWO * (U(own[j]) * U(d) + w)
        push[w] += sides[side + ONE] * X[j + ONE]
        push[w + ONE] += sides[side + TWO] * X[j]


@bare
def steps_on_x(problem: Bands, X: Array, m: int, deck: Deck, space: Space) -> None:
    """One local step and the merge, for all seeds."""
    d, table, rows, own, push = space.d, problem.table, problem.rows, deck.own, space.push
    for first in range(0, d, problem.tile):
        tile = Tile(first, min(first + problem.tile, d))
        for s in range(m):
            zero = U(s) * U(d)
            push[first] = space.carry[s] if first else 0.0
            for w in range(first, tile.last):
                push[w + 1] = 0.0
            push_neighbours(problem, X, zero, tile, deck, space)
            space.carry[s] = push[tile.last]
            for w in range(first, tile.last):
                j = zero + U(w)
                t = U(rows[w]) + TWO * U(own[j])
                X[j] = table[t] * X[j] + (table[t + ONE] + push[w])


@bare
def gather(problem: Bands, X: Array, s: int, deck: Deck, row: Row) -> None:
    """Take one seed's matrix and submodels from the tables."""
    d = len(deck.positions)
    own, zero = deck.own, U(s) * U(d)
    for w in range(d):
        c = U(w)
        j = zero + c
        i = U(own[j])
        t, at = U(problem.rows[w]) + TWO * i, i * U(d) + c
        row.a[w], row.c[w] = problem.table[t], problem.table[t + ONE]
        row.z[w] = problem.scales[at] * X[j]
        row.left[w] = row.right[w] = 0.0
        if w > 0 and own[j - ONE] == own[j]:
            row.left[w] = problem.sides[TWO * at]
        if w + 1 < d and own[j + ONE] == own[j]:
            row.right[w] = problem.sides[TWO * at + ONE]


@bare
def sweep(row: Row) -> None:
    """One local step of all workers at once (line 6)."""
    d, z, before = len(row.z), row.z, row.before
    for j in range(d):
        before[j] = z[j]
    for j in range(d):
        z[j] = row.a[j] * before[j] + row.c[j]
    for j in range(1, d):
        z[j] += row.left[j] * before[j - 1]
    for j in range(d - 1):
        z[j] += row.right[j] * before[j + 1]


@bare
def give_back(problem: Bands, X: Array, s: int, deck: Deck, row: Row) -> None:
    """Line 9: every coordinate has one holder."""
    d, n = len(deck.positions), len(problem.law.weights)
    for w in range(d):
        j = U(s) * U(d) + U(w)
        if problem.form == UPDATE:
            X[j] += (row.z[w] - problem.scales[U(deck.own[j]) * U(d) + U(w)] * X[j]) / n
        elif problem.form == HOLDERS:
            X[j] = row.z[w]
        else:
            X[j] = row.z[w] / n


@compiled
def bands_rounds(problem: Bands, X: Array, seeds: State, span: Ints, deck: Deck) -> None:
    """Rounds span[0], ..., span[1] - 1 of every seed, from the flat X and into it."""
    d, m = len(deck.positions), len(seeds)
    row = Row(np.empty(d), np.empty(d), np.empty(d), np.empty(d), np.empty(d), np.empty(d))
    space = Space(d, np.empty(d + 1), np.empty(d, dtype=np.uint64), np.empty(m))
    for k in range(span[0], span[1]):
        deal_owners(seeds, k, problem.law, deck)
        if problem.n_steps == 1:
            steps_on_x(problem, X, m, deck, space)
            continue
        for s in range(m):
            gather(problem, X, s, deck, row)
            for _ in range(problem.n_steps):
                sweep(row)
            give_back(problem, X, s, deck, row)
