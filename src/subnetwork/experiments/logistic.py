"""Beyond quadratics: which modifications reach the minimiser of logistic regression."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments import evidence, runs
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.record import Row
from subnetwork.shapes import Matrix
from subnetwork.theory.estimator import occupancy
from subnetwork.theory.glm import logistic_gaussian
from subnetwork.theory.method_table import method_named

NAME = "logistic"
EXACT = 1e-9  # of f(0) - f*: counts as having reached x*
AWAY = 1e-2  # of f(0) - f*: counts as not having reached it


@dataclass(frozen=True)
class Contender:
    """A method with its options, and whether it should reach x*; None where nothing is claimed."""

    label: str
    method: str
    step_size: float
    reaches: bool | None
    options: Mapping[str, Any] = field(default_factory=dict)


def contenders(n: int, largest: float, correlated: bool) -> list[Contender]:
    """The rows; `largest` is lambda_max(H^-1 L_bar), which an anchor's eta has to stay below."""
    return [
        Contender("IST", "step_decay", 0.5, False, {"decay": 400.0}),
        Contender("two resolutions (M1b)", "two_resolutions", 0.5 / n, False, {"decay": 400.0}),
        Contender(f"anchored, T = {2 * n}", "anchored", 0.8, not correlated, {"period": 2 * n}),
        Contender(
            f"anchored, T = {2 * n}, damped",
            "anchored",
            0.8,
            True,
            {"period": 2 * n, "eta": min(1.0, 1 / largest)},
        ),
        Contender("anchored, T = 2", "anchored", 0.8, True, {"period": 2}),
        Contender("stale copy + SAG", "stale_sag", 0.3, True),
        Contender("stale copy + SAGA", "stale_saga", 0.3, True),
    ]


def run(
    *, n_rounds: int = 3000, n_seeds: int = 2, seed: int = 0, correlation: float = 0.7
) -> Evidence:
    """Run them from x^0 = 0 on made-up data of two classes.

    Args:
        n_rounds: rounds of every method.
        n_seeds: runs a method.
        seed: of the data and of these runs' seeds.
        correlation: of the features; 0.7 makes an anchor with eta = 1 unstable, 0 does not.

    Returns:
        f - f* against rounds, bits and work; a verdict a method.
    """
    evidence.require_runs(n_rounds, n_seeds)
    problem = logistic_gaussian(correlation=correlation, seed=seed)
    n, d = problem.n_workers, problem.dim
    largest = _largest(np.asarray(problem.smoothness_matrices().mean(axis=0)), n)
    first = problem.gap(np.zeros(d))
    rows: list[Row] = []
    outcomes: list[Outcome] = []
    for c in contenders(n, largest, largest > 2):
        method = method_named(c.method, problem, np.zeros(d), step_size=c.step_size, **c.options)
        seeds = evidence.run_seeds(seed, n_seeds)
        found = runs.over_seeds(c.label, method, problem.gap, seeds=seeds, n_rounds=n_rounds)
        rows += found
        outcomes += _outcomes(c, runs.last(found, c.label), first)
    config = {
        "figure": "curves",
        "x_scale": "log",
        "measure": "f(xᵏ) − f*",
        "problem": f"logistic regression, correlation {correlation:g}",
        "n_workers": n,
        "dim": d,
        "first": first,
        "lambda_max_H_inv_L": largest,
        "n_rounds": n_rounds,
        "n_seeds": n_seeds,
        "seed": seed,
    }
    return Evidence(NAME, config, rows, outcomes)


def _largest(L_bar: Matrix, n: int) -> float:
    """lambda_max(H^-1 L_bar), H = (1 - rho) Diag(L_bar) + rho L_bar."""
    together = occupancy(Perm(n), len(L_bar)).together
    rho = together[2] / together[1]
    H = (1 - rho) * np.diag(np.diag(L_bar)) + rho * L_bar
    return float(np.linalg.eigvals(np.linalg.solve(H, L_bar)).real.max())


def _outcomes(c: Contender, end: float, first: float) -> list[Outcome]:
    if c.reaches is None:
        return []
    if c.reaches:
        claim = f"{c.label} reaches the minimiser: f - f* falls below {EXACT:g} of f(0) - f*"
        return [Outcome(claim, "", end, EXACT * first, verdict(end < EXACT * first), record=NAME)]
    claim = f"{c.label} does not reach the minimiser: f - f* stays above {AWAY:g} of f(0) - f*"
    return [Outcome(claim, "", end, AWAY * first, verdict(end > AWAY * first), record=NAME)]
