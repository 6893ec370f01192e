"""(18): is the variance of the estimator bounded? For (12) it is one number, wherever x is."""

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import equal
from subnetwork.shapes import Vector
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.perm1 import sigma2_18
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, DiagonalSketch, PreconditionedPerm1

SIZES = np.geomspace(0.1, 1000, 13)


def run(*, seed: int = 0) -> Evidence:
    """E|g - E g|^2_L at t x over all draws, n = d = 5; `seed` draws x."""
    problem, x = trig(5, 5), np.random.default_rng(seed).standard_normal(5)
    preconditioned = PreconditionedPerm1(problem)
    sigma2, xs = sigma2_18(preconditioned), SIZES.tolist()
    ours = [spread(problem, preconditioned, t * x) for t in xs]
    perm = [spread(problem, Dealt(Perm(5), 5, "paper"), t * x) for t in xs]
    rows = [
        *points("Perm-1 (5)", "size", xs, perm),
        *points("preconditioned (12)", "size", xs, ours, exact=[sigma2] * len(xs)),
    ]
    outcomes = [
        equal("E|g - E g|^2_L is tr(L Cov g) at every x, for (12)", "(18)", max(ours), sigma2),
        equal(
            "E|g - E g|^2_L is bounded over x, for (5): at 1000 x and x", "(18)", perm[-1], perm[3]
        ).with_correction("With (5) it grows as |x|^2; (18) is for (12)", perm[-1] > 1e3 * perm[3]),
    ]
    config = over(
        "size", "t, where x is t times a fixed vector", "E‖g − E g‖², norm L", x_scale="log"
    )
    return Evidence("eq_18", config, rows, outcomes)


def spread(problem: Quadratics, sketch: DiagonalSketch, x: Vector) -> float:
    """E|g - E g|^2 in the norm of L_bar, over all draws."""
    e = estimator(problem, sketch)
    g = np.array([B @ x - u for B, u in (drawn(e, p) for p in every_draw(sketch))])
    g -= g.mean(axis=0)
    return float(np.einsum("sj,jl,sl->s", g, problem.L_bar, g).mean())
