"""Exact first and second moments of the estimator g(x) = B x - u, in O(n d^3).

Split G_i into diagonal and rest, G_i = D_i + O_i. Entry (j, m) of B M B' sums over workers i, i'
and coordinates l, p of [G_i]_jl M_lp [G_i']_mp, times the probability that worker i holds {j, l}
and worker i' holds {m, p}. That probability depends only on which of the four coincide. So each of
the products DD, DO, OD, OO gets the weight of "all different", and then, for every coincidence
(p = j, l = m, l = p), the difference to its true weight. Nothing is assumed of M; G_i need not be
symmetric.
"""

from dataclasses import dataclass

import numpy as np

from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Vector
from subnetwork.theory.estimator import Estimator, Occupancy


@dataclass(frozen=True)
class _Weights:
    """Weights of one term of (B M B')_jm, j != m, by the coordinates that coincide."""

    dd: float  # {j}, {m}
    od: float  # {j, l}, {m}, all different
    do: float  # {j}, {m, p}, all different
    once: float  # three coordinates in OD, DO, that coincide to two: l = m, or p = j
    oo: float  # {j, l}, {m, p}, all different
    oo_once: float  # one coincidence among the four
    oo_twice: float  # l = m and p = j


def mean_B(e: Estimator) -> Matrix:
    """E[B], the matrix H of the mean dynamics (eqs. 13, 27)."""
    total = _each_mean(e.G, e.occupancy).sum(axis=0)
    return np.asarray(total)


def mean_u(e: Estimator) -> Vector:
    """E[u] (eq. 14)."""
    return np.asarray(e.occupancy.together[1] * e.U.sum(axis=0))


def second_B(e: Estimator, M: Matrix) -> Matrix:
    """E[B M B']; with M = L_bar the left side of eq. (23)."""
    p = e.occupancy.together
    same = _Weights(dd=p[2], od=p[3], do=p[3], once=p[2], oo=p[4], oo_once=p[3], oo_twice=p[2])
    total = np.zeros_like(M)
    for G in e.G:
        block = _off_diagonal(G, G, M, same)
        np.fill_diagonal(block, _diagonal(G, M, p))
        total += block
    return np.asarray(total + _two_workers(e, M))


def pair(V: PerWorker, U: PerWorker, law: Occupancy) -> Matrix:
    """E[v u'] for v = sum_i P_i V_i and u = sum_i P_i U_i."""
    p, sums = law.together, np.outer(V.sum(axis=0), U.sum(axis=0))
    same = V.T @ U
    if not law.disjoint:
        return np.asarray(_with_diagonal(p[2] * same, p[1] * same) + p[1] ** 2 * (sums - same))
    both = p[2] * same + law.apart[1][1] * (sums - same)
    return _with_diagonal(both, p[1] * same)


def second_u(e: Estimator) -> Matrix:
    """E[u u']."""
    return pair(e.U, e.U, e.occupancy)


def cross(e: Estimator, v: Vector) -> Matrix:
    """E[(B v) u']."""
    law = e.occupancy
    p, F, f, U = law.together, _off(e.G), np.einsum("ijj->ij", e.G) * v, e.U
    Fv = F @ v
    hit = np.einsum("ijm,m,im->jm", F, v, U)  # l = m: worker i reads v_m and has U_im
    same = p[2] * f.T @ U + p[3] * (Fv.T @ U - hit) + p[2] * hit
    total = _with_diagonal(same, p[1] * f.T @ U + p[2] * Fv.T @ U)
    if not law.disjoint:
        each, u = _each_mean(e.G, law) @ v, p[1] * U
        return np.asarray(total + np.outer(each.sum(axis=0), u.sum(axis=0)) - each.T @ u)
    across = law.apart[1][1] * (np.outer(f.sum(axis=0), U.sum(axis=0)) - f.T @ U)
    all_hits = F.sum(axis=0) * v * U.sum(axis=0)
    free = np.outer(Fv.sum(axis=0), U.sum(axis=0)) - all_hits - (Fv.T @ U - hit)
    return np.asarray(total + _with_diagonal(across + law.apart[2][1] * free, np.zeros_like(free)))


def _two_workers(e: Estimator, M: Matrix) -> Matrix:
    """The terms i != i' of E[B M B']: (sum over all i, i') - (sum over i = i')."""
    law = e.occupancy
    if not law.disjoint:
        each = _each_mean(e.G, law)
        return np.asarray(each.sum(0) @ M @ each.sum(0).T - sum(E @ M @ E.T for E in each))
    c = law.apart
    w = _Weights(c[1][1], od=c[2][1], do=c[1][2], once=0.0, oo=c[2][2], oo_once=0.0, oo_twice=0.0)
    G_sum = e.G.sum(axis=0)
    total = _off_diagonal(G_sum, G_sum, M, w)
    for G in e.G:
        total -= _off_diagonal(G, G, M, w)
    return _with_diagonal(total, np.zeros_like(total))


def _off_diagonal(G: Matrix, K: Matrix, M: Matrix, w: _Weights) -> Matrix:
    """sum_lp weight(j, l, m, p) G_jl M_lp K_mp for j != m; the diagonal holds no meaning."""
    f, h, F, H, M_diag = np.diag(G), np.diag(K), _off(G), _off(K), np.diag(M)
    FM, MH = F @ M, M @ H.T
    DD = np.outer(f, h) * M
    DO, DO_hit = f[:, None] * MH, (f * M_diag)[:, None] * H.T  # hit: p = j
    OD, OD_hit = FM * h, F * (M_diag * h)  # hit: l = m
    OO = FM @ H.T
    hits = F * np.diag(MH) + np.diag(FM)[:, None] * H.T + (F * M_diag) @ H.T  # l = m, p = j, l = p
    both = F * M.T * H.T  # l = m and p = j, counted twice in hits
    return np.asarray(
        w.dd * DD
        + w.do * DO
        + w.od * OD
        + (w.once - w.do) * DO_hit
        + (w.once - w.od) * OD_hit
        + w.oo * OO
        + (w.oo_once - w.oo) * hits
        + (w.oo_twice - 2 * w.oo_once + w.oo) * both
    )


def _diagonal(G: Matrix, M: Matrix, p: tuple[float, ...]) -> Vector:
    """E[(P G P M P G' P)_jj]: one coordinate (DD), two (DO, OD), two or three (OO)."""
    f, F = np.diag(G), _off(G)
    FM = F @ M
    single = f**2 * np.diag(M) * p[1]
    double = f * (np.diag(FM) + np.diag(M @ F.T)) * p[2]
    squares = F**2 @ np.diag(M)  # l = p
    return np.asarray(single + double + p[2] * squares + p[3] * ((FM * F).sum(axis=1) - squares))


def _each_mean(G: Matrices, law: Occupancy) -> Matrices:
    """E[P_i G_i P_i], one a worker."""
    diagonals = np.einsum("ijj,jk->ijk", G, np.eye(G.shape[1]))
    return np.asarray(law.together[1] * diagonals + law.together[2] * _off(G))


def _off(G: Floats) -> Floats:
    """G (the last two axes) with a zero diagonal."""
    return np.asarray(G * (1 - np.eye(G.shape[-1])))


def _with_diagonal(off: Matrix, like: Matrix) -> Matrix:
    """`off` with the diagonal of `like`."""
    result = off.copy()
    np.fill_diagonal(result, np.diag(like))
    return result
