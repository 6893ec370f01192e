"""Perm-q against independent Rand-q and gradient descent at equal bits, b_i = 0."""

import numpy as np

from subnetwork.deals import Full, Perm, RandQ
from subnetwork.experiments import evidence, runs
from subnetwork.experiments.evidence import STANDARD_ERRORS, Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.record import Row
from subnetwork.theory.curves import along, expected
from subnetwork.theory.estimator import estimator
from subnetwork.theory.method_table import method_named
from subnetwork.theory.problems import Quadratics, gaussian
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.theorems import stationary_points

NAME = "equal_bits"


def run(
    problem: Quadratics | None = None, *, n_rounds: int = 60, n_seeds: int = 20, seed: int = 0
) -> Evidence:
    """Every sketch with its own 1/theta from eq. (23), from x^0 = (1, ..., 1), update form (2).

    Args:
        problem: quadratics with n < d, whose b_i are set to zero; gaussian(4, 40) where None.
        n_rounds: rounds of the sketched methods; gradient descent stops at their bits.
        n_seeds: runs a sketch.
        seed: the seed of these runs' seeds.

    Raises:
        ValueError: no rounds or seeds, or a theorem that is silent and names no step.
    """
    evidence.require_runs(n_rounds, n_seeds)
    problem = (gaussian(4, 40) if problem is None else problem).minimised_at_zero()
    n, d = problem.n_workers, problem.dim
    contenders = {
        "Perm-q": ("perm", Dealt(Perm(n), d, "paper"), n_rounds),
        "Rand-q": ("rand_q", Dealt(RandQ(n, d // n), d, "paper"), n_rounds),
        "gradient descent": ("gd", Dealt(Full(n), d, "paper"), n_rounds // n),
    }
    rows: list[Row] = []
    for curve, (name, sketch, K) in contenders.items():
        gamma = stationary_points(problem, sketch).largest_step
        method = method_named(name, problem, np.ones(d), step_size=gamma)
        found = runs.over_seeds(
            curve,
            method,
            problem.gap,
            seeds=evidence.run_seeds(seed, n_seeds if name != "gd" else 2),
            n_rounds=K,
        )
        moments = expected(problem, estimator(problem, sketch), np.ones(d), step_size=gamma)
        exact = along(problem.L_bar[None] / 2, moments, K)[:, 0]
        rows += [{**row, "exact": float(exact[row["k"]])} for row in found]
    config = {
        "figure": "curves",
        "x": "bits",
        "measure": "f(xᵏ) − f*",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds, seed=seed),
    }
    return Evidence(NAME, config, rows, [*_ahead(rows, n_rounds, n), _agreement(rows)])


def _ahead(rows: list[Row], n_rounds: int, n: int) -> list[Outcome]:
    """Perm-q against both others after the same number of bits."""
    halfway = _after(rows, "gradient descent", n_rounds // n)
    first, other = (_after(rows, curve, n_rounds) for curve in ("Perm-q", "Rand-q"))
    return [
        Outcome(
            "At equal bits E(f - f*) is smaller with Perm-q than with independent Rand-q",
            "",
            first,
            other,
            verdict(first < other),
            record=NAME,
        ),
        Outcome(
            "At equal bits, every number sent counted, E(f - f*) is smaller with Perm-q than with "
            "gradient descent",
            "",
            first,
            halfway,
            verdict(first < halfway),
            record=NAME,
        ),
    ]


def _after(rows: list[Row], curve: str, k: int) -> float:
    """The exact expectation after k rounds."""
    return next(float(r["exact"]) for r in rows if r["curve"] == curve and r["k"] == k)


def _agreement(rows: list[Row]) -> Outcome:
    """Early on, before rare large values carry the mean: measured beside exact."""
    early = [row for row in rows if 0 < row["k"] <= 3]
    worst = max(abs(row["measured"] / row["exact"] - 1) for row in early)
    return Outcome(
        f"The means over seeds are within {STANDARD_ERRORS / 10:g} of the exact expectation, "
        "relative, for k <= 3",
        "",
        worst,
        STANDARD_ERRORS / 10,
        verdict(worst <= STANDARD_ERRORS / 10),
        record=NAME,
    )
