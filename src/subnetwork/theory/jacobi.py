"""Two sketches beside C_i grad f_i(C_i x): the asymmetric Jacobi scheme, and a shifted model."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from subnetwork.deals import Deal, Hands, Perm
from subnetwork.shapes import PerWorker, Vector
from subnetwork.theory.enumeration import CutByHands
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import DiagonalPartition, LinearPartition, require_diagonals

P = TypeVar("P", bound=LinearPartition)


@dataclass(frozen=True, eq=False)
class JacobiPartition:
    """A draw of the P_i; the gradient comes back divided by the diagonal of L_i."""

    mask: DiagonalPartition
    backward: PerWorker

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return self.mask.n_workers

    def select(self, x: Vector, worker: int) -> Vector:
        """w_i = P_i x: the coordinates as they are."""
        return self.mask.select(x, worker)

    def pull(self, gradient: Vector, worker: int) -> Vector:
        """P_i D_i^-1 grad f_i(w_i)."""
        return self.mask.pull(self.backward[worker] * gradient, worker)

    def held(self, worker: int) -> Vector:
        """1 where worker i holds the coordinate."""
        return self.mask.held(worker)


@dataclass(frozen=True, eq=False)
class Jacobi:
    """g_i = P_i D_i^-1 grad f_i(P_i x), D_i = Diag(L_i): preconditioned on the way back only.

    Merged over the holders, as trained. Its fixed point is in the units of x, which that of the
    symmetric sketch (12) is not: f -> c f leaves it alone.

    Raises:
        ValueError: some [L_i]_jj is not positive.
    """

    problem: Quadratics

    def __post_init__(self) -> None:
        require_diagonals(self.problem, "the Jacobi scheme divides by it")
        self.deal.hands(self.dim, seed=0, k=0)

    @property
    def deal(self) -> Perm:
        """Perm on all workers."""
        return Perm(self.problem.n_workers)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.problem.dim

    @property
    def backward(self) -> PerWorker:
        """1 / [L_i]_jj."""
        return np.asarray(1 / self.problem.diagonals)

    def cut(self, hands: Hands) -> JacobiPartition:
        """The scheme for given S_i."""
        mask = np.zeros_like(self.problem.b)
        for i, hand in enumerate(hands):
            mask[i, hand] = 1.0
        return JacobiPartition(DiagonalPartition(mask, hands), self.backward)

    def sample(self, seed: int, k: int, /) -> JacobiPartition:
        """The cut of round k."""
        return self.cut(self.deal.hands(self.dim, seed=seed, k=k))


@dataclass(frozen=True, eq=False)
class ShiftedPartition(Generic[P]):
    """A draw of (C_1, ..., C_n) about the shift s."""

    about_zero: P
    shift: Vector

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return self.about_zero.n_workers

    def select(self, x: Vector, worker: int) -> Vector:
        """w_i = s + C_i (x - s)."""
        return np.asarray(self.shift + self.about_zero.select(x - self.shift, worker))

    def pull(self, gradient: Vector, worker: int) -> Vector:
        """C_i grad f_i(w_i)."""
        return self.about_zero.pull(gradient, worker)

    def held(self, worker: int) -> Vector:
        """1 where worker i holds the coordinate."""
        return self.about_zero.held(worker)


@dataclass(frozen=True, eq=False)
class Shifted(Generic[P]):
    """w_i = s + C_i (x - s), g_i = C_i grad f_i(w_i): a sketch about s and not zero (MAST).

    In y = x - s this is the sketch on the problem with b_i - L_i s in place of b_i.
    """

    sketch: CutByHands[P]
    shift: Vector

    @property
    def deal(self) -> Deal:
        """The deal of the sketch."""
        return self.sketch.deal

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.sketch.dim

    def cut(self, hands: Hands) -> ShiftedPartition[P]:
        """The sketch for given S_i."""
        return ShiftedPartition(self.sketch.cut(hands), self.shift)

    def sample(self, seed: int, k: int, /) -> ShiftedPartition[P]:
        """The cut of round k."""
        return self.cut(self.sketch.deal.hands(self.dim, seed=seed, k=k))
