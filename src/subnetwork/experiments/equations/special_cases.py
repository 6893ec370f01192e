"""(25)-(26), (29)-(31), (32)-(34): the special cases, both sides against the horizon K."""

import numpy as np

from subnetwork.deals import Full, Perm
from subnetwork.experiments import evidence
from subnetwork.experiments.evidence import Evidence
from subnetwork.theory import special_cases
from subnetwork.theory.curves import expected
from subnetwork.theory.estimator import estimator
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.simulation import Simulation
from subnetwork.theory.sketches import Dealt, DiagonalSketch, PreconditionedPerm1
from subnetwork.theory.special_cases import SpecialCase
from subnetwork.theory.work import GradientSteps


def gradient_descent(*, n_rounds: int = 100) -> Evidence:
    """(25)-(26) on trig(5, 5) with b_i = 0, gamma = 1/lambda_max(L_bar)."""
    problem = trig(5, 5).minimised_at_zero()
    case = special_cases.gradient_descent(problem)
    return _both_sides("eq_25_26", problem, Dealt(Full(5), 5, "paper"), case, n_rounds, 2)


def homogeneous(*, n_rounds: int = 100) -> Evidence:
    """(29)-(31) on L_bar of trig(5, 5), gamma = 1/n: B = n I always, so one run is all."""
    L = trig(5, 5).L_bar
    case = special_cases.homogeneous(Quadratics(np.stack([L] * 5), np.zeros((5, 5))))
    scaled = Quadratics(np.stack([case.matrix] * 5), np.zeros((5, 5)))
    return _both_sides("eq_29_31", scaled, Dealt(Perm(5), 5, "paper"), case, n_rounds, 2)


def heterogeneous(*, n_rounds: int = 100, step_size: float = 0.2) -> Evidence:
    """(32)-(34) on trig(5, 5), b_i = 0; at gamma = 1 one round lands on x*, so a smaller one."""
    sketch = PreconditionedPerm1(trig(5, 5).minimised_at_zero())
    case = special_cases.heterogeneous(sketch)
    return _both_sides("eq_32_34", sketch.problem, sketch, case, n_rounds, 2, step_size)


def _both_sides(
    name: str,
    problem: Quadratics,
    sketch: DiagonalSketch,
    case: SpecialCase,
    n_rounds: int,
    n_seeds: int,
    step_size: float | None = None,
) -> Evidence:
    gamma = case.largest_step if step_size is None else step_size
    both = evidence.both_ways(
        Simulation(sketch, GradientSteps(problem, gamma), "update"),
        case.form,
        expected(problem, estimator(problem, sketch), np.ones(problem.dim), step_size=gamma),
        n_rounds=n_rounds,
        seeds=evidence.run_seeds(0, n_seeds),
        n_threads=1,
    )
    drops = zip(both.drop.tolist(), both.horizons, strict=True)
    bounds: list[float | None] = [case.bound(drop, gamma, K) for drop, K in drops]
    config = {
        "equation": case.equations,
        "left_side": "mean over k < K of ‖∇f(xᵏ)‖²",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds),
        "step_size": gamma,
    }
    outcomes = [
        evidence.below(both, bounds, case.equations, name),
        evidence.agreement(both, case.equations, name),
    ]
    return Evidence(name, config, evidence.rows(both, bound=bounds), outcomes)
