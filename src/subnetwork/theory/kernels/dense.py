"""Rounds of Algorithm 1 on dense quadratics with any deal and any number of local steps.

Inside, everything is flat and unsigned: a signed index would be tested for being negative at every
access. U(1) is spelled ONE for the same reason: an unsigned and a signed number make a float.
"""

from typing import NamedTuple

import numpy as np

from subnetwork.theory.kernels.draws import PERM, Deck, Law, deal_alone, deal_owners, sort_hands
from subnetwork.theory.kernels.streams import Array, Ints, State, bare, inlined

UPDATE, MERGE, HOLDERS = 0, 1, 2  # eq. (2), eq. (4), as networks are merged
U = np.uint64
ONE, TWO, THREE, FOUR = U(1), U(2), U(3), U(4)


class Dense(NamedTuple):
    """What to run. Arrays are flat."""

    L: Array  # (n d d,)
    b: Array  # (n d,)
    scales: Array  # (n d,), [C_i]_jj where held; or (1,), one number for all
    mask: np.uint64  # all bits; or none, which makes every index of scales 0
    law: Law
    step_size: float
    n_steps: int
    form: int  # UPDATE, MERGE or HOLDERS
    tile: int  # rows of L_i that stay in cache while all seeds pass over them
    line: bool  # Perm, one scale, one local step: x_j <- keep x_j - rate [L_i x]_j + b_ij
    keep: float
    rate: float


class Desk(NamedTuple):
    """What the workers have in hand, and room to work in; flat, one seed after the other."""

    z: Array  # (m d,), submodel, entry u for the u-th coordinate in hand
    grad: Array  # (m d,), L_i z, likewise
    done: State  # (m,), rows of the hand that grad has
    moved: Array  # (m d,), sum over workers of what the merge averages
    holders: Array  # (m d,)


class Hand(NamedTuple):
    """One worker's hand in one seed's draw."""

    worker: np.uint64
    seed: np.uint64  # s, or 0 likewise
    zero: np.uint64  # s d, where the seed begins in X
    room: np.uint64  # where its part of the desk begins: s d, or 0 where seeds come one by one
    first: np.uint64  # where the hand begins in Deck.hands
    q: np.uint64  # its size


@inlined
def hand_of(s: int, worker: int, law: Law, deck: Deck, apart: bool) -> Hand:
    """Where the hand lies; `apart` if every seed has its own room on the desk."""
    zero = U(s) * U(len(deck.positions))
    if law.kind == PERM:
        e = U(worker)
        if not law.even:
            e += U(s) * U(len(law.weights) + 1)
    else:
        e = U(2 * s)
    begin = U(deck.ends[e])
    room, seed = (zero, U(s)) if apart else (U(0), U(0))
    return Hand(U(worker), seed, zero, room, zero + begin, U(deck.ends[e + ONE]) - begin)


@inlined
def four_rows(L: Array, hand: Hand, u: np.uint64, deck: Deck, desk: Desk) -> None:
    """Rows u to u + 3 of L_i z into grad: an entry left of the diagonal is read once, used twice.

    L_i is symmetric.
    """
    D, hands, z, grad = U(len(deck.positions)), deck.hands, desk.z, desk.grad
    zero, h, p = hand.room, hand.first, hand.room + u
    j0, j1, j2, j3 = (
        U(hands[h + u]),
        U(hands[h + u + ONE]),
        U(hands[h + u + TWO]),
        U(hands[h + u + THREE]),
    )
    base = hand.worker * D * D
    r0, r1, r2, r3 = base + j0 * D, base + j1 * D, base + j2 * D, base + j3 * D
    z0, z1, z2, z3 = z[p], z[p + ONE], z[p + TWO], z[p + THREE]
    m10, m20, m21 = L[r1 + j0], L[r2 + j0], L[r2 + j1]
    m30, m31, m32 = L[r3 + j0], L[r3 + j1], L[r3 + j2]
    g0 = L[r0 + j0] * z0 + m10 * z1 + m20 * z2 + m30 * z3
    g1 = m10 * z0 + L[r1 + j1] * z1 + m21 * z2 + m31 * z3
    g2 = m20 * z0 + m21 * z1 + L[r2 + j2] * z2 + m32 * z3
    g3 = m30 * z0 + m31 * z1 + m32 * z2 + L[r3 + j3] * z3
    for w in range(np.int64(u)):
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


@inlined
def one_row(L: Array, hand: Hand, u: np.uint64, deck: Deck, desk: Desk) -> None:
    """Row u of L_i z into grad, likewise."""
    D, hands, z, grad = U(len(deck.positions)), deck.hands, desk.z, desk.grad
    zero, h = hand.room, hand.first
    j, y = U(hands[h + u]), z[zero + u]
    row = (hand.worker * D + j) * D
    g = L[row + j] * y
    for w in range(np.int64(u)):
        v = U(w)
        c = L[row + U(hands[h + v])]
        g += c * z[zero + v]
        grad[zero + v] += c * y
    grad[zero + u] = g


@inlined
def rows(L: Array, hand: Hand, last: int, deck: Deck, desk: Desk) -> None:
    """L_i z into grad, from those rows of L_i that come before row `last` and are not done.

    Four at a time, in an order that depends on the hand alone and not on where tiles end.
    """
    u, h, q = desk.done[hand.seed], hand.first, hand.q
    while u + FOUR <= q and deck.hands[h + u + THREE] < last:
        four_rows(L, hand, u, deck, desk)
        u += FOUR
    if u < q < u + FOUR and deck.hands[h + q - ONE] < last:
        while u < q:
            one_row(L, hand, u, deck, desk)
            u += ONE
    desk.done[hand.seed] = u


@inlined
def take_up(problem: Dense, X: Array, hand: Hand, deck: Deck, desk: Desk) -> None:
    """Submodel w_i = C_i x into z, on the coordinates in hand (line 3)."""
    row = hand.worker * U(len(deck.positions))
    desk.done[hand.seed] = U(0)
    if problem.line:  # the scale is in `rate`
        for w in range(np.int64(hand.q)):
            desk.z[hand.room + U(w)] = X[hand.zero + U(deck.hands[hand.first + U(w)])]
        return
    for w in range(np.int64(hand.q)):
        j = U(deck.hands[hand.first + U(w)])
        desk.z[hand.room + U(w)] = problem.scales[(row + j) & problem.mask] * X[hand.zero + j]


@inlined
def step(problem: Dense, hand: Hand, deck: Deck, desk: Desk) -> None:
    """A local step before the last: z -= gamma C_i (L_i z - b_i), with L_i z in grad (line 6)."""
    row = hand.worker * U(len(deck.positions))
    for w in range(np.int64(hand.q)):
        u, j = hand.room + U(w), row + U(deck.hands[hand.first + U(w)])
        rate = problem.step_size * problem.scales[j & problem.mask]
        desk.z[u] -= rate * (desk.grad[u] - problem.b[j])
    desk.done[hand.seed] = U(0)


@inlined
def give_back(problem: Dense, X: Array, hand: Hand, deck: Deck, desk: Desk) -> None:
    """The last step, and what the merge needs of it (line 9).

    Into x where nobody else holds the coordinate, else into a sum.
    """
    row, form = hand.worker * U(len(deck.positions)), problem.form
    if problem.line:
        for w in range(np.int64(hand.q)):
            c, u = U(deck.hands[hand.first + U(w)]), hand.room + U(w)
            kept = problem.b[row + c] + problem.keep * desk.z[u]
            X[hand.zero + c] = kept - problem.rate * desk.grad[u]
        return
    alone = problem.law.kind == PERM
    share = 1.0 / len(problem.law.weights)
    for w in range(np.int64(hand.q)):
        c, u = U(deck.hands[hand.first + U(w)]), hand.room + U(w)
        j, scale = hand.zero + c, problem.scales[(row + c) & problem.mask]
        z = desk.z[u] - problem.step_size * scale * (desk.grad[u] - problem.b[row + c])
        if form == UPDATE:
            moved = (z - scale * X[j]) * share
        elif form == MERGE:
            moved = z * share
        else:
            moved = z if alone else z - X[j]
        if not alone:
            desk.moved[j] += moved
            desk.holders[j] += 1.0
        elif form == UPDATE:
            X[j] += moved
        else:
            X[j] = moved


@bare
def merge_sums(form: int, X: Array, desk: Desk) -> None:
    """The end of a round in which a coordinate may have several holders, or none."""
    for j in range(len(X)):
        moved = desk.moved[j]
        if form == MERGE:
            X[j] = moved
        elif form == UPDATE:
            X[j] += moved
        else:
            X[j] += moved / max(desk.holders[j], 1.0)
        desk.moved[j] = desk.holders[j] = 0.0


@bare
def work_alone(problem: Dense, X: Array, worker: int, deck: Deck, desk: Desk) -> None:
    """One worker's round, lines 3 to 8 and its part of 9, one seed after the other."""
    law, d = problem.law, len(deck.positions)
    for s in range(len(X) // d):
        hand = hand_of(s, worker, law, deck, False)
        take_up(problem, X, hand, deck, desk)
        for _ in range(1, problem.n_steps):
            rows(problem.L, hand, d, deck, desk)
            step(problem, hand, deck, desk)
        rows(problem.L, hand, d, deck, desk)
        give_back(problem, X, hand, deck, desk)


@bare
def work_in_tiles(problem: Dense, X: Array, worker: int, deck: Deck, desk: Desk) -> None:
    """The same for an L_i larger than a cache: all seeds pass over some rows, then the next."""
    law, d = problem.law, len(deck.positions)
    m = len(X) // d
    for s in range(m):
        take_up(problem, X, hand_of(s, worker, law, deck, True), deck, desk)
    for t in range(problem.n_steps):
        for first in range(0, d, problem.tile):
            last = min(first + problem.tile, d)
            for s in range(m):
                rows(problem.L, hand_of(s, worker, law, deck, True), last, deck, desk)
        for s in range(m):
            if t + 1 < problem.n_steps:
                step(problem, hand_of(s, worker, law, deck, True), deck, desk)
            else:
                give_back(problem, X, hand_of(s, worker, law, deck, True), deck, desk)


@bare
def dense_rounds(
    problem: Dense, X: Array, seeds: State, span: Ints, deck: Deck, desk: Desk
) -> None:
    """Rounds span[0], ..., span[1] - 1 of every seed, from the flat X and into it."""
    law, m = problem.law, len(seeds)
    tiles = m > 8 and problem.tile < len(deck.positions)
    for k in range(span[0], span[1]):
        if law.kind == PERM:
            deal_owners(seeds, k, law, deck)
            sort_hands(m, law, deck)
        for i in range(len(law.weights)):
            if law.kind != PERM:
                deal_alone(seeds, k, i, law, deck)
            if tiles:
                work_in_tiles(problem, X, i, deck, desk)
            else:
                work_alone(problem, X, i, deck, desk)
        if law.kind != PERM:
            merge_sums(problem.form, X, desk)
