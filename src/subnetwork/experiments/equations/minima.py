"""How far argmin F is from argmin f, beside the bound that holds for any convex problem."""

from subnetwork.deals import RandQ
from subnetwork.experiments.equations.points import over, points
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.theory.glm import logistic_gaussian
from subnetwork.theory.minima import GapOfMinima
from subnetwork.theory.objective import objective
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import Dealt


def run(*, n_workers: int = 4, dim: int = 8, seed: int = 0) -> Evidence:
    """f(x_F) - f* and its bound against q, C_i = (d/q) P_i; all hands of a worker enumerated.

    F needs the law of each C_i alone, so that Perm-q of d/q workers has the same.

    Args:
        n_workers: n of both problems, trig and logistic regression.
        dim: d.
        seed: of the logistic regression.
    """
    rows, outcomes, qs = [], [], list(range(1, dim))  # at q = d, F = f
    for name, problem in (
        ("quadratics", trig(n_workers, dim)),
        ("logistic regression", logistic_gaussian(n_workers, dim, seed=seed)),
    ):
        sketches = [Dealt(RandQ(n_workers, q), dim, "paper") for q in qs]
        gaps = [problem.gap(objective(problem, sketch).minimiser) for sketch in sketches]
        bounds = [GapOfMinima(problem, sketch).bound() for sketch in sketches]
        rows += points(name, "q", [float(q) for q in qs], gaps, bound=bounds)
        worst = max(gap / bound for gap, bound in zip(gaps, bounds, strict=True))
        outcomes.append(
            Outcome(
                f"f(x_F) - f* is at most the bound at every q < d ({name}): largest ratio",
                "A",
                worst,
                1.0,
                verdict(worst <= 1),
            )
        )
    config = over("q", "coordinates of a worker, q", "f(x_F) − f*", n_workers=n_workers, dim=dim)
    return Evidence("gap_of_minima", config | {"seed": seed}, rows, outcomes)
