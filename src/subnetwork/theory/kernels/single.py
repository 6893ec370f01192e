"""Rounds of Perm-1: every worker holds one coordinate, so a round is x_j <- a x_j + c."""

from typing import NamedTuple

import numpy as np

from subnetwork.theory.kernels.draws import Law, deal_owners
from subnetwork.theory.kernels.streams import Array, Ints, Short, State, compiled

U = np.uint64
ONE, TWO = U(1), U(2)


class Single(NamedTuple):
    """What to run: only the diagonals of L_i take part."""

    table: Array  # (d n 2,): slope a and intercept c for coordinate j at worker i, side by side
    law: Law
    tile: int  # coordinates whose part of the table stays in cache while all seeds pass


class SingleDesk(NamedTuple):
    """Room to work in, for m seeds."""

    own: Short  # (m, d)
    ends: Ints  # (m, n + 1)


@compiled
def single_rounds(problem: Single, X: Array, seeds: State, span: Ints, desk: SingleDesk) -> None:
    """Rounds span[0], ..., span[1] - 1 of every seed, from X and into X."""
    m, d = X.shape
    width = U(2 * d)
    table, x, own = problem.table, X.reshape(-1), desk.own.reshape(-1)
    for k in range(span[0], span[1]):
        deal_owners(seeds, k, problem.law, desk.ends, desk.own)
        for first in range(0, d, problem.tile):
            last = min(first + problem.tile, d)
            for s in range(m):
                zero = U(s) * U(d)
                for c in range(first, last):
                    j = zero + U(c)
                    t = U(c) * width + TWO * U(own[j])
                    x[j] = table[t] * x[j] + table[t + ONE]
