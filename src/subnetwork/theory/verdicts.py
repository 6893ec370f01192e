"""Every theorem of the lab asked about one sketch on one problem: does it speak, and what of?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from subnetwork.deals import Full, Perm
from subnetwork.theory import special_cases
from subnetwork.theory.estimator import Estimator
from subnetwork.theory.moments import Linear, mean_B, second_B
from subnetwork.theory.prior_work import BoundedGradient
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.special_cases import SpecialCase
from subnetwork.theory.theorem_a import TheoremA, theorem_a
from subnetwork.theory.theorems import StationaryPoints, neighbourhood


@dataclass(frozen=True)
class Verdict:
    """What one theorem says here.

    Attributes:
        equations: its numbers.
        silent: assumptions that fail; none means that it speaks.
        largest_step: of its step sizes; None where it is silent.
        floor: step size -> what its bound tends to.
        measured: what the floor is a floor of.
    """

    equations: str
    silent: tuple[str, ...]
    largest_step: float | None
    floor: Callable[[float], float]
    measured: str

    def row(self, step_size: float) -> tuple[str, ...]:
        """Name, verdict, step sizes, floor at this step and its norm, as words."""
        if self.largest_step is None:
            return (self.equations, "silent", "-", "-", self.measured)
        if step_size > self.largest_step * (1 + 1e-12):
            return (self.equations, "speaks", f"{self.largest_step:.4g}", "-", self.measured)
        floor = self.floor(step_size)
        return (
            self.equations,
            "speaks here",
            f"{self.largest_step:.4g}",
            f"{floor:.4g}",
            self.measured,
        )


def verdicts(problem: Quadratics, sketch: object, linear: Linear) -> list[Verdict]:
    """All theorems that this sketch can be asked about, the silent ones with their reasons."""
    found = [_stationary(problem, linear), _euclidean(theorem_a(linear))]
    if isinstance(sketch, PreconditionedPerm1):
        theorem = neighbourhood(sketch)
        found.append(
            Verdict(
                "(18)-(19), tightened",
                (),
                1.0,
                lambda gamma: theorem.bias + gamma * theorem.sigma2,
                "mean |grad f|^2, norm L^-1",
            )
        )
        found.append(_special(lambda: special_cases.heterogeneous(sketch), "(32)-(34)"))
    if isinstance(sketch, Dealt) and isinstance(sketch.deal, Full):
        found.append(_special(lambda: special_cases.gradient_descent(problem), "(25)-(26)"))
    if isinstance(sketch, Dealt) and isinstance(sketch.deal, Perm) and _is_perm1(sketch):
        found.append(_special(lambda: special_cases.perm1(problem), "(27)-(28), corrected"))
    return [*found, _bounded(problem)]


def _is_perm1(sketch: Dealt) -> bool:
    return sketch.semantics == "paper" and sketch.deal.n_workers == sketch.dim


def _stationary(problem: Quadratics, linear: Linear) -> Verdict:
    LB = problem.L_bar @ mean_B(linear)
    norms = [float(np.linalg.norm(problem.b, axis=1).max())]
    if isinstance(linear, Estimator):
        norms += [float(np.abs(linear.noise.U).max(initial=0.0))]
        norms += [0.0 if linear.origin is None else float(np.abs(linear.origin).max())]
    BLB = second_B(linear, problem.L_bar)
    theorem = StationaryPoints(problem.L_bar, (LB + LB.T) / 2, BLB, max(norms))
    return _asked(theorem, "(22)-(24)", "mean |grad f|^2, norm L^-1 W L^-1")


def _euclidean(theorem: TheoremA) -> Verdict:
    silent = tuple(theorem.check())
    largest = None if silent else theorem.largest_step
    return Verdict("A", silent, largest, theorem.floor, "E|x^k - x_inf|^2")


def _special(make: Callable[[], SpecialCase], equations: str) -> Verdict:
    try:
        theorem = make()
    except ValueError as reason:
        return Verdict(equations, (str(reason),), None, lambda _: 0.0, "mean |grad f|^2")
    norm = "mean |grad f|^2" if theorem.plain else "mean |grad f|^2, norm L^-1 W L^-1"
    return _asked(theorem, equations, norm)


def _asked(theorem: Any, equations: str, measured: str) -> Verdict:  # noqa: ANN401
    silent = tuple(theorem.check())
    largest = None if silent else float(theorem.largest_step)
    return Verdict(equations, silent, largest, lambda _: 0.0, measured)


def _bounded(problem: Quadratics) -> Verdict:
    """Assumption (7), (21) with any G: shown for G = |grad f(0)|^2 + 1."""
    G = float(problem.b_bar @ problem.b_bar) + 1.0
    silent = tuple(BoundedGradient(problem, G).check())
    return Verdict("(7), (21)", silent, None, lambda _: 0.0, "prior work")
