"""Theorem (22)-(24) measured: Perm-q on a problem whose f_i are all minimal at zero."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments import evidence
from subnetwork.experiments.evidence import Evidence, Sides
from subnetwork.experiments.outcome import Outcome, at_most, equal
from subnetwork.theory.curves import expected, expected_perm1, stable_step
from subnetwork.theory.estimator import estimator
from subnetwork.theory.perm1 import BLB_28, BLB_28_corrected
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.simulation import Simulation
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.theorems import StationaryPoints, smallest_theta, stationary_points
from subnetwork.theory.work import GradientSteps

NAME, EQUATION = "interpolation", "(24)"
LEFT_SIDE = "mean over k < K of ‖∇f(xᵏ)‖², norm L⁻¹WL⁻¹"


def run(
    problem: Quadratics,
    *,
    n_rounds: int = 300,
    n_seeds: int = 400,
    seed: int = 0,
    step_size: float | None = None,
    n_threads: int = 1,
) -> Evidence:
    """Run Algorithm 1 from x^0 = (1, ..., 1) with b_i = 0 and compare both sides of eq. (24).

    Args:
        problem: quadratics with d >= n; their b_i are set to zero. n = d makes the sketch Perm-1.
        n_rounds: the largest horizon K.
        n_seeds: runs to average over.
        seed: the seed of these runs' seeds.
        step_size: gamma; 1/theta where None.
        n_threads: threads that share the seeds; changes no number.

    Returns:
        Rows of both sides, the bound missing where the theorem is silent, and the verdicts: (24),
        agreement with the exact expectation and, for Perm-1, theta of eq. (28).

    Raises:
        ValueError: d < n, no rounds or seeds, a step size outside (0, 1/theta]; or no step size
            where the theorem is silent and so names none.
    """
    evidence.require_runs(n_rounds, n_seeds)
    problem = problem.minimised_at_zero()
    sketch = Dealt(Perm(problem.n_workers), problem.dim, "paper")
    theorem, e = stationary_points(problem, sketch), estimator(problem, sketch)
    gamma = _step(theorem, step_size, n_rounds)
    curve = expected_perm1 if problem.n_workers == problem.dim else expected
    both = evidence.both_ways(
        Simulation(sketch, GradientSteps(problem, gamma), "update"),
        theorem.form,
        curve(problem, e, np.ones(problem.dim), step_size=gamma),
        n_rounds=n_rounds,
        seeds=evidence.run_seeds(seed, n_seeds),
        n_threads=n_threads,
    )
    bounds = _bounds(theorem, both, gamma)
    config = {
        "equation": EQUATION,
        "left_side": LEFT_SIDE,
        "sketch": f"Perm-{problem.dim / problem.n_workers:g}",
        "merge": "update form (2)",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds, seed=seed),
        "step_size": gamma,
    }
    outcomes = [evidence.below(both, bounds, EQUATION, NAME)]
    outcomes.append(evidence.agreement(both, EQUATION, NAME))
    if problem.n_workers == problem.dim:
        outcomes += theta_28(problem, theorem)
    return Evidence(NAME, config, evidence.rows(both, bound=bounds), outcomes)


def _step(theorem: StationaryPoints, step_size: float | None, n_rounds: int) -> float:
    """1/theta or what was asked for; refuses a step size before anything runs."""
    gamma = theorem.largest_step if step_size is None else step_size
    if not theorem.check():
        evidence.require_progress(gamma, theorem.largest_step)
        theorem.bound(0.0, gamma, n_rounds)
    return gamma


def _bounds(theorem: StationaryPoints, both: Sides, step_size: float) -> list[float | None]:
    """The right side at every horizon; None throughout where an assumption fails."""
    if theorem.check():
        return [None] * len(both.horizons)
    return [
        theorem.bound(drop, step_size, K)
        for K, drop in zip(both.horizons, both.drop.tolist(), strict=True)
    ]


def theta_28(problem: Quadratics, theorem: StationaryPoints) -> list[Outcome]:
    """Theta of eq. (28) beside the exact one, and what a step of 1/theta of each does.

    Args:
        problem: the quadratics of `theorem`, with n = d.
        theorem: (22)-(24) for Perm-1, from exact moments. Nothing is said where W is not psd.
    """
    if theorem.check():
        return []
    printed = smallest_theta(BLB_28(problem), theorem.W)
    corrected = smallest_theta(BLB_28_corrected(problem), theorem.W)
    exact = theorem.theta
    limit = stable_step(problem, estimator(problem, Dealt(Perm(problem.dim), problem.dim, "paper")))
    return [
        equal(
            "The smallest theta of (23) for Perm-1 is the one of (28)", "(28)", exact, printed
        ).with_correction(
            "E[B L B] = n² L̄ ∘ (d d' + Cov): (28) drops the covariance of the dealt diagonals; "
            f"with it theta = {corrected:.5g}",
            abs(corrected - exact) <= 1e-9 * exact,
        ),
        at_most(
            "The step 1/theta of (28) is at most the largest one with E|x|² bounded",
            "(28)",
            1 / printed,
            limit,
        ).with_correction(f"1/theta with the exact theta is {1 / exact:.4g}", 1 / exact <= limit),
    ]
