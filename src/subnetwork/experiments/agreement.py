"""Every declared sketch: closed forms against all of its draws, exact curves against many seeds."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from subnetwork.experiments.outcome import Outcome, at_most, equal
from subnetwork.keys import key
from subnetwork.shapes import Floats, Matrix
from subnetwork.theory.curves import along, expected
from subnetwork.theory.declared import DECLARED, AnySketch
from subnetwork.theory.draws import Draws, enumerated
from subnetwork.theory.enumeration import CutByHands
from subnetwork.theory.many_seeds import iterates_by_draws
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.moments import Linear, cross, mean_B, mean_u, second_B, second_u
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.simulation import Form, measured
from subnetwork.theory.sketches import LinearPartition
from subnetwork.theory.stationary import stability_limit
from subnetwork.theory.study import linear_of
from subnetwork.theory.work import GradientSteps

SHAPES = {
    "perm": (5, 5),
    "ist": (3, 6),
    "copies": (6, 3),
    "preconditioned_perm1": (4, 4),
    "fixed": (3, 3),
    "bernoulli": (2, 3),
}
MERGES = {"update": update_form, "merge": merge_form, "holders": holders_form}
HORIZONS = (1, 10, 100)
STANDARD_ERRORS = 4.0


def agreement(*, n_seeds: int, seed: int = 0) -> list[Outcome]:
    """Two rows a sketch, one where it has no closed form.

    Monte Carlo draws its rounds as `rounds` does, independently of the list of all draws.

    Args:
        n_seeds: runs behind a mean.
        seed: of these runs.
    """
    found = []
    for name, row in DECLARED.items():
        n, d = SHAPES.get(name, (2, 4))
        problem = trig(n, d)
        sketch = row.build(problem)
        cut: CutByHands[LinearPartition] = sketch
        listed = enumerated(cut, GradientSteps(problem, 1.0), MERGES[row.form])
        linear, _ = linear_of(problem, sketch)
        what = f"{name}, n={n}, d={d}"
        if not isinstance(linear, Draws):  # a list beside itself would show nothing
            found.append(
                equal(
                    f"Closed forms of E B, E u, E[B M B'], E[B v u'], E[u u'] are the means over "
                    f"all {len(listed.B)} draws ({what}): largest deviation",
                    "(10)-(11)",
                    deviation(linear, _about_origin(linear, listed)),
                    0.0,
                )
            )
        found.append(monte_carlo(problem, sketch, row.form, what, n_seeds=n_seeds, seed=seed))
    return found


def deviation(one: Linear, other: Linear) -> float:
    """The largest difference of the five moments, about fixed arguments."""
    d = len(mean_u(one))
    v = np.linspace(-1.0, 2.0, d)
    M: Matrix = np.diag(np.linspace(1.0, 2.0, d)) + np.outer(v, v)
    pairs = (
        (mean_B(one), mean_B(other)),
        (mean_u(one), mean_u(other)),
        (second_B(one, M), second_B(other, M)),
        (second_u(one), second_u(other)),
        (cross(one, v), cross(other, v)),
    )
    return max(float(np.abs(a - b).max()) / max(1.0, float(np.abs(b).max())) for a, b in pairs)


def _about_origin(linear: Linear, listed: Draws) -> Draws:
    """The same rounds in y = x - s, the variable of a shifted estimator."""
    if isinstance(linear, Draws) or linear.origin is None:
        return listed
    return replace(listed, u=listed.u - listed.B @ linear.origin)


def monte_carlo(
    problem: Quadratics,
    sketch: AnySketch,
    form: Form,
    what: str,
    *,
    n_seeds: int,
    seed: int,
) -> Outcome:
    """The worst |mean over seeds - exact| in standard errors, of f - f* at k = 1, 10, 100."""
    return at_most(
        f"f - f* over {n_seeds} seeds is the exact curve at k = 1, 10, 100 ({what}): worst gap in "
        "standard errors",
        "(2)",
        max(z for _, z in standard_errors(problem, sketch, form, n_seeds=n_seeds, seed=seed)),
        STANDARD_ERRORS,
    )


def standard_errors(
    problem: Quadratics,
    sketch: AnySketch,
    form: Form,
    *,
    n_seeds: int,
    seed: int,
) -> Iterator[tuple[int, float]]:
    """(k, |mean over seeds - exact| of f - f* in standard errors) at k = 1, 10, 100.

    Every round of every seed is drawn independently, by the deal of the sketch.
    """
    linear, _ = linear_of(problem, sketch)
    gamma, x0 = stability_limit(linear) / 5, np.ones(problem.dim)
    measure = problem.L_bar[None] / 2
    exact = along(measure, expected(problem, linear, x0, step_size=gamma), HORIZONS[-1])[:, 0]
    cut: CutByHands[LinearPartition] = sketch
    states = iterates_by_draws(
        cut,
        GradientSteps(problem, gamma),
        MERGES[form],
        x0,
        seeds=[key(seed, run) for run in range(n_seeds)],
        at=HORIZONS,
    )
    for k, X in states:
        yield k, _z(problem, X, float(exact[k]))


def _z(problem: Quadratics, X: Floats, exact: float) -> float:
    gaps = measured(X - problem.minimiser, problem.L_bar[None] / 2)[:, 0]
    error = float(gaps.std(ddof=1) / np.sqrt(len(gaps)))
    off = abs(float(gaps.mean()) - exact)
    return 0.0 if off <= 1e-9 * exact + 1e-13 else off / error
