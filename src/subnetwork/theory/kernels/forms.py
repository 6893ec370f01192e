"""Quadratic forms of the errors of many seeds."""

import numpy as np

from subnetwork.theory.kernels.streams import Array, compiled

LANES = 16  # seeds that share a read of A


@compiled
def quadratic_forms(A: Array, E: Array, out: Array) -> None:
    """out[s] = e' A e for every row e of E and a symmetric A, of which one half is read.

    Seeds are lanes of a vector: each sums in the order of the rows, whoever its neighbours are.
    """
    m, d = E.shape
    lanes, inner, total = np.empty((d, LANES)), np.empty(LANES), np.empty(LANES)
    for first in range(0, m, LANES):
        for s in range(LANES):
            seed = min(first + s, m - 1)  # lanes left over repeat the last seed
            for j in range(d):
                lanes[j, s] = E[seed, j]
        sum_by_rows(A, lanes, inner, total)
        for s in range(min(LANES, m - first)):
            out[first + s] = 2 * total[s]


@compiled
def sum_by_rows(A: Array, lanes: Array, inner: Array, total: Array) -> None:
    """Half of e' A e for every column e of `lanes`."""
    for s in range(LANES):
        total[s] = 0.0
    for r in range(len(lanes)):
        half = A[r, r] / 2
        for s in range(LANES):  # one product in a sum at a time: see `streams.compiled`
            inner[s] = half * lanes[r, s]
        for c in range(r):
            a = A[r, c]
            for s in range(LANES):
                inner[s] += a * lanes[c, s]
        for s in range(LANES):
            total[s] += inner[s] * lanes[r, s]
