"""Diagonal sketches C_i of the lab: a deal from `subnetwork.deals` and the scale of what is held.

Two semantics are told apart everywhere and have no common default (`SEMANTICS`): on *paper* C_i
carries a scale that makes E C_i = I; *as trained*, in networks, C_i is a 0/1 mask.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from subnetwork.deals import Bernoulli, Deal, Full, Hands, Perm, RandQ
from subnetwork.shapes import PerWorker, Vector
from subnetwork.theory.copies import Copies
from subnetwork.theory.problems import Quadratics

Semantics: TypeAlias = Literal["paper", "as trained"]
SEMANTICS: tuple[Semantics, ...] = ("paper", "as trained")


@dataclass(frozen=True, eq=False)
class DiagonalPartition:
    """A draw of (C_1, ..., C_n), all diagonal.

    Attributes:
        scale: the diagonal of C_i in row i; zero where worker i does not hold the coordinate.
        hands: S_i, the coordinates that worker i holds.
    """

    scale: PerWorker
    hands: Hands

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        return len(self.hands)

    def select(self, x: Vector, worker: int) -> Vector:
        """w_i = C_i x (Algorithm 1, line 3)."""
        return np.asarray(self.scale[worker] * x)

    def pull(self, gradient: Vector, worker: int) -> Vector:
        """C_i grad f_i(w_i): the gradient with respect to the submodel (line 5)."""
        return np.asarray(self.scale[worker] * gradient)

    def held(self, worker: int) -> Vector:
        """1 where worker i holds the coordinate, 0 elsewhere."""
        return np.asarray(self.scale[worker] != 0, dtype=np.float64)


@runtime_checkable
class LinearPartition(Protocol):
    """A draw of (C_1, ..., C_n) that may be anything linear: what `theory.work` and merges need."""

    @property
    def n_workers(self) -> int:
        """Number of workers n."""
        ...

    def select(self, x: Vector, worker: int, /) -> Vector:
        """w_i (line 3)."""
        ...

    def pull(self, gradient: Vector, worker: int, /) -> Vector:
        """The gradient of f_i at w_i, back in the coordinates that worker i may move (line 5)."""
        ...

    def held(self, worker: int, /) -> Vector:
        """1 where worker i holds the coordinate, 0 elsewhere."""
        ...


@runtime_checkable
class DiagonalSketch(Protocol):
    """A law of diagonal sketches: who holds coordinate j is dealt, with which scale is not."""

    @property
    def deal(self) -> Deal:
        """The law of (S_1, ..., S_n)."""
        ...

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        ...

    @property
    def scales(self) -> PerWorker:
        """[C_i]_jj where worker i holds coordinate j."""
        ...

    def cut(self, hands: Hands, /) -> DiagonalPartition:
        """The C_i for given S_i."""
        ...

    def sample(self, seed: int, k: int, /) -> DiagonalPartition:
        """The cut of round k."""
        ...


@dataclass(frozen=True)
class Dealt:
    """C_i = s P_i: what a deal hands out, times one number.

    On paper s makes E C_i = I: 1 for `Full` (Identity), n for `Perm` (Perm-q, eq. 5), d/q for
    `RandQ`, 1/p for `Bernoulli` and d for `Copies` (n > d). As trained s = 1. Perm
    with unequal weights keeps s = n, hence mean_i C_i = I in every round, and has E C_i = n w_i I.

    >>> Dealt(Perm(2), 3, "paper").sample(0, 0).scale
    array([[2., 2., 0.],
           [0., 0., 2.]])
    """

    deal: Deal
    dim: int
    semantics: Semantics

    def __post_init__(self) -> None:
        if self.semantics not in SEMANTICS:
            raise ValueError(
                f"There are no semantics {self.semantics!r}. Say 'paper' (C_i with the scale that "
                "makes E C_i = I) or 'as trained' (0/1 masks)."
            )
        self.deal.hands(self.dim, seed=0, k=0)  # refuses now what could not be dealt later

    @property
    def scales(self) -> PerWorker:
        """The same s for every worker and coordinate."""
        s = 1.0 if self.semantics == "as trained" else _scale_on_paper(self.deal, self.dim)
        return np.full((self.deal.n_workers, self.dim), s)

    def cut(self, hands: Hands) -> DiagonalPartition:
        """The C_i for given S_i."""
        return diagonal_cut(self.scales, hands)

    def sample(self, seed: int, k: int, /) -> DiagonalPartition:
        """The C_i of round k, drawn together."""
        return self.cut(self.deal.hands(self.dim, seed=seed, k=k))


@dataclass(frozen=True, eq=False)
class PreconditionedPerm1:
    """C_i = sqrt(n / [L_i]_jj) e_j e_j' with j = pi_i: Perm-1 in the units of L_i (eqs. 12, 32).

    mean_i C_i L_i C_i = I for *every* permutation, not only on average (eqs. 13, 33), but
    mean_i C_i is not I: the merge (4) and the update (2) are different methods, and the theorems
    speak of (2).

    Raises:
        ValueError: n != d, or some [L_i]_jj is not positive.
    """

    problem: Quadratics

    def __post_init__(self) -> None:
        n, d = self.problem.n_workers, self.problem.dim
        if n != d:
            raise ValueError(
                f"Preconditioned Perm-1 deals one coordinate to each worker, but there are d={d} "
                f"coordinates for n_workers={n}. Use n_workers={d}, or Perm, which takes any d."
            )
        require_diagonals(self.problem, "eq. (12) divides by its root")

    @property
    def deal(self) -> Perm:
        """One coordinate a worker."""
        return Perm(self.problem.n_workers)

    @property
    def dim(self) -> int:
        """Number of coordinates d."""
        return self.problem.dim

    @property
    def scales(self) -> PerWorker:
        """sqrt(n / [L_i]_jj)."""
        return np.sqrt(self.problem.n_workers / self.problem.diagonals)

    def cut(self, hands: Hands) -> DiagonalPartition:
        """The C_i for given S_i."""
        return diagonal_cut(self.scales, hands)

    def sample(self, seed: int, k: int, /) -> DiagonalPartition:
        """The C_i of round k, drawn together."""
        return self.cut(self.deal.hands(self.dim, seed=seed, k=k))


def require_diagonals(problem: Quadratics, why: str) -> None:
    """Raise ValueError unless every [L_i]_jj is positive."""
    D = problem.diagonals
    if D.min() <= 0:
        i, j = np.unravel_index(int(D.argmin()), D.shape)
        raise ValueError(
            f"[L_i]_jj = {D[i, j]:.3g} for worker i={i}, coordinate j={j}, but {why}. Add a ridge "
            "such as 0.001 to the problem."
        )


def _scale_on_paper(deal: Deal, dim: int) -> float:
    match deal:
        case Full():
            return 1.0
        case Perm():
            return float(deal.n_workers)
        case RandQ():
            return dim / deal.q
        case Bernoulli():
            return 1 / deal.p
        case Copies():
            return float(dim)
    raise ValueError(
        f"The scale of {type(deal).__name__} on paper is not known. Use Full, Perm, RandQ, "
        "Bernoulli or Copies, or the semantics 'as trained'."
    )


def diagonal_cut(scales: PerWorker, hands: Hands) -> DiagonalPartition:
    """The C_i of diagonal `scales` where the workers hold these coordinates, 0 elsewhere."""
    held = np.zeros_like(scales)
    for i, hand in enumerate(hands):
        held[i, hand] = scales[i, hand]
    return DiagonalPartition(held, hands)
