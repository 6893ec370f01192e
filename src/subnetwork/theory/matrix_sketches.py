"""Sketches that are not diagonal: block preconditioning, and any law that a user can sample."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from subnetwork.deals import Hands, Perm
from subnetwork.shapes import Matrices, Matrix, Vector
from subnetwork.theory.problems import Quadratics, require_definite


@dataclass(frozen=True, eq=False)
class MatrixPartition:
    """A draw of (C_1, ..., C_n) as dense symmetric matrices."""

    C: Matrices

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(self.C)

    def select(self, x: Vector, worker: int) -> Vector:
        """w_i = C_i x (Algorithm 1, line 3)."""
        return np.asarray(self.C[worker] @ x)

    def pull(self, gradient: Vector, worker: int) -> Vector:
        """C_i grad f_i(w_i) (line 5)."""
        return np.asarray(self.C[worker] @ gradient)

    def held(self, worker: int) -> Vector:
        """1 where C_i has a non-zero row: the coordinates that worker i may move."""
        return np.asarray((self.C[worker] != 0).any(axis=1), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class AnyLaw:
    """Any law of symmetric psd C_i: `draw(seed, k)` gives the n matrices of round k.

    Its moments come from `draws.sampled`, with a standard error. The same (seed, k) has to give the
    same matrices.

    Raises:
        ValueError: where a draw has another shape, is not finite, not symmetric or not psd.
    """

    draw: Callable[[int, int], Matrices]
    n_workers: int
    dim: int

    def __post_init__(self) -> None:
        self.sample(0, 0)

    def sample(self, seed: int, k: int, /) -> MatrixPartition:
        """The C_i of round k, checked."""
        C = self.draw(seed, k)
        wanted = (self.n_workers, self.dim, self.dim)
        if C.shape != wanted or not np.isfinite(C).all():
            raise ValueError(
                f"The sampler gave an array of shape {C.shape} or with entries that are not "
                f"finite, but {wanted} finite numbers are wanted: one C_i a worker."
            )
        skew = float(np.abs(C - C.transpose(0, 2, 1)).max())
        lowest = float(np.linalg.eigvalsh(C)[:, 0].min())
        if skew > 1e-10 * np.abs(C).max() or lowest < -1e-10 * np.abs(C).max():
            raise ValueError(
                f"eq. (3) wants symmetric psd C_i, but C_i differs from C_i' by {skew:.3g} and has "
                f"the eigenvalue {lowest:.3g}. Use (C + C')/2 and drop negative eigenvalues, or "
                "`Jacobi`, the asymmetric scheme of the lab."
            )
        return MatrixPartition(C)


@dataclass(frozen=True, eq=False)
class BlockPreconditioned:
    """C_i = sqrt(n) [(L_i)_SS]^-1/2 on the block S = S_i of Perm-q: eq. (12) for any q.

    mean_i C_i L_i C_i = I for every draw, which the diagonal version lacks for q > 1. It wants the
    update form (2), since mean_i C_i is not I.

    Raises:
        ValueError: fewer coordinates than workers, or some L_i is not positive definite.
    """

    problem: Quadratics

    def __post_init__(self) -> None:
        self.deal.hands(self.dim, seed=0, k=0)
        for i, L in enumerate(self.problem.L):
            require_definite(L, f"L_i of worker i={i}")

    @property
    def deal(self) -> Perm:
        """Perm on all workers."""
        return Perm(self.problem.n_workers)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.problem.dim

    def cut(self, hands: Hands) -> MatrixPartition:
        """The C_i for given S_i."""
        C = np.zeros_like(self.problem.L)
        for i, S in enumerate(hands):
            block = np.ix_(S, S)
            C[i][block] = np.sqrt(len(hands)) * inverse_root(self.problem.L[i][block])
        return MatrixPartition(C)

    def sample(self, seed: int, k: int, /) -> MatrixPartition:
        """The C_i of round k."""
        return self.cut(self.deal.hands(self.dim, seed=seed, k=k))


def inverse_root(A: Matrix) -> Matrix:
    """A^-1/2 of a positive definite A."""
    values, V = np.linalg.eigh(A)
    return np.asarray((V / np.sqrt(values)) @ V.T)
