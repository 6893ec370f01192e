"""20,000 seeds of the compiled kernel, by the draws of `rounds`, against the exact curves."""

import numpy as np
import pytest

from subnetwork import Perm
from subnetwork.theory import variants
from subnetwork.theory.curves import along, expected
from subnetwork.theory.problems import trig
from subnetwork.theory.simulation import Simulation, simulate
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.stationary import stability_limit
from subnetwork.theory.work import GradientSteps

RUNS = [
    ("Perm-1", trig(6, 6), Dealt(Perm(6), 6, "paper"), "update", 1),
    ("Perm-4", trig(4, 16), Dealt(Perm(4), 16, "paper"), "update", 1),
    ("IST, T4", trig(4, 16), Dealt(Perm(4), 16, "as trained"), "holders", 1),
    ("remainder", trig(2, 5), Dealt(Perm(2), 5, "paper"), "merge", 1),
    ("unequal weights", trig(3, 8), Dealt(Perm(3, (1, 1, 2)), 8, "paper"), "update", 1),
    ("preconditioned", trig(5, 5), PreconditionedPerm1(trig(5, 5)), "update", 1),
    ("merge (4)", trig(5, 5), PreconditionedPerm1(trig(5, 5)), "merge", 1),
    ("5 local steps", trig(6, 6), Dealt(Perm(6), 6, "as trained"), "holders", 5),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "sketch", "form", "tau"), [r[1:] for r in RUNS], ids=[r[0] for r in RUNS]
)
def test_20000_seeds_are_within_4_standard_errors_at_1_10_100(problem, sketch, form, tau):
    unit = variants.one_round(GradientSteps(problem, 1.0), sketch, form)
    gamma = 0.3 if form == "merge" or tau > 1 else stability_limit(unit) / 5
    work = GradientSteps(problem, gamma, tau)
    exact_round = variants.one_round(work, sketch, form)
    measure = problem.L_bar[None] / 2
    curve = expected(problem, exact_round, np.ones(problem.dim), step_size=1.0)
    exact = along(measure, curve, 100)[[1, 10, 100], 0]
    runs = simulate(
        Simulation(sketch, work, form),
        np.ones(problem.dim),
        measures=measure,
        seeds=range(20_000),
        n_rounds=100,
    )[:, [1, 10, 100], 0]
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    assert (np.abs(runs.mean(axis=0) - exact) < 4 * error + 1e-12 * exact).all()
