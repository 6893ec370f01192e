"""(1)-(3), (9): C_i grad f_i(C_i x) is the gradient of x -> f_i(C_i x), by differences."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, equal
from subnetwork.shapes import Vector
from subnetwork.theory.glm import logistic_gaussian
from subnetwork.theory.problem import Problem
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import Dealt, DiagonalPartition

STEPS = np.geomspace(1e-8, 1.0, 33)


def run(*, seed: int = 0) -> Evidence:
    """Central differences against (3), for quadratics and logistic regression; `seed` draws x."""
    rows, outcomes = [], []
    for curve, problem in (
        ("quadratics (9)", trig(4, 8)),
        ("logistic regression", logistic_gaussian(n_workers=4, dim=8, seed=0)),
    ):
        x = np.random.default_rng(seed).standard_normal(problem.dim)
        cut = Dealt(Perm(problem.n_workers), problem.dim, "paper").sample(seed, 0)
        off = [_deviation(problem, cut, x, float(step)) for step in STEPS]
        rows += points(curve, "step", STEPS.tolist(), off)
        outcomes += [_mean(problem, x, curve), _gradient(min(off), curve)]
    measure = "central differences of x ↦ fᵢ(Cᵢx) against (3), relative deviation"
    config = over("step", "width of the differences", measure, x_scale="log", seed=seed)
    return Evidence("eq_1_3", config, rows, outcomes)


def _deviation(problem: Problem, cut: DiagonalPartition, x: Vector, step: float) -> float:
    worst = 0.0
    for i in range(problem.n_workers):

        def sketched(at: Vector, i: int = i) -> float:
            return problem.worker_value(i, cut.select(at, i))

        slope = [
            (sketched(x + step * e) - sketched(x - step * e)) / (2 * step) for e in np.eye(len(x))
        ]
        g = cut.pull(problem.worker_gradient(i, cut.select(x, i)), i)
        worst = max(worst, float(np.abs(slope - g).max() / np.abs(g).max()))
    return worst


def _mean(problem: Problem, x: Vector, what: str) -> Outcome:
    mean = np.mean([problem.worker_value(i, x) for i in range(problem.n_workers)])
    return equal(f"f is the mean of the f_i ({what})", "(1)", problem.value(x), float(mean))


def _gradient(least: float, what: str) -> Outcome:
    claim = f"C_i grad f_i(C_i x) is the gradient of x -> f_i(C_i x) ({what}): by differences"
    return equal(claim, "(3)", least, 0.0, tolerance=1e-7)
