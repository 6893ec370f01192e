"""What every sketch of the lab promises, in one table: tests hold each row to it.

A row declares whether E C_i = I (unbiased), whether mean_i C_i = I in every round (perfect
reconstruction, so that (4) is (2)), omega with E|C_i x - x|^2 = omega |x|^2, and where E x^k tends.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from subnetwork.deals import Bernoulli, Full, Perm, RandQ
from subnetwork.shapes import Vector
from subnetwork.theory.copies import Copies, Fixed
from subnetwork.theory.jacobi import Jacobi, Shifted
from subnetwork.theory.matrix_sketches import BlockPreconditioned
from subnetwork.theory.perm1 import dealt_b
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.simulation import Form
from subnetwork.theory.sketches import Dealt, DiagonalPartition, PreconditionedPerm1

AnySketch: TypeAlias = (
    Dealt | PreconditionedPerm1 | Jacobi | BlockPreconditioned | Shifted[DiagonalPartition]
)


@dataclass(frozen=True)
class Declared:
    """One sketch: its formula and what it promises.

    Attributes:
        formula: C_i in the letters of the paper.
        build: the sketch for a problem.
        form: the merge that its exact curve speaks of.
        unbiased: E C_i = I for every worker.
        reconstructs: mean_i C_i = I in every round.
        omega: E|C_i x - x|^2 / |x|^2 for a problem, None where that depends on x or i.
        limit: x_inf in closed form, None where only enumeration has it.
    """

    formula: str
    build: Callable[[Quadratics], AnySketch]
    form: Form
    unbiased: bool
    reconstructs: bool
    omega: Callable[[Quadratics], float] | None = None
    limit: Callable[[Quadratics], Vector] | None = None


def _half(problem: Quadratics) -> int:
    return max(problem.dim // 2, 1)


def _together(problem: Quadratics) -> float:
    """The rho of Perm: P(another coordinate is held | one is held), remainders included."""
    d, n = problem.dim, problem.n_workers
    q, more = divmod(d, n)
    pairs = (n - more) * q * (q - 1) + more * (q + 1) * q
    return pairs / (d * (d - 1)) if d > 1 else 0.0


def _mixed(problem: Quadratics, diagonal: float, rest: float) -> Vector:
    D = np.diag(np.diag(problem.L_bar))
    return np.asarray(np.linalg.solve(diagonal * D + rest * (problem.L_bar - D), problem.b_bar))


def _jacobi_limit(problem: Quadratics) -> Vector:
    L = problem.L / problem.diagonals[:, :, None]
    rho = _together(problem)
    H = np.eye(problem.dim) * (1 - rho) + rho * L.mean(axis=0)
    return np.asarray(np.linalg.solve(H, (problem.b / problem.diagonals).mean(axis=0)))


def _shift(problem: Quadratics) -> Vector:
    return np.linspace(-1.0, 1.0, problem.dim)


def _shifted_limit(problem: Quadratics) -> Vector:
    s, n = _shift(problem), problem.n_workers
    about = Quadratics(problem.L, problem.b - problem.L @ s)
    return np.asarray(s + _mixed(about, float(n), n * _together(problem)))


def _fixed_limit(problem: Quadratics) -> Vector:
    """Block j of x minimises the f_i of its only worker, all other blocks at zero."""
    x = np.zeros(problem.dim)
    hands = Fixed(problem.n_workers).hands(problem.dim, seed=0, k=0)
    for L, b, S in zip(problem.L, problem.b, hands, strict=True):
        x[S] = np.linalg.solve(L[np.ix_(S, S)], b[S])
    return x


DECLARED: dict[str, Declared] = {
    "identity": Declared(
        "C_i = I",
        lambda p: Dealt(Full(p.n_workers), p.dim, "paper"),
        "update",
        unbiased=True,
        reconstructs=True,
        omega=lambda _: 0.0,
        limit=lambda p: _mixed(p, 1.0, 1.0),
    ),
    "perm": Declared(
        "C_i = n P_i (5)",
        lambda p: Dealt(Perm(p.n_workers), p.dim, "paper"),
        "update",
        unbiased=True,
        reconstructs=True,
        omega=lambda p: p.n_workers - 1.0,
        limit=lambda p: _mixed(p, float(p.n_workers), p.n_workers * _together(p)),
    ),
    "ist": Declared(
        "C_i = P_i, unscaled, as networks are trained",
        lambda p: Dealt(Perm(p.n_workers), p.dim, "as trained"),
        "holders",
        unbiased=False,
        reconstructs=False,
        omega=lambda p: 1 - 1 / p.n_workers,
        limit=lambda p: _mixed(p, 1.0, _together(p)),
    ),
    "rand_q": Declared(
        "C_i = (d/q) sum_{j in S_i} e_j e_j', q = d/2",
        lambda p: Dealt(RandQ(p.n_workers, _half(p)), p.dim, "paper"),
        "update",
        unbiased=True,
        reconstructs=False,
        omega=lambda p: p.dim / _half(p) - 1,
        limit=lambda p: _mixed(
            p, p.dim / _half(p), p.dim / _half(p) * (_half(p) - 1) / max(p.dim - 1, 1)
        ),
    ),
    "bernoulli": Declared(
        "C_i = (1/p) sum_{j kept} e_j e_j', p = 1/2",
        lambda p: Dealt(Bernoulli(p.n_workers, 0.5), p.dim, "paper"),
        "update",
        unbiased=True,
        reconstructs=False,
        omega=lambda _: 1.0,
        limit=lambda p: _mixed(p, 2.0, 1.0),
    ),
    "preconditioned_perm1": Declared(
        "C_i = sqrt(n / [L_i]_jj) e_j e_j', j = pi_i (12)",
        PreconditionedPerm1,
        "update",
        unbiased=False,
        reconstructs=False,
        limit=lambda p: np.asarray(dealt_b(PreconditionedPerm1(p)).mean(axis=0)),
    ),
    "block_preconditioned": Declared(
        "C_i = sqrt(n) [(L_i)_SS]^-1/2, S = S_i",
        BlockPreconditioned,
        "update",
        unbiased=False,
        reconstructs=False,
    ),
    "jacobi": Declared(
        "g_i = P_i D_i^-1 grad f_i(P_i x)",
        Jacobi,
        "holders",
        unbiased=False,
        reconstructs=False,
        limit=_jacobi_limit,
    ),
    "shifted_perm": Declared(
        "w_i = s + n P_i (x - s)",
        lambda p: Shifted(Dealt(Perm(p.n_workers), p.dim, "paper"), _shift(p)),
        "update",
        unbiased=True,
        reconstructs=True,
        omega=None,
        limit=_shifted_limit,
    ),
    "fixed": Declared(
        "C_i = sum_{j in block i} e_j e_j', the same in every round",
        lambda p: Dealt(Fixed(p.n_workers), p.dim, "as trained"),
        "holders",
        unbiased=False,
        reconstructs=False,
        limit=_fixed_limit,
    ),
    "copies": Declared(
        "C_i = d e_j e_j', every coordinate on r = n/d workers",
        lambda p: Dealt(Copies(p.n_workers), p.dim, "paper"),
        "update",
        unbiased=True,
        reconstructs=True,
        omega=lambda p: p.dim - 1.0,
        limit=lambda p: _mixed(p, float(p.dim), 0.0),
    ),
}
