"""Quadratic forms of the errors of many seeds."""

import numpy as np

from subnetwork.theory.kernels.streams import Array, compiled

LANES = 16  # seeds that share a read of A


@compiled
def quadratic_forms(A: Array, E: Array, out: Array) -> None:
    """out[s] = e' A e for every row e of E and a symmetric A, of which one half is read.

    Seeds are lanes of a vector: each sums in the order of the rows, whoever its neighbours are.
    """
    lanes, total = np.zeros((E.shape[1], LANES)), np.empty(LANES)
    for first in range(0, len(E), LANES):
        count = min(LANES, len(E) - first)
        lanes[:, :count] = E[first : first + count].T
        sum_by_rows(A, lanes, total)
        out[first : first + count] = 2 * total[:count]


@compiled
def sum_by_rows(A: Array, lanes: Array, total: Array) -> None:
    """Half of e' A e for every column e of `lanes`."""
    inner = np.empty(LANES)
    total[:] = 0.0
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
