"""Exact curves against all sequences of draws, against each other, and against Monte Carlo."""

from itertools import islice, product

import numpy as np
import pytest

from subnetwork import Perm, RandQ
from subnetwork.theory.curves import (
    along,
    bias,
    expected,
    expected_perm1,
    expected_preconditioned,
    fixed_point,
    stable_step,
    stationary_perm1,
)
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.problems import trig
from subnetwork.theory.simulation import Simulation, simulate
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.work import GradientSteps

GAMMA = 0.11


def perm(n, d):
    return Dealt(Perm(n), d, "paper")


TINY = [
    (perm(3, 3), 3),
    (perm(2, 3), 3),
    (Dealt(Perm(2), 3, "as trained"), 3),
    (PreconditionedPerm1(trig(3, 3)), 3),
    (Dealt(RandQ(2, q=1), 2, "paper"), 2),
]


@pytest.mark.parametrize(("sketch", "d"), TINY, ids=lambda v: str(getattr(v, "deal", v)))
def test_moments_are_means_over_all_sequences_of_three_rounds(sketch, d):
    problem = trig(sketch.deal.n_workers, d)
    e, x0 = estimator(problem, sketch), np.linspace(1, -2, d)
    draws = [drawn(e, p) for p in every_draw(sketch)]
    rounds_of = list(islice(expected(problem, e, x0, step_size=GAMMA), 4))
    for k in range(4):
        errors = []
        for sequence in product(draws, repeat=k):
            x = x0
            for B, u in sequence:
                x = x - GAMMA * (B @ x - u)
            errors.append(x - problem.minimiser)
        m, M = np.mean(errors, axis=0), np.mean([np.outer(v, v) for v in errors], axis=0)
        np.testing.assert_allclose(rounds_of[k].m, m, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(rounds_of[k].M, M, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["perm1", "as trained", "preconditioned"])
@pytest.mark.parametrize("gamma", [0.05, 0.2])
def test_fast_curves_are_the_general_one_for_300_rounds(name, gamma):
    problem, x0 = trig(5, 5), np.linspace(1, -2, 5)
    if name == "preconditioned":
        sketch = PreconditionedPerm1(problem)
        fast = expected_preconditioned(sketch, x0, step_size=gamma)
    else:
        sketch = Dealt(Perm(5), 5, "paper" if name == "perm1" else "as trained")
        fast = expected_perm1(problem, estimator(problem, sketch), x0, step_size=gamma)
    general = expected(problem, estimator(problem, sketch), x0, step_size=gamma)
    for one, other in islice(zip(general, fast, strict=False), 300):
        np.testing.assert_allclose(one.m, other.m, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(one.M, other.M, rtol=1e-9, atol=1e-14)


def test_rounding_does_not_grow_once_the_error_is_gone():
    """A skew part of M, if rounding made one, would grow by orders in these rounds."""
    problem = trig(2, 6).minimised_at_zero()
    curve = expected(problem, estimator(problem, perm(2, 6)), np.ones(6), step_size=0.35)
    values = along(np.eye(6)[None], curve, 400)[:, 0]
    assert (np.diff(values) <= 0).all()
    assert 0 <= values[-1] < 1e-30


MONTE_CARLO = [
    ("Perm-1", trig(5, 5), perm(5, 5), 0.1),
    ("Perm-q with a remainder", trig(2, 5), perm(2, 5), 0.15),
    ("as trained", trig(2, 6), Dealt(Perm(2), 6, "as trained"), 0.4),
    ("preconditioned", trig(5, 5), PreconditionedPerm1(trig(5, 5)), 0.3),
]


@pytest.mark.parametrize(
    ("name", "problem", "sketch", "gamma"), MONTE_CARLO, ids=lambda v: str(v)[:9]
)
def test_monte_carlo_is_within_4_standard_errors(name, problem, sketch, gamma):
    x0, n_seeds = np.ones(problem.dim), 4000
    form = "holders" if name == "as trained" else "update"
    runs = simulate(
        Simulation(sketch, GradientSteps(problem, gamma), form),
        x0,
        measures=problem.L_bar[None] / 2,
        seeds=range(n_seeds),
        n_rounds=100,
    )[:, [1, 10, 100], 0]
    curve = expected(problem, estimator(problem, sketch), x0, step_size=gamma)
    exact = along(problem.L_bar[None] / 2, curve, 100)[[1, 10, 100], 0]
    error = runs.std(axis=0, ddof=1) / np.sqrt(n_seeds)
    assert (np.abs(runs.mean(axis=0) - exact) < 4 * error).all()


def test_stationary_moments_are_where_the_curve_goes():
    problem = trig(5, 5)
    e = estimator(problem, perm(5, 5))
    end = stationary_perm1(problem, e, step_size=0.1)
    last = next(islice(expected_perm1(problem, e, np.ones(5), step_size=0.1), 2000, None))
    np.testing.assert_allclose(end.m, last.m, rtol=1e-11)
    np.testing.assert_allclose(end.M, last.M, rtol=1e-11)
    np.testing.assert_allclose(end.m, fixed_point(e) - problem.minimiser, rtol=1e-11)
    assert end.of(problem.L_bar / 2) > bias(problem, e) > 0


def test_stability_limit_is_the_published_one_and_sharp():
    problem = trig(5, 5)
    e = estimator(problem, perm(5, 5))
    limit = stable_step(problem, e)
    assert limit == pytest.approx(0.389523, abs=5e-7)

    def far(gamma):
        curve = expected_perm1(problem, e, np.ones(5), step_size=gamma)
        return along(np.eye(5)[None], curve, 3000)[[1500, 3000], 0]

    below, above = far(0.99 * limit), far(1.01 * limit)
    assert below[1] <= below[0] * (1 + 1e-9)
    assert above[1] > 100 * above[0]


def test_unscaled_ist_is_perm_in_another_variable():
    """y = n x: Perm on paper at gamma is IST as trained at n gamma (theory.md, fact 2)."""
    problem, x0 = trig(2, 6), np.linspace(-1, 1, 6)
    ist = estimator(problem, Dealt(Perm(2), 6, "as trained"))
    on_paper = fixed_point(estimator(problem, perm(2, 6)))
    np.testing.assert_allclose(2 * on_paper, fixed_point(ist), rtol=1e-12)
    del x0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: next(
                expected_perm1(
                    trig(2, 6), estimator(trig(2, 6), perm(2, 6)), np.ones(6), step_size=0.1
                )
            ),
            r"there are d=6 for n_workers=2\. Use Perm with n_workers=6",
        ),
        (
            lambda: stationary_perm1(trig(), estimator(trig(), perm(5, 5)), step_size=0.5),
            r"step_size=0\.5 has no stationary second moment: .* 0\.3895",
        ),
    ],
)
def test_refusals_say_what_works(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
