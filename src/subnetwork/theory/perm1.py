"""Closed forms where every worker holds one coordinate: eqs. (14)-(18) and (27)-(28)."""

import numpy as np

from subnetwork.shapes import Matrix, PerWorker, Vector
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import PreconditionedPerm1


def permuted_covariance(rows: PerWorker) -> Matrix:
    """Covariance of v_j = rows[pi_j, j] for a uniform permutation pi of n = d.

    (n Diag(S) - S) / (n - 1), S the population covariance of the rows.
    """
    n = len(rows)
    if n == 1:
        return np.zeros((1, 1))
    centred = rows - rows.mean(axis=0)
    S = centred.T @ centred / n
    return np.asarray((n * np.diag(np.diag(S)) - S) / (n - 1))


def dealt_b(sketch: PreconditionedPerm1) -> PerWorker:
    """n^-1/2 D_i^-1/2 b_i: what mean_i C_i b_i takes its entries from (eq. 14)."""
    problem = sketch.problem
    return np.asarray(problem.b / np.sqrt(problem.n_workers * problem.diagonals))


def h_17(sketch: PreconditionedPerm1) -> Vector:
    """The vector h of eq. (17), x* minus the point that E x^k tends to."""
    return np.asarray(sketch.problem.minimiser - dealt_b(sketch).mean(axis=0))


def covariance_18(sketch: PreconditionedPerm1) -> Matrix:
    """Covariance of g in eq. (18): the same at every x, as mean_i C_i L_i C_i = I always."""
    return permuted_covariance(dealt_b(sketch))


def sigma2_18(sketch: PreconditionedPerm1) -> float:
    """The smallest sigma^2 of eq. (18), attained at every x: tr(L_bar Cov g)."""
    return float((sketch.problem.L_bar * covariance_18(sketch)).sum())


def BLB_28(problem: Quadratics) -> Matrix:
    """E[B L B] for Perm-1 as eq. (28) has it: n^2 D L D, D = mean_i Diag(L_i).

    Right only where all Diag(L_i) are equal; `BLB_28_corrected` is right always.
    """
    D = problem.diagonals.mean(axis=0)
    return np.asarray(problem.n_workers**2 * np.outer(D, D) * problem.L_bar)


def BLB_28_corrected(problem: Quadratics) -> Matrix:
    """E[B L B] for Perm-1: n^2 L o (d d' + Cov), d the diagonal of D.

    Cov is the covariance of the dealt diagonals [L_i]_jj, i = pi_j; eq. (28) leaves it out.
    """
    covariance = permuted_covariance(problem.diagonals)
    return np.asarray(BLB_28(problem) + problem.n_workers**2 * problem.L_bar * covariance)
