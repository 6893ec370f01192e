"""Exact first and second moments of the estimator g(x) = B x - u, in O(n d^3).

Two kinds of randomness have the same five moments: an `Estimator`, in closed form, and `Draws`, a
list of rounds with probabilities (all of them, or a sample). The curves need nothing else.
"""

from typing import TypeAlias

import numpy as np

from subnetwork.shapes import Floats, Matrices, Matrix, PerWorker, Vector
from subnetwork.theory.coincidences import NOTHING, Weights, off, off_diagonal, own, with_diagonal
from subnetwork.theory.draws import Draws
from subnetwork.theory.estimator import Estimator, Occupancy

Linear: TypeAlias = Estimator | Draws


def mean_B(e: Linear) -> Matrix:
    """E[B], the matrix H of the mean dynamics (eqs. 13, 27)."""
    if isinstance(e, Draws):
        return np.asarray(np.einsum("r,rjl->jl", e.weight, e.B))
    total = _each_mean(e.G, e.occupancy).sum(axis=0)
    return np.asarray(total + e.drift * np.eye(len(total)))


def mean_u(e: Linear) -> Vector:
    """E[u] (eq. 14)."""
    if isinstance(e, Draws):
        return np.asarray(e.weight @ e.u)
    return np.asarray(e.occupancy.of_workers(1, len(e.U)) @ e.U)


def second_B(e: Linear, M: Matrix) -> Matrix:
    """E[B M B']; with M = L_bar the left side of eq. (23)."""
    if isinstance(e, Draws):
        return np.asarray(np.einsum("r,rjl->jl", e.weight, e.B @ M @ e.B.transpose(0, 2, 1)))
    two = _two(e.occupancy)
    total = np.asarray(_all_pairs(e, M, two))
    for i, G in enumerate(e.G):
        total = total + own(G, M, e.occupancy.of_worker(i), NOTHING if e.occupancy.sizes else two)
    for i, G in zip(e.noise.worker, e.noise.G, strict=True):
        total = total + own(G, M, e.occupancy.of_worker(i))
    if e.drift:
        H = _each_mean(e.G, e.occupancy).sum(axis=0)
        total = total + e.drift * (H @ M + M @ H.T) + e.drift**2 * M
    return np.asarray(total)


def pair(V: PerWorker, U: PerWorker, law: Occupancy) -> Matrix:
    """E[v u'] for v = sum_i P_i V_i and u = sum_i P_i U_i."""
    once, twice = law.of_workers(1, len(U))[:, None], law.of_workers(2, len(U))[:, None]
    if not law.disjoint:
        v, u = once * V, once * U
        across = np.outer(v.sum(axis=0), u.sum(axis=0)) - v.T @ u
        return np.asarray(with_diagonal(V.T @ (twice * U), V.T @ (once * U)) + across)
    same, hit = V.T @ (twice * U), V.T @ (once * U)
    v, u = _placed(V, law), _placed(U, law)
    others = np.outer(v.sum(axis=0), u.sum(axis=0)) - v.T @ u
    return with_diagonal(same + law.apart[1][1] * others, hit + law.shared * others)


def second_u(e: Linear) -> Matrix:
    """E[u u']."""
    if isinstance(e, Draws):
        return np.asarray(np.einsum("r,rj,rl->jl", e.weight, e.u, e.u))
    total = pair(e.U, e.U, e.occupancy)
    for i, U in zip(e.noise.worker, e.noise.U, strict=True):
        p = e.occupancy.of_worker(i)
        total = total + with_diagonal(p[2] * np.outer(U, U), p[1] * np.outer(U, U))
    return total


def cross(e: Linear, v: Vector) -> Matrix:
    """E[(B v) u']."""
    if isinstance(e, Draws):
        return np.asarray(np.einsum("r,rj,rl->jl", e.weight, e.B @ v, e.u))
    total = _own_cross(e.G, e.U, v, tuple(range(len(e.U))), e.occupancy) + _two_cross(e, v)
    if e.noise.worker:
        total = total + _own_cross(e.noise.G, e.noise.U, v, e.noise.worker, e.occupancy)
    return np.asarray(total + e.drift * np.outer(v, mean_u(e)))


def _own_cross(
    G: Matrices, U: PerWorker, v: Vector, worker: tuple[int, ...], law: Occupancy
) -> Matrix:
    """sum_a E[P G_a P v U_a' P] with the P of worker[a]."""
    p1, p2, p3 = (np.array([law.of_worker(i)[r] for i in worker])[:, None] for r in (1, 2, 3))
    F, f = off(G), np.einsum("ijj->ij", G) * v
    Fv = F @ v
    hit = np.einsum("ijm,m,im->jm", F, v, p2 * U)  # l = m: worker i reads v_m and has U_im
    free = Fv.T @ (p3 * U) - np.einsum("ijm,m,im->jm", F, v, p3 * U)
    return with_diagonal(f.T @ (p2 * U) + free + hit, f.T @ (p1 * U) + Fv.T @ (p2 * U))


def _two_cross(e: Estimator, v: Vector) -> Matrix:
    """The terms i != i' of E[(B v) u']: (sum over all i, i') - (sum over i = i')."""
    law = e.occupancy
    if not law.disjoint:
        each, u = _each_mean(e.G, law) @ v, law.of_workers(1, len(e.U))[:, None] * e.U
        return np.asarray(np.outer(each.sum(axis=0), u.sum(axis=0)) - each.T @ u)
    G, U = _placed(e.G, law), _placed(e.U, law)
    F, f = off(G), np.einsum("ijj->ij", G) * v
    Fv = F @ v
    ones = np.outer(f.sum(axis=0), U.sum(axis=0)) - f.T @ U
    hit = np.einsum("ijm,m,im->jm", F, v, U)
    all_hits = F.sum(axis=0) * v * U.sum(axis=0)
    free = np.outer(Fv.sum(axis=0), U.sum(axis=0)) - all_hits - (Fv.T @ U - hit)
    return with_diagonal(law.apart[1][1] * ones + law.apart[2][1] * free, law.shared * ones)


def _two(law: Occupancy) -> Weights:
    """Weights of the terms of two different workers whose hands are drawn together."""
    if not law.disjoint:
        return NOTHING
    c = law.apart
    return Weights(c[1][1], od=c[2][1], do=c[1][2], once=0.0, oo=c[2][2], oo_once=0.0, oo_twice=0.0)


def _all_pairs(e: Estimator, M: Matrix, w: Weights) -> Matrix:
    """The terms i != i' of E[B M B'], or those of all i, i' where `own` takes i = i' away."""
    law = e.occupancy
    if not law.disjoint:
        each = _each_mean(e.G, law)
        return np.asarray(each.sum(0) @ M @ each.sum(0).T - sum(E @ M @ E.T for E in each))
    placed = _placed(e.G, law)
    G_sum, D = placed.sum(axis=0), np.einsum("ijj->ij", placed)
    total = off_diagonal(G_sum, M, w, off(G_sum) @ M)
    if law.sizes:
        total = total - sum(off_diagonal(G, M, w, off(G) @ M) for G in placed)
    both = law.shared * np.diag((D.sum(axis=0) ** 2 - (D**2).sum(axis=0)) * np.diag(M))
    return with_diagonal(total, both)


def _placed(table: Floats, law: Occupancy) -> Floats:
    """G or U times the number of places that a hand has for what they touch."""
    if not law.sizes:
        return table
    s = np.array(law.sizes, dtype=np.float64)
    if table.ndim == 2:
        return np.asarray(s[:, None] * table)
    diagonals = np.einsum("ijj,jk->ijk", table, np.eye(table.shape[1]))
    rest = off(table)
    return np.asarray(s[:, None, None] * (diagonals + (s[:, None, None] - 1) * rest))


def _each_mean(G: Matrices, law: Occupancy) -> Matrices:
    """E[P_i G_i P_i], one a worker."""
    once, twice = (law.of_workers(r, len(G))[:, None, None] for r in (1, 2))
    diagonals = np.einsum("ijj,jk->ijk", G, np.eye(G.shape[1]))
    return np.asarray(once * diagonals + twice * off(G))
