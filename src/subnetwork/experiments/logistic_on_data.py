"""Logistic regression on LIBSVM data (a9a, w8a): IST stops at its bias, the modifications go on."""

import numpy as np

from subnetwork.experiments import evidence, runs
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.record import Row
from subnetwork.theory.glm import GeneralisedLinear
from subnetwork.theory.method_table import method_named
from subnetwork.theory.problems import on_table

NAME = "logistic_on_data"
CONTENDERS = {
    "IST": ("ist", 1.0, {}),
    "anchored, T = 2": ("anchored", 1.0, {"period": 2}),
    "stale copy + SAG": ("stale_sag", 0.1, {}),
    "gradient descent": ("gd", 1.0, {}),
}


def run(
    *,
    data: str = "a9a",
    n_workers: int = 10,
    n_rounds: int = 300,
    n_seeds: int = 2,
    seed: int = 0,
    relative_ridge: float = 0.01,
) -> Evidence:
    """Run them from x^0 = 0 on rows dealt out at random, step 1 / lambda_max of the whole.

    Args:
        data: a table of `data.TABLES`, such as a9a, w8a, mushrooms, phishing or breast_cancer; the
            first four are files in the folder that SUBNETWORK_DATA names.
        n_workers: n.
        n_rounds: rounds of every method.
        n_seeds: runs a method.
        seed: of the split and of these runs' seeds.
        relative_ridge: the regulariser, as a part of the largest curvature.

    Raises:
        ValueError: no such table, or SUBNETWORK_DATA does not lead to it.
    """
    evidence.require_runs(n_rounds, n_seeds)
    problem = on_table(data, n_workers, loss="logistic", seed=seed, relative_ridge=relative_ridge)
    if not isinstance(problem, GeneralisedLinear):  # for the type checker: a loss was named
        raise TypeError(type(problem).__name__)
    d = problem.dim
    unit = 1 / (problem.ridge * (1 + 1 / relative_ridge))
    rows: list[Row] = []
    for curve, (name, factor, options) in CONTENDERS.items():
        method = method_named(name, problem, np.zeros(d), step_size=factor * unit, **options)
        seeds = evidence.run_seeds(seed, 2 if name == "gd" else n_seeds)
        rows += runs.over_seeds(curve, method, problem.gap, seeds=seeds, n_rounds=n_rounds)
    config = {
        "figure": "curves",
        "measure": "f(xᵏ) − f*",
        "problem": f"logistic regression on {data}",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds, seed=seed),
        "ridge": problem.ridge,
        "step_size": unit,
        "first": problem.gap(np.zeros(d)),
    }
    return Evidence(NAME, config, rows, [_ahead(rows, data, n_rounds)])


def _ahead(rows: list[Row], data: str, n_rounds: int) -> Outcome:
    ends = {curve: runs.last(rows, curve) for curve in CONTENDERS}
    best = min(ends["anchored, T = 2"], ends["stale copy + SAG"])
    return Outcome(
        f"After {n_rounds} rounds on {data} the better of anchored IST and stale copies is at "
        "most a tenth of IST's f - f*",
        "",
        best,
        ends["IST"] / 10,
        verdict(best <= ends["IST"] / 10),
        record=NAME,
    )
