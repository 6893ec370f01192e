"""(22)-(24): theta, and the linear rate that the first version adds, E|x^k - x*|^2_L."""

from typing import Any

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments import runs
from subnetwork.experiments.evidence import Evidence, run_seeds
from subnetwork.experiments.outcome import Outcome, equal, verdict
from subnetwork.shapes import Curve
from subnetwork.theory.curves import along, expected
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.simulation import Simulation, simulate
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.theorems import StationaryPoints, smallest_theta, stationary_points
from subnetwork.theory.work import GradientSteps


def run(*, n_rounds: int = 8, n_seeds: int = 400, seed: int = 0) -> Evidence:
    """Two problems with b_i = 0, each at gamma = 1/theta, from (1, ..., 1)."""
    ks, rows, outcomes = runs.marks(n_rounds), [], []
    for name, problem in (
        ("n = d = 5, q = 1", trig(5, 5).minimised_at_zero()),
        ("n = 2, d = 6, q = 3", trig(2, 6).minimised_at_zero()),
    ):
        sketch = Dealt(Perm(problem.n_workers), problem.dim, "paper")
        theorem, start = stationary_points(problem, sketch), np.ones(problem.dim)
        gamma = theorem.largest_step
        curve = expected(problem, estimator(problem, sketch), start, step_size=gamma)
        exact = along(problem.L_bar[None], curve, n_rounds)[:, 0]
        squares = simulate(
            Simulation(sketch, GradientSteps(problem, gamma), "update"),
            start,
            measures=problem.L_bar[None],
            seeds=run_seeds(seed, n_seeds),
            n_rounds=n_rounds,
            at=ks,
        )[:, :, 0]
        bound = exact[0] * theorem.rate(gamma) ** np.arange(n_rounds + 1)
        more = {"exact": exact[ks].tolist(), "bound": bound[ks].tolist()}
        rows += runs.rows_of(name, ks, squares, more)
        outcomes += _outcomes(name, problem, sketch, theorem, (exact, bound))
    config: dict[str, Any] = {
        "figure": "curves",
        "measure": "‖xᵏ − x*‖², norm L",
        "bound_name": "linear rate",
    }
    config |= {"n_rounds": n_rounds, "n_seeds": n_seeds, "seed": seed}
    return Evidence("eq_22_24", config, rows, outcomes)


def _outcomes(
    name: str,
    problem: Quadratics,
    sketch: Dealt,
    theorem: StationaryPoints,
    sides: tuple[Curve, Curve],
) -> list[Outcome]:
    e, (exact, bound) = estimator(problem, sketch), sides
    draws = [drawn(e, p)[0] for p in every_draw(sketch)]
    BLB = np.mean([B @ problem.L_bar @ B.T for B in draws], axis=0)
    theta = smallest_theta(BLB, theorem.W)
    worst = float((exact[1:] / bound[1:]).max())
    return [
        equal(
            f"theta from closed forms is that of all draws ({name})",
            "(22)-(23)",
            theorem.theta,
            theta,
        ),
        Outcome(
            f"E|x^k - x*|^2_L is at most the linear rate's: largest ratio ({name})",
            "(24)",
            worst,
            1.0,
            verdict(worst <= 1 + 1e-9),
        ),
    ]
