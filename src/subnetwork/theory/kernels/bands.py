"""Rounds of Perm on tridiagonal quadratics: O(d) numbers a round, no d x d array anywhere."""

from typing import NamedTuple

import numpy as np

from subnetwork.theory.kernels.dense import HOLDERS, UPDATE
from subnetwork.theory.kernels.draws import Law, deal_owners
from subnetwork.theory.kernels.streams import Array, Ints, Short, State, compiled

U = np.uint64


class Bands(NamedTuple):
    """What to run."""

    diag: Array  # (n, d)
    off: Array  # (n, d - 1)
    b: Array  # (n, d)
    scales: Array  # (n, d) or (1, 1), [C_i]_jj where held
    law: Law
    step_size: float
    n_steps: int
    form: int


class BandsDesk(NamedTuple):
    """Room to work in, for m seeds, and for one."""

    own: Short  # (m, d)
    ends: Ints  # (m, n + 1)
    main: Array  # (d,), gamma s_j [L_i]_jj of the worker that holds j
    side: Array  # (d,), [L_i]_{j,j+1} if one worker holds both, else 0
    rest: Array  # (d,), gamma s_j [b_i]_j
    rate: Array  # (d,), gamma s_j
    scale: Array  # (d,), s_j
    z: Array  # (d,)
    push: Array  # (d,), the off-diagonal part of L_i z


@compiled
def hold(problem: Bands, own: Short, desk: BandsDesk) -> None:
    """Gather one round's block-diagonal matrix: three bands, whatever the hands are."""
    d = len(own)
    D, wide = U(d), problem.scales.shape[1] > 1
    diag, off, b = problem.diag.reshape(-1), problem.off.reshape(-1), problem.b.reshape(-1)
    scales, gamma = problem.scales.reshape(-1), problem.step_size
    s = scales[0]
    for c in range(d):
        j = U(c)
        i = U(own[j])
        t = i * D + j
        if wide:
            s = scales[t]
        desk.scale[j] = s
        desk.rate[j] = gamma * s
        desk.main[j] = gamma * s * diag[t]
        desk.rest[j] = gamma * s * b[t]
        desk.side[j] = 0.0
        if c + 1 < d and own[j] == own[c + 1]:
            desk.side[j] = off[t - i]


@compiled
def sweep(desk: BandsDesk) -> None:
    """One local step of all workers at once: z -= gamma C (L z - b) (line 6)."""
    d = len(desk.z)
    for j in range(d):
        desk.push[j] = 0.0
    for j in range(d - 1):
        desk.push[j] += desk.side[j] * desk.z[j + 1]
    for j in range(d - 1):
        desk.push[j + 1] += desk.side[j] * desk.z[j]
    for j in range(d):
        z = desk.z[j]
        desk.z[j] = z - (desk.main[j] * z - desk.rest[j] + desk.rate[j] * desk.push[j])


@compiled
def bands_rounds(problem: Bands, X: Array, seeds: State, span: Ints, desk: BandsDesk) -> None:
    """Rounds span[0], ..., span[1] - 1 of every seed, from X and into X."""
    m, d = X.shape
    n = len(problem.diag)
    for k in range(span[0], span[1]):
        deal_owners(seeds, k, problem.law, desk.ends, desk.own)
        for s in range(m):
            hold(problem, desk.own[s], desk)
            for j in range(d):
                desk.z[j] = desk.scale[j] * X[s, j]
            for _ in range(problem.n_steps):
                sweep(desk)
            for j in range(d):
                if problem.form == UPDATE:
                    X[s, j] += (desk.z[j] - desk.scale[j] * X[s, j]) / n
                elif problem.form == HOLDERS:
                    X[s, j] = desk.z[j]
                else:
                    X[s, j] = desk.z[j] / n
