"""Theorem (18)-(19) measured: preconditioned Perm-1 on a problem with any b_i."""

import numpy as np

from subnetwork.experiments import evidence
from subnetwork.experiments.evidence import Evidence, Sides
from subnetwork.experiments.outcome import Outcome, equal
from subnetwork.record import Row
from subnetwork.theory.curves import expected_preconditioned
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.simulation import Simulation
from subnetwork.theory.sketches import PreconditionedPerm1
from subnetwork.theory.theorems import Neighbourhood, neighbourhood
from subnetwork.theory.work import GradientSteps

FOLLOWED = 1e-3  # the smallest step size at which the limit is followed, in 40/gamma rounds
NAME, EQUATION = "neighbourhood", "(19)"
LEFT_SIDE = "mean over k < K of ‖∇f(xᵏ)‖², norm L⁻¹"


def run(
    problem: Quadratics,
    *,
    n_rounds: int = 300,
    n_seeds: int = 400,
    seed: int = 0,
    step_size: float | None = None,
    beta: float = 0.25,
    n_threads: int = 1,
) -> Evidence:
    """Run preconditioned Perm-1 from x^0 = (1, ..., 1) and compare both sides of eq. (19).

    Args:
        problem: quadratics with n = d and positive diagonals.
        n_rounds: the largest horizon K.
        n_seeds: runs to average over.
        seed: the seed of these runs' seeds.
        step_size: gamma; the largest that `beta` allows where None.
        beta: of the theorem, in (0, 1/2).
        n_threads: threads that share the seeds; changes no number.

    Returns:
        Rows of the left side, the right side as printed and as tightened, and the verdicts.

    Raises:
        ValueError: n != d, a diagonal that is not positive, beta outside (0, 1/2), no rounds or
            seeds, or a step size outside (0, (1/2 - beta) / (1/2 + beta)].
    """
    evidence.require_runs(n_rounds, n_seeds)
    sketch = PreconditionedPerm1(problem)
    theorem = neighbourhood(sketch)
    gamma = theorem.largest_step(beta) if step_size is None else step_size
    theorem.bound(0.0, gamma, n_rounds, beta=beta)  # refuses a step size before anything runs
    evidence.require_progress(gamma, theorem.largest_step(beta))
    both = evidence.both_ways(
        Simulation(sketch, GradientSteps(problem, gamma), "update"),
        theorem.form,
        expected_preconditioned(sketch, np.ones(problem.dim), step_size=gamma),
        n_rounds=n_rounds,
        seeds=evidence.run_seeds(seed, n_seeds),
        n_threads=n_threads,
    )
    config = {
        "equation": EQUATION,
        "left_side": LEFT_SIDE,
        "sketch": "preconditioned Perm-1",
        "merge": "update form (2)",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds, seed=seed),
        "step_size": gamma,
        "beta": beta,
    }
    table, outcomes = _against(both, theorem, gamma, beta)
    if gamma >= FOLLOWED:
        outcomes.append(floor(sketch, theorem, gamma))
    return Evidence(NAME, config, table, outcomes)


def _against(
    both: Sides, theorem: Neighbourhood, step_size: float, beta: float
) -> tuple[list[Row], list[Outcome]]:
    """The left side beside the right side as printed and as tightened, at every horizon."""
    at = list(zip(both.drop.tolist(), both.horizons, strict=True))
    printed = [theorem.bound(drop, step_size, K, beta=beta) for drop, K in at]
    tightened = [theorem.tightened(drop, step_size, K) for drop, K in at]
    return evidence.rows(both, bound=printed, tightened=tightened), [
        evidence.below(both, printed, EQUATION, NAME),
        evidence.below(both, tightened, "(19), tightened", NAME),
        evidence.agreement(both, EQUATION, NAME),
    ]


def floor(sketch: PreconditionedPerm1, theorem: Neighbourhood, step_size: float) -> Outcome:
    """The left side's limit, followed through its moments, beside its closed form."""
    far = expected_preconditioned(sketch, theorem.h * 0 + 1, step_size=step_size)
    enough = int(40 / -np.log1p(-step_size)) if step_size < 1 else 2
    limit = next(now.of(theorem.form) for k, now in enumerate(far) if k == enough)
    return equal(
        "The measure tends to |h|^2_L + gamma/(2 - gamma) sigma^2, which no horizon removes",
        "(19)",
        limit,
        theorem.floor(step_size),
    )
