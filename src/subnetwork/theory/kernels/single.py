"""Rounds of Perm-1: every worker holds one coordinate, so a round is x_j <- a x_j + c."""

from typing import NamedTuple

import numpy as np

from subnetwork.theory.kernels.draws import Deck, Law, deal_owners
from subnetwork.theory.kernels.streams import Array, Ints, State, bare

U = np.uint64
ONE, TWO = U(1), U(2)


class Single(NamedTuple):
    """What to run: only the diagonals of L_i take part."""

    table: Array  # (rows n 2,): slope a and intercept c at worker i, side by side
    rows: Ints  # (d,), where the row of coordinate j begins; coordinates may share one
    law: Law
    tile: int  # coordinates whose part of the table stays in cache while all seeds pass


@bare
def single_rounds(problem: Single, X: Array, seeds: State, span: Ints, deck: Deck) -> None:
    """Rounds span[0], ..., span[1] - 1 of every seed, from the flat X and into it."""
    d = len(deck.positions)
    table, rows, own = problem.table, problem.rows, deck.own
    for k in range(span[0], span[1]):
        deal_owners(seeds, k, problem.law, deck)
        for first in range(0, d, problem.tile):
            last = min(first + problem.tile, d)
            for s in range(len(seeds)):
                zero = U(s) * U(d)
                for c in range(first, last):
                    j = zero + U(c)
                    t = U(rows[c]) + TWO * U(own[j])
                    X[j] = table[t] * X[j] + table[t + ONE]
