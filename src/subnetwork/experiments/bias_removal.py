"""Which modifications of IST remove its bias on quadratics, and which do not (all of them run)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from subnetwork.deals import Perm
from subnetwork.experiments import evidence, runs
from subnetwork.experiments.evidence import Evidence
from subnetwork.experiments.outcome import Outcome, verdict
from subnetwork.record import Row
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.estimator import estimator
from subnetwork.theory.method_table import method_named
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt

NAME = "bias_removal"
EXACT = 1e-12  # of the first gap: counts as having reached x*


@dataclass(frozen=True)
class Contender:
    """A method with its step, in units of 0.5 / lambda_max(L_bar), and what it should do."""

    method: str
    label: str
    factor: float = 1.0
    reaches: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def contenders(n: int, n_rounds: int) -> list[Contender]:
    """The rows of the table for n workers; slow ones with the steps that are known to be stable."""
    small = 1 / (4 * n * n)
    late = {"after": n_rounds // 2}
    return [
        Contender("ist", "IST"),
        Contender("step_decay", "step decay"),
        Contender("momentum", "momentum 0.9", 0.1),
        Contender("averaged", "averaging", options=late),
        Contender("block_table", "block table (EF21)"),
        Contender("full_rounds", "full round in 4", options={"period": 4}),
        Contender("reweighted", "reweighted (M1a)", small, options={"decay": 2000.0}),
        Contender("two_resolutions", "two resolutions (M1b)", small, options={"decay": 2000.0}),
        Contender("stale", "stale copy"),
        Contender("stale_saga", "stale copy + SAGA", 2.0, reaches=True),
        Contender("stale_sag", "stale copy + SAG", 2.0, reaches=True),
        Contender("anchored", "anchored IST", reaches=True),
        Contender("marina", "MARINA, PermK", reaches=True),
        Contender("marina_p", "MARINA-P, PermK", reaches=True),
        Contender("gd", "gradient descent", 2.0, reaches=True),
    ]


def run(
    problem: Quadratics | None = None, *, n_rounds: int = 3000, n_seeds: int = 3, seed: int = 0
) -> Evidence:
    """Run every method from x^0 = (1, ..., 1) on quadratics whose minimisers differ.

    Args:
        problem: the quadratics; trig(4, 16) where None.
        n_rounds: rounds of every method.
        n_seeds: runs a method.
        seed: the seed of these runs' seeds.

    Returns:
        f - f* of every method against rounds, bits and work. A verdict a method: those with memory
        of full gradients reach x*; the others end above a tenth of the bias floor f(x_inf) - f*.
        Reweighting is unbiased, but its noise leaves so slowly that it is claimed to do neither.
    """
    evidence.require_runs(n_rounds, n_seeds)
    problem = trig(4, 16) if problem is None else problem
    n, d = problem.n_workers, problem.dim
    e = estimator(problem, Dealt(Perm(n), d, "as trained"))
    floor = problem.gap(fixed_point(e))
    unit = 0.5 / float(np.linalg.eigvalsh(problem.L_bar)[-1])
    seeds, start = evidence.run_seeds(seed, n_seeds), problem.gap(np.ones(d))
    rows: list[Row] = []
    outcomes: list[Outcome] = []
    for c in contenders(n, n_rounds):
        if not _possible(c, n, d):
            continue
        method = method_named(c.method, problem, np.ones(d), step_size=c.factor * unit, **c.options)
        found = runs.over_seeds(c.label, method, problem.gap, seeds=seeds, n_rounds=n_rounds)
        rows += found
        outcomes += _outcomes(c, runs.last(found, c.label), start, floor)
    config = {
        "figure": "curves",
        "x_scale": "log",
        "measure": "f(xᵏ) − f*",
        **evidence.sizes(problem, n_rounds=n_rounds, n_seeds=n_seeds, seed=seed),
        "floor": floor,
        "floor_name": "bias of IST",
        "first": start,
    }
    return Evidence(NAME, config, rows, outcomes)


def _possible(c: Contender, n: int, d: int) -> bool:
    """Whether reweighting has pairs to see, and halves are of equal size."""
    if c.method == "reweighted":
        return d > n
    return c.method != "two_resolutions" or d % (2 * n) == 0


def _outcomes(c: Contender, end: float, start: float, floor: float) -> list[Outcome]:
    if c.method in {"reweighted", "two_resolutions"}:
        return []
    if c.reaches:
        claim = f"{c.label} reaches x*: f - f* falls below {EXACT:g} of its first value"
        return [Outcome(claim, "", end, EXACT * start, verdict(end <= EXACT * start), record=NAME)]
    claim = f"{c.label} does not remove the bias: f - f* stays above a tenth of the bias floor"
    return [Outcome(claim, "", end, floor / 10, verdict(end >= floor / 10), record=NAME)]
