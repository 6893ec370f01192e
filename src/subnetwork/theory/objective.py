"""What IST minimises: with symmetric sketches it is SGD on F(x) = mean_i E f_i(C_i x).

grad F(x) = mean_i E C_i grad f_i(C_i x), as grad_x f_i(C x) = C' grad f_i(C x) for every
differentiable f_i (MAST with shift 0; Demidovich et al. 2023). So the fixed point of the method is
argmin F, and its bias is the distance from there to argmin f. F needs the law of each C_i alone,
not the joint one: Perm-q and independent Rand-q have the same F.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from subnetwork.deals import Perm
from subnetwork.shapes import Vector
from subnetwork.theory.averaged import AveragedObjective, enumerated, sampled
from subnetwork.theory.estimator import occupancy
from subnetwork.theory.linear import solve_definite
from subnetwork.theory.problem import Problem, QuadraticProblem, SolvedProblem
from subnetwork.theory.quadratics import Quadratics, require_definite
from subnetwork.theory.sketches import DiagonalSketch


@runtime_checkable
class Objective(Protocol):
    """F, to be evaluated and minimised."""

    @property
    def minimiser(self) -> Vector:
        """x_F = argmin F; raises ValueError where it is not found."""
        ...

    def value(self, x: Vector) -> float:
        """F(x)."""
        ...

    def gradient(self, x: Vector) -> Vector:
        """Gradient of F."""
        ...


def objective(
    problem: Problem, sketch: DiagonalSketch, *, n_draws: int | None = None, seed: int = 0
) -> "QuadraticObjective | AveragedObjective":
    """F of a problem and a sketch: exact where it can be, else by Monte Carlo.

    Args:
        problem: quadratic or not.
        sketch: diagonal, hence symmetric.
        n_draws: rounds to average over, for problems that are not quadratic; None enumerates the
            hands of a worker, which is exact.
        seed: of the draws.

    Raises:
        ValueError: no draws are given and there are more than 100,000 hands, or a deal whose
            workers differ, which has to be drawn.
    """
    if isinstance(problem, QuadraticProblem) and n_draws is None:
        return QuadraticObjective(problem, sketch)
    if n_draws is None:
        return enumerated(problem, sketch)
    return sampled(problem, sketch, n_draws=n_draws, seed=seed)


def bias(problem: SolvedProblem, F: Objective) -> float:
    """f(x_F) - f*: what no step size removes."""
    return problem.gap(F.minimiser)


def bias_and_error(
    problem: SolvedProblem, F: AveragedObjective, *, n_batches: int = 8
) -> tuple[float, float]:
    """f(x_F) - f* and its standard error; 0 where F is exact.

    The first number uses all draws; the spread over batches of them says how well it is known.
    """
    if not F.drawn:
        return bias(problem, F), 0.0
    each = [problem.gap(batch.minimiser) for batch in F.batches(n_batches)]
    return bias(problem, F), float(np.std(each, ddof=1) / np.sqrt(n_batches))


@dataclass(frozen=True, eq=False)
class QuadraticObjective:
    """F of quadratics exactly: F(x) = x' H x / 2 - x' c.

    H = mean_i E C_i L_i C_i and c = mean_i E C_i b_i, from the probabilities that a worker holds
    one and two given coordinates. Products with the L_i are all it takes, so sparse and factored
    problems stay as they are.

    Raises:
        ValueError: a deal whose moments have no closed form.
    """

    problem: QuadraticProblem
    sketch: DiagonalSketch

    def __post_init__(self) -> None:
        deal = self.sketch.deal
        if isinstance(deal, Perm) and len(set(deal.weights or (1,))) > 1:
            raise ValueError(
                f"F of {deal} has no closed form here, as its workers are not exchangeable. Give "
                "n_draws=1000, or equal weights."
            )
        occupancy(deal, self.problem.dim)

    def value(self, x: Vector) -> float:
        """F(x)."""
        return float(x @ (self._product(x) / 2 - self._c))

    def gradient(self, x: Vector) -> Vector:
        """H x - c."""
        return np.asarray(self._product(x) - self._c)

    @cached_property
    def minimiser(self) -> Vector:
        """x_F = H^-1 c: by Cholesky for dense problems, else to a residual of 1e-12.

        Raises:
            ValueError: H is not positive definite.
        """
        if not isinstance(self.problem, Quadratics):
            return solve_definite(self._product, self._c, self._diagonal, "mean_i E C_i L_i C_i")
        s, (one, two) = self.sketch.scales, self._held
        kept = two + (one - two) * np.eye(self.problem.dim)
        H = kept * np.einsum("ij,ijl,il->jl", s, self.problem.L, s) / self.problem.n_workers
        require_definite(H, "mean_i E C_i L_i C_i")
        return np.asarray(cho_solve(cho_factor(H), self._c))

    @property
    def _held(self) -> tuple[float, float]:
        """The probabilities that a worker holds one given coordinate, and two given ones."""
        together = occupancy(self.sketch.deal, self.problem.dim).together
        return together[1], together[2]

    @cached_property
    def _diagonal(self) -> Vector:
        return np.asarray(self._held[0] * (self.sketch.scales**2 * self.problem.diagonals).mean(0))

    @cached_property
    def _c(self) -> Vector:
        return np.asarray(self._held[0] * (self.sketch.scales * self.problem.b).mean(axis=0))

    def _product(self, x: Vector) -> Vector:
        """H x: the diagonals count with the probability of one coordinate, the rest of two."""
        scales, (one, two) = self.sketch.scales, self._held
        total = np.zeros_like(x)
        for i, s in enumerate(scales):
            total += s * self.problem.worker_product(i, s * x)
        single = (scales**2 * self.problem.diagonals).sum(axis=0) * x
        return np.asarray((two * total + (one - two) * single) / len(scales))
