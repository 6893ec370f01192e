"""How far argmin F is from argmin f, for any convex problem: ours, in the manner of MAST."""

from dataclasses import dataclass

import numpy as np

from subnetwork.shapes import Vector
from subnetwork.theory.estimator import occupancy
from subnetwork.theory.problem import SolvedProblem
from subnetwork.theory.sketches import DiagonalSketch


@dataclass(frozen=True, eq=False)
class GapOfMinima:
    """f* <= F* and f(x_F) - f* <= x*' (E[mean_i C_i L_i C_i] - L_bar) x* / 2, x_F = argmin F.

    For convex f_i that are smooth with the matrices L_i, and E C_i = I (theory notes, 3.6). By
    Jensen's inequality f <= F, and Assumption 1 at x* bounds F(x_F) <= F(x*). Quadratic or not.
    """

    problem: SolvedProblem
    sketch: DiagonalSketch

    def check(self) -> list[str]:
        """The violated assumptions, one sentence each; none means that the theorem speaks."""
        violated = []
        for assumption in (self._require_unbiased, self._require_convex, self._require_solution):
            try:
                assumption()
            except ValueError as reason:
                violated.append(str(reason))
        return violated

    def measure(self, x_F: Vector) -> float:
        """The left side: f(x_F) - f*."""
        return self.problem.gap(x_F)

    def bound(self) -> float:
        """The right side.

        Raises:
            ValueError: an assumption of `check()` fails.
        """
        for sentence in self.check():
            raise ValueError(f"The bound on the gap of minima is silent: {sentence}")
        problem, x = self.problem, self.problem.minimiser
        together = occupancy(self.sketch.deal, problem.dim).together
        total = 0.0
        for i, s in enumerate(self.sketch.scales):
            full = s * x @ problem.worker_product(i, s * x)
            single = problem.diagonals[i] @ (s * x) ** 2
            whole = x @ problem.worker_product(i, x)
            total += together[2] * full + (together[1] - together[2]) * single - whole
        return float(total / (2 * problem.n_workers))

    def _require_unbiased(self) -> None:
        mean = occupancy(self.sketch.deal, self.problem.dim).together[1] * self.sketch.scales
        off = float(np.abs(mean - 1).max())
        if off > 1e-12:
            raise ValueError(
                f"E C_i differs from I by {off:.3g}. Use the semantics 'paper', whose scales make "
                "it I."
            )

    def _require_convex(self) -> None:
        problem = self.problem
        mu = [problem.worker_convexity(i) for i in range(problem.n_workers)]
        worst = int(np.argmin(mu))
        rounding = problem.dim * np.finfo(np.float64).eps * problem.worker_smoothness(worst)
        if mu[worst] < -rounding:
            raise ValueError(
                f"f_i of worker i={worst} has the curvature {mu[worst]:.3g} < 0. Add a ridge of "
                f"{-mu[worst]:.1g} or more to the problem."
            )

    def _require_solution(self) -> None:
        _ = self.problem.minimiser
