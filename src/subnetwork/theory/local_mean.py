"""The exact mean of 2 or 3 local steps on blocks of several coordinates: fixed point and bias.

On its block a worker multiplies by sum_{t < tau} (I - K)^t = sum_r (-1)^r C(tau, r + 1) K^r, with
K = gamma C_i L_i C_i there. So the mean of a round wants E (P K P)^r for r <= tau, which has a
closed form while no more than four coordinates have to be held together: up to tau = 3.
"""

from dataclasses import dataclass
from math import comb

import numpy as np

from subnetwork.shapes import Matrix, Vector
from subnetwork.theory.coincidences import own
from subnetwork.theory.estimator import Occupancy, occupancy, share, sides
from subnetwork.theory.jacobi import Jacobi
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.quadratics import require_quadratics
from subnetwork.theory.simulation import Form
from subnetwork.theory.sketches import DiagonalSketch
from subnetwork.theory.work import GradientSteps

LARGEST = 3  # local steps


@dataclass(frozen=True, eq=False)
class MeanRound:
    """E x+ = x - (B x - u): the mean of a round, its step size inside."""

    B: Matrix
    u: Vector

    @property
    def fixed_point(self) -> Vector:
        """x_inf, where E x^k tends to."""
        return np.asarray(np.linalg.solve(self.B, self.u))

    def bias(self, problem: Quadratics) -> float:
        """f(x_inf) - f*: what remains of the mean iterate."""
        return problem.gap(self.fixed_point)


def mean_of_local_steps(
    work: GradientSteps, sketch: DiagonalSketch | Jacobi, form: Form
) -> MeanRound:
    """The mean of a round with 1 to 3 local steps, for any q, deal and diagonal scale.

    Args:
        work: the problem, gamma and tau.
        sketch: a diagonal sketch with a closed-form occupancy.
        form: the merge; "holders" where every entry has one holder.

    Raises:
        ValueError: more than 3 local steps, which take more than four coordinates at once, or a
            deal without a closed form.
    """
    if work.n_steps > LARGEST:
        raise ValueError(
            f"The mean of n_steps={work.n_steps} local steps on blocks takes {work.n_steps + 1} "
            f"coordinates at once; closed forms are here up to n_steps={LARGEST}. Use "
            "`draws.enumerated` for a small problem, or `draws.sampled`."
        )
    problem = require_quadratics(work.problem, "The closed form of a round")
    forward, backward = sides(sketch)
    law = occupancy(sketch.deal, problem.dim)
    weight = share(sketch) if form == "holders" else 1 / problem.n_workers
    B, u = np.zeros((problem.dim, problem.dim)), np.zeros(problem.dim)
    for i, (L, b) in enumerate(zip(problem.L, problem.b, strict=True)):
        s = np.sqrt(work.step_size * backward[i])
        powers = _powers(s[:, None] * L * s, law, i, work.n_steps)
        signs = [(-1) ** r * comb(work.n_steps, r + 1) for r in range(work.n_steps)]
        times_K = sum(c * powers[r + 1] for r, c in enumerate(signs))
        times_b = sum(c * powers[r] for r, c in enumerate(signs))
        B += weight * (s[:, None] * times_K / s) * forward[i]
        u += weight * s * (times_b @ (s * b))
        if form == "merge":  # x is forgotten: what comes back of it is mean_i C_i x
            B -= weight * law.of_worker(i)[1] * np.diag(forward[i])
    return MeanRound(B + np.eye(problem.dim) if form == "merge" else B, u)


def _powers(K: Matrix, law: Occupancy, worker: int, highest: int) -> list[Matrix]:
    """E (P K P)^r for r = 0 (E P itself), ..., `highest`, and a symmetric K."""
    together, eye = law.of_worker(worker), np.eye(len(K))
    one, two = together[1], together[2]
    D = np.diag(np.diag(K))
    found = [one * eye, one * D + two * (K - D)]
    if highest > 1:
        found.append(own(K, eye, together))
    if highest > 2:
        found.append(own(K, K, together))
    return found
