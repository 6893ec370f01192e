"""Rounds of Algorithm 1 on dense quadratics with any deal and any number of local steps.

Inside, everything is flat and unsigned: a signed index would be tested for being negative at every
access. U(1) is spelled ONE for the same reason: an unsigned and a signed number make a float.
"""

from typing import NamedTuple

import numpy as np

from subnetwork.theory.kernels.draws import PERM, Law, deal_alone, deal_owners, sort_hands
from subnetwork.theory.kernels.streams import Array, Ints, Short, State, compiled

UPDATE, MERGE, HOLDERS = 0, 1, 2  # eq. (2), eq. (4), as networks are merged
U = np.uint64
ONE, TWO, THREE, FOUR = U(1), U(2), U(3), U(4)


class Dense(NamedTuple):
    """What to run."""

    L: Array  # (n d d,), row by row
    b: Array  # (n, d)
    scales: Array  # (n, d), [C_i]_jj where held
    law: Law
    step_size: float
    n_steps: int
    form: int  # UPDATE, MERGE or HOLDERS
    tile: int  # rows of L_i that stay in cache while all seeds pass over them


class Desk(NamedTuple):
    """Room to work in, for m seeds: what a worker has in hand and how far it came."""

    own: Short  # (m, d)
    hands: Short  # (m, d)
    ends: Ints  # (m, n + 1)
    at: Ints  # (m,), rows of the hand that are done
    z: Array  # (m, d), submodel, entry u for the u-th coordinate in hand
    grad: Array  # (m, d), L_i z, likewise
    moved: Array  # (m, d), sum over workers of what the merge averages
    holders: Array  # (m, d)


@compiled
def rows_of_hand(L: Array, worker: int, last: int, column: int, desk: Desk) -> None:
    """L_i z into grad, on the hands, from those rows of L_i that lie before row `last`.

    L_i is symmetric: an entry left of the diagonal is read once and used twice. Four rows at a
    time, in an order that depends on the hand alone and not on where tiles end.
    """
    m, d = desk.hands.shape
    D = U(d)
    hands, z, grad = desk.hands.reshape(-1), desk.z.reshape(-1), desk.grad.reshape(-1)
    base = U(worker) * D * D
    for s in range(m):
        zero = U(s) * D
        h, q = zero + U(desk.ends[s, column]), desk.ends[s, column + 1] - desk.ends[s, column]
        first = desk.at[s]
        while first + 4 <= q and hands[h + U(first + 3)] < last:
            u = U(first)
            j0, j1 = U(hands[h + u]), U(hands[h + u + ONE])
            j2, j3 = U(hands[h + u + TWO]), U(hands[h + u + THREE])
            r0, r1, r2, r3 = base + j0 * D, base + j1 * D, base + j2 * D, base + j3 * D
            p = zero + u
            z0, z1, z2, z3 = z[p], z[p + ONE], z[p + TWO], z[p + THREE]
            m10, m20, m21 = L[r1 + j0], L[r2 + j0], L[r2 + j1]
            m30, m31, m32 = L[r3 + j0], L[r3 + j1], L[r3 + j2]
            g0 = L[r0 + j0] * z0 + m10 * z1 + m20 * z2 + m30 * z3
            g1 = m10 * z0 + L[r1 + j1] * z1 + m21 * z2 + m31 * z3
            g2 = m20 * z0 + m21 * z1 + L[r2 + j2] * z2 + m32 * z3
            g3 = m30 * z0 + m31 * z1 + m32 * z2 + L[r3 + j3] * z3
            for w in range(first):
                v = U(w)
                c, y = U(hands[h + v]), z[zero + v]
                c0, c1, c2, c3 = L[r0 + c], L[r1 + c], L[r2 + c], L[r3 + c]
                g0 += c0 * y
                g1 += c1 * y
                g2 += c2 * y
                g3 += c3 * y
                g = grad[zero + v] + c0 * z0
                g += c1 * z1
                g += c2 * z2
                grad[zero + v] = g + c3 * z3
            grad[p], grad[p + ONE], grad[p + TWO], grad[p + THREE] = g0, g1, g2, g3
            first += 4
        if 0 < q - first < 4 and hands[h + U(q - 1)] < last:
            for row in range(first, q):
                u = U(row)
                j, y = U(hands[h + u]), z[zero + u]
                g = L[base + j * D + j] * y
                for w in range(row):
                    v = U(w)
                    c = L[base + j * D + U(hands[h + v])]
                    g += c * z[zero + v]
                    grad[zero + v] += c * y
                grad[zero + u] = g
            first = q
        desk.at[s] = first


@compiled
def take_up(problem: Dense, X: Array, worker: int, column: int, desk: Desk) -> None:
    """Submodels w_i = C_i x into z, on the coordinates in hand (line 3)."""
    m, d = X.shape
    D = U(d)
    x, hands, z = X.reshape(-1), desk.hands.reshape(-1), desk.z.reshape(-1)
    scales, row = problem.scales.reshape(-1), U(worker) * D
    for s in range(m):
        zero = U(s) * D
        h, q = zero + U(desk.ends[s, column]), desk.ends[s, column + 1] - desk.ends[s, column]
        for w in range(q):
            j = U(hands[h + U(w)])
            z[zero + U(w)] = scales[row + j] * x[zero + j]
        desk.at[s] = 0


@compiled
def step(problem: Dense, worker: int, column: int, desk: Desk) -> None:
    """One local step z -= gamma C_i (L_i z - b_i), with L_i z in grad (line 6)."""
    m, d = desk.hands.shape
    D = U(d)
    hands, z, grad = desk.hands.reshape(-1), desk.z.reshape(-1), desk.grad.reshape(-1)
    scales, b, row = problem.scales.reshape(-1), problem.b.reshape(-1), U(worker) * D
    for s in range(m):
        zero = U(s) * D
        h, q = zero + U(desk.ends[s, column]), desk.ends[s, column + 1] - desk.ends[s, column]
        for w in range(q):
            u = zero + U(w)
            j = row + U(hands[h + U(w)])
            z[u] -= problem.step_size * scales[j] * (grad[u] - b[j])
        desk.at[s] = 0


@compiled
def give_back(problem: Dense, X: Array, worker: int, column: int, desk: Desk) -> None:
    """What the merge needs of z (line 9): into x where nobody else holds it, else into a sum."""
    m, d = X.shape
    D, n, form = U(d), len(problem.b), problem.form
    alone = problem.law.kind == PERM
    x, hands, z = X.reshape(-1), desk.hands.reshape(-1), desk.z.reshape(-1)
    scales, row = problem.scales.reshape(-1), U(worker) * D
    for s in range(m):
        zero = U(s) * D
        h, q = zero + U(desk.ends[s, column]), desk.ends[s, column + 1] - desk.ends[s, column]
        for w in range(q):
            c = U(hands[h + U(w)])
            u, j = zero + U(w), zero + c
            if form == UPDATE:
                moved = (z[u] - scales[row + c] * x[j]) / n
            elif form == MERGE:
                moved = z[u] / n
            else:
                moved = z[u] if alone else z[u] - x[j]
            if not alone:
                desk.moved[s, c] += moved
                desk.holders[s, c] += 1.0
            elif form == UPDATE:
                x[j] += moved
            else:
                x[j] = moved


@compiled
def merge_sums(form: int, X: Array, desk: Desk) -> None:
    """The end of a round in which a coordinate may have several holders, or none."""
    m, d = X.shape
    for s in range(m):
        for j in range(d):
            moved = desk.moved[s, j]
            if form == MERGE:
                X[s, j] = moved
            elif form == UPDATE:
                X[s, j] += moved
            else:
                X[s, j] += moved / max(desk.holders[s, j], 1.0)
            desk.moved[s, j] = desk.holders[s, j] = 0.0


@compiled
def work(problem: Dense, X: Array, worker: int, column: int, desk: Desk) -> None:
    """One worker's round, lines 3 to 8 and its part of 9, for all seeds."""
    d = X.shape[1]
    take_up(problem, X, worker, column, desk)
    for _ in range(problem.n_steps):
        for first in range(0, d, problem.tile):
            rows_of_hand(problem.L, worker, min(first + problem.tile, d), column, desk)
        step(problem, worker, column, desk)
    give_back(problem, X, worker, column, desk)


@compiled
def dense_rounds(problem: Dense, X: Array, seeds: State, span: Ints, desk: Desk) -> None:
    """Rounds span[0], ..., span[1] - 1 of every seed, from X and into X."""
    law, n = problem.law, len(problem.b)
    for k in range(span[0], span[1]):
        if law.kind == PERM:
            deal_owners(seeds, k, law, desk.ends, desk.own)
            sort_hands(desk.own, desk.ends, desk.hands)
        for i in range(n):
            if law.kind != PERM:
                deal_alone(seeds, k, i, law, desk.ends, desk.hands)
            work(problem, X, i, i if law.kind == PERM else 0, desk)
        if law.kind != PERM:
            merge_sums(problem.form, X, desk)
