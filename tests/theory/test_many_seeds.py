"""Many seeds by the draws of `rounds`: its iterates, and 20,000 of them on the exact curves."""

import numpy as np
import pytest

from subnetwork import Full, Perm, RandQ, rounds
from subnetwork.deals import Bernoulli
from subnetwork.experiments.agreement import HORIZONS, MERGES, SHAPES, standard_errors
from subnetwork.keys import key
from subnetwork.theory import variants
from subnetwork.theory.copies import Copies, Fixed
from subnetwork.theory.curves import along, expected
from subnetwork.theory.declared import DECLARED
from subnetwork.theory.many_seeds import held_by_seeds, iterates_by_draws
from subnetwork.theory.problems import trig
from subnetwork.theory.simulation import Simulation, simulate
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.stationary import stability_limit
from subnetwork.theory.work import GradientSteps

DEALS = [
    Full(2),
    Perm(3),
    Perm(3, (1, 1, 2)),
    RandQ(3, 2),
    Bernoulli(2, 0.3),
    Copies(10),
    Fixed(2),
]


@pytest.mark.parametrize("deal", DEALS, ids=str)
def test_who_holds_what_is_what_the_deal_says(deal):
    seeds, d = [0, 1, 7, 2**64 - 1], 5
    keys = np.array([key(seed) for seed in seeds], dtype=np.uint64)
    for k in (0, 3):
        held = held_by_seeds(deal, d, keys, k)
        for row, seed in zip(held, seeds, strict=True):
            for mask, hand in zip(row, deal.hands(d, seed=seed, k=k), strict=True):
                np.testing.assert_array_equal(np.flatnonzero(mask), hand)


@pytest.mark.parametrize("name", DECLARED)
def test_iterates_of_every_sketch_are_those_of_rounds(name):
    problem, row = trig(*SHAPES.get(name, (2, 5))), DECLARED[name]
    sketch, work = row.build(problem), GradientSteps(problem, 0.02, n_steps=2)
    x0, seeds = np.linspace(1, -1, problem.dim), [3, 3, 11]
    states = iterates_by_draws(sketch, work, MERGES[row.form], x0, seeds=seeds, at=[1, 4])
    found = dict(states)
    for s, seed in enumerate(seeds):
        for r in rounds(x0, sketch, work, MERGES[row.form], seed=seed, n_rounds=4):
            if r.k + 1 in found:
                np.testing.assert_allclose(found[r.k + 1][s], r.x, rtol=1e-11, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", DECLARED)
def test_20000_seeds_of_every_sketch_are_within_4_standard_errors_at_1_10_100(name, seed):
    """The fast form, 2000 seeds, is part of the table of `verify` that the suite makes."""
    problem, row = trig(*SHAPES.get(name, (2, 4))), DECLARED[name]
    sketch = row.build(problem)
    found = dict(standard_errors(problem, sketch, row.form, n_seeds=20_000, seed=seed))
    assert tuple(found) == HORIZONS
    assert max(found.values()) < 4


RUNS = [
    ("Perm-1", trig(6, 6), Dealt(Perm(6), 6, "paper"), "update", 1),
    ("Perm-4", trig(4, 16), Dealt(Perm(4), 16, "paper"), "update", 1),
    ("IST, T4", trig(4, 16), Dealt(Perm(4), 16, "as trained"), "holders", 1),
    ("Rand-q", trig(4, 16), Dealt(RandQ(4, 4), 16, "paper"), "update", 1),
    ("Bernoulli", trig(4, 16), Dealt(Bernoulli(4, 0.25), 16, "paper"), "update", 1),
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
def test_20000_seeds_of_the_kernel_are_within_4_standard_errors_at_1_10_100(
    problem, sketch, form, tau
):
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
