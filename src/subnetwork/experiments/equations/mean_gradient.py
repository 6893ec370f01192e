"""(14)-(17): the mean iterate of preconditioned Perm-1 goes to x* - h, at every step size."""

import numpy as np

from subnetwork.experiments import runs
from subnetwork.experiments.equations.points import points, zero
from subnetwork.experiments.evidence import Evidence, run_seeds
from subnetwork.experiments.outcome import Outcome, equal
from subnetwork.theory.curves import expected_preconditioned
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.perm1 import h_17
from subnetwork.theory.problems import trig
from subnetwork.theory.simulation import Simulation, iterates
from subnetwork.theory.sketches import PreconditionedPerm1
from subnetwork.theory.work import GradientSteps


def run(*, n_rounds: int = 60, n_seeds: int = 2000, seed: int = 0) -> Evidence:
    """|mean of x^k over seeds - x*| beside |E x^k - x*|, gamma = 0.1, 0.5, 1, on trig(5, 5)."""
    problem = trig(5, 5)
    sketch, ks, rows, outcomes = PreconditionedPerm1(problem), runs.marks(n_rounds), [], []
    h = h_17(sketch)
    size = float(np.linalg.norm(h))
    for gamma in (0.1, 0.5, 1.0):
        states = iterates(
            Simulation(sketch, GradientSteps(problem, gamma), "update"),
            np.ones(5),
            seeds=run_seeds(seed, n_seeds),
            at=ks,
        )
        means = [float(np.linalg.norm(X.mean(axis=0) - problem.minimiser)) for _, X in states]
        exact = [
            float(np.linalg.norm(now.m))
            for _, now in zip(
                range(max(n_rounds, 400) + 1),
                expected_preconditioned(sketch, np.ones(5), step_size=gamma),
                strict=False,
            )
        ]
        rows += points(f"γ = {gamma:g}", "k", ks, means, exact=[exact[k] for k in ks])
        claim = f"|E x^k - x*| tends to |h| with gamma = {gamma:g}"
        outcomes.append(equal(claim, "(17)", exact[-1], size, tolerance=1e-9))
    config = {
        "figure": "curves",
        "measure": "‖E xᵏ − x*‖",
        "floor": size,
        "floor_name": "‖h‖, (17)",
    }
    config |= {"n_workers": 5, "dim": 5, "n_rounds": n_rounds, "n_seeds": n_seeds, "seed": seed}
    return Evidence("eq_14_17", config, rows, [_by_17(sketch), *outcomes])


def _by_17(sketch: PreconditionedPerm1) -> Outcome:
    problem, x = sketch.problem, np.linspace(-1.0, 2.0, 5)
    draws = [drawn(estimator(problem, sketch), p) for p in every_draw(sketch)]
    E_g = np.mean([B @ x - u for B, u in draws], axis=0)
    by_17 = np.linalg.solve(problem.L_bar, problem.gradient(x)) + h_17(sketch)
    return zero("E g = L^-1 grad f(x) + h", "(14)-(17)", float(np.abs(E_g - by_17).max()))
