"""Both sides of every theorem, their assumptions and their messages."""

import numpy as np
import pytest
from scipy.linalg import eigh

from subnetwork import Full, Perm
from subnetwork.theory.curves import along, expected, expected_perm1, expected_preconditioned
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.perm1 import BLB_28, h_17, sigma2_18
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.theorems import (
    Neighbourhood,
    StationaryPoints,
    neighbourhood,
    smallest_theta,
    stationary_points,
)


def perm(n, d):
    return Dealt(Perm(n), d, "paper")


def at_zero(n, d):
    return trig(n, d).minimised_at_zero()


@pytest.mark.parametrize(
    ("n", "d", "published"), [(5, 5, 5.1503), (2, 6, 2.8162)], ids=["Perm-1", "Perm-3"]
)
def test_theta_is_the_published_and_the_enumerated_one(n, d, published):
    problem = at_zero(n, d)
    theorem = stationary_points(problem, perm(n, d))
    e, L = estimator(problem, perm(n, d)), problem.L_bar
    Bs = [drawn(e, p)[0] for p in every_draw(perm(n, d))]
    W = np.mean([L @ B + B @ L for B in Bs], axis=0) / 2
    BLB = np.mean([B @ L @ B for B in Bs], axis=0)
    np.testing.assert_allclose(theorem.theta, eigh(BLB, W, eigvals_only=True)[-1], rtol=1e-12)
    assert theorem.theta == pytest.approx(published, abs=5e-5)


def test_theta_of_28_is_too_small_for_heterogeneous_problems_and_right_for_equal_diagonals():
    problem = at_zero(5, 5)
    W = stationary_points(problem, perm(5, 5)).W
    assert smallest_theta(BLB_28(problem), W) == pytest.approx(5.0387, abs=5e-5)
    same = Quadratics(np.stack([problem.L_bar] * 5), np.zeros((5, 5)))
    theorem = stationary_points(same, perm(5, 5))
    np.testing.assert_allclose(smallest_theta(BLB_28(same), theorem.W), theorem.theta, rtol=1e-12)


def test_the_step_of_28_can_multiply_the_error_by_2_94_a_round():
    L = np.array([4.0, 0.01, 0.01, 0.01])[:, None, None] * np.eye(4)
    problem = Quadratics(L, np.zeros((4, 4)))
    theorem = stationary_points(problem, perm(4, 4))
    gamma = 1 / smallest_theta(BLB_28(problem), theorem.W)
    squares = [
        np.sum((np.ones(4) - gamma * drawn(estimator(problem, perm(4, 4)), p)[0] @ np.ones(4)) ** 2)
        for p in every_draw(perm(4, 4))
    ]
    assert np.mean(squares) / 4 == pytest.approx(2.94, abs=0.005)


@pytest.mark.parametrize("sketch", [perm(5, 5), perm(2, 5), perm(3, 5), Dealt(Full(5), 5, "paper")])
def test_left_side_of_24_is_below_the_bound_and_the_rate_holds(sketch):
    problem = at_zero(sketch.deal.n_workers, 5)
    theorem, x0, K = stationary_points(problem, sketch), np.linspace(1, -2, 5), 60
    for gamma in (theorem.largest_step, theorem.largest_step / 7):
        curve = expected(problem, estimator(problem, sketch), x0, step_size=gamma)
        left, squares = along(np.stack([theorem.form, problem.L_bar]), curve, K).T
        for k in range(1, K + 1):
            bound = theorem.bound((squares[0] - squares[k]) / 2, gamma, k)
            assert left[:k].mean() <= bound * (1 + 1e-9)
            assert squares[k] <= theorem.rate(gamma) ** k * squares[0] * (1 + 1e-9)


def test_a_larger_theta_than_needed_would_be_seen():
    """At gamma = 1/theta one start, the eigenvector, makes (24) an equality for K = 1."""
    problem = at_zero(5, 5)
    theorem = stationary_points(problem, perm(5, 5))
    x0 = eigh(theorem.BLB, theorem.W)[1][:, -1]
    gamma = theorem.largest_step
    curve = expected_perm1(problem, estimator(problem, perm(5, 5)), x0, step_size=gamma)
    left, squares = along(np.stack([theorem.form, problem.L_bar]), curve, 1).T
    np.testing.assert_allclose(
        left[0], theorem.bound((squares[0] - squares[1]) / 2, gamma, 1), rtol=1e-10
    )


@pytest.mark.parametrize("theorem", ["stationary", "neighbourhood"])
def test_measure_and_form_are_the_same_left_side(theorem):
    problem = trig(5, 5)
    owner = (
        stationary_points(problem.minimised_at_zero(), perm(5, 5))
        if theorem == "stationary"
        else neighbourhood(PreconditionedPerm1(problem))
    )
    error = np.linspace(-1, 3, 5)
    np.testing.assert_allclose(
        owner.measure(problem.L_bar @ error), error @ owner.form @ error, rtol=1e-12
    )


def test_norm_of_24_is_that_of_the_slides():
    problem = at_zero(5, 5)
    theorem = stationary_points(problem, perm(5, 5))
    N = np.linalg.inv(problem.L_bar) @ theorem.W @ np.linalg.inv(problem.L_bar)
    v = np.linspace(-1, 3, 5)
    np.testing.assert_allclose(theorem.measure(v), v @ N @ v, rtol=1e-12)


@pytest.mark.parametrize("beta", [0.1, 0.25, 0.4])
def test_left_side_of_19_is_below_the_tightened_bound_below_the_printed_one(beta):
    sketch = PreconditionedPerm1(trig(5, 5))
    theorem, x0, K = neighbourhood(sketch), np.ones(5), 100
    for gamma in (theorem.largest_step(beta), theorem.largest_step(beta) / 9):
        curve = expected_preconditioned(sketch, x0, step_size=gamma)
        left = along(theorem.form[None], curve, K)[:, 0]
        for k in range(1, K + 1):
            drop = (left[0] - left[k]) / 2
            tightened = theorem.tightened(drop, gamma, k)
            assert left[:k].mean() <= tightened * (1 + 1e-12)
            assert tightened <= theorem.bound(drop, gamma, k, beta=beta)


def test_tightened_19_is_an_equality_at_step_size_1():
    sketch = PreconditionedPerm1(trig(5, 5))
    theorem = neighbourhood(sketch)
    left = along(theorem.form[None], expected_preconditioned(sketch, np.ones(5), step_size=1.0), 50)
    drop = (left[0, 0] - left[-1, 0]) / 2
    np.testing.assert_allclose(left[:-1].mean(), theorem.tightened(drop, 1.0, 50), rtol=1e-12)


def test_sigma2_and_h_are_those_of_all_draws():
    problem = trig(4, 4)
    sketch, x = PreconditionedPerm1(problem), np.linspace(2, -1, 4)
    e = estimator(problem, sketch)
    g = np.array([B @ x - u for B, u in (drawn(e, p) for p in every_draw(sketch))])
    centred = g - g.mean(axis=0)
    sigma2 = np.einsum("sj,jl,sl->s", centred, problem.L_bar, centred).mean()
    np.testing.assert_allclose(sigma2_18(sketch), sigma2, rtol=1e-12)
    by_17 = g.mean(axis=0) - np.linalg.solve(problem.L_bar, problem.gradient(x))
    np.testing.assert_allclose(h_17(sketch), by_17, rtol=1e-12)


def test_floor_is_where_the_left_side_goes():
    sketch = PreconditionedPerm1(trig(5, 5))
    theorem = neighbourhood(sketch)
    for gamma in (0.2, 1.0, 1.5):
        curve = expected_preconditioned(sketch, np.ones(5), step_size=gamma)
        last = along(theorem.form[None], curve, 300)[-1, 0]
        np.testing.assert_allclose(last, theorem.floor(gamma), rtol=1e-12)


def not_psd():
    """L = [[a, c], [c, b]] with c > 2ab/(a + b): W of Perm-1 is indefinite, f convex."""
    L = np.array([[1.0, 1.8], [1.8, 4.0]])
    assert 1.8 > 2 * 4 / 5
    assert np.linalg.eigvalsh(L)[0] > 0
    return Quadratics(np.stack([L, L]), np.zeros((2, 2)))


def test_an_indefinite_W_makes_the_theorem_silent_and_not_the_method_diverge():
    problem = not_psd()
    theorem = stationary_points(problem, perm(2, 2))
    (sentence,) = theorem.check()
    assert "eq. (22) fails: W-bar has the eigenvalue -" in sentence
    with pytest.raises(ValueError, match=r"silent: eq\. \(22\) fails"):
        theorem.bound(1.0, 0.1, 10)
    with pytest.raises(ValueError, match=r"eq\. \(22\) fails"):
        _ = theorem.largest_step
    curve = expected_perm1(problem, estimator(problem, perm(2, 2)), np.ones(2), step_size=0.05)
    assert along(np.eye(2)[None], curve, 400)[-1, 0] < 1e-4


def test_all_violated_assumptions_are_listed_at_once():
    theorem = StationaryPoints(np.diag([1.0, 0]), np.diag([1.0, -1]), np.eye(2), largest_b=2.0)
    b, L, W = theorem.check()
    assert "largest has norm 2" in b
    assert "L_bar has the eigenvalue 0" in L
    assert "W-bar has the eigenvalue -1 < 0" in W
    assert stationary_points(at_zero(5, 5), perm(5, 5)).check() == []


def test_theta_on_the_range_of_a_singular_W():
    W, BLB = np.diag([2.0, 0.0]), np.diag([3.0, 0.0])
    assert smallest_theta(BLB, W) == pytest.approx(1.5)
    with pytest.raises(ValueError, match=r"no theta: E\[B L B\] is 1 where W-bar is 0"):
        smallest_theta(np.eye(2), W)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda s, _: s.bound(1.0, 0.5, 10), r"step_size=0\.5 is outside \(0, 0\.1941\]"),
        (lambda s, _: s.rate(-0.1), r"step_size=-0\.1 is outside"),
        (lambda _, n: n.bound(1.0, 0.5, 10, beta=0.25), r"outside \(0, 0\.3333\], .* beta=0\.25"),
        (lambda _, n: n.bound(1.0, 0.1, 10, beta=0.5), r"beta=0\.5 is outside \(0, 1/2\)"),
        (lambda _, n: n.tightened(1.0, 1.1, 10), r"step_size=1\.1 is outside \(0, 1\]"),
        (lambda _, n: n.floor(2.0), r"step_size=2 has no floor"),
    ],
)
def test_bounds_raise_outside_their_assumptions(ask, message):
    stationary = stationary_points(at_zero(5, 5), perm(5, 5))
    with pytest.raises(ValueError, match=message):
        ask(stationary, neighbourhood(PreconditionedPerm1(trig(5, 5))))


def test_19_has_nothing_to_check_once_its_sketch_exists():
    assert Neighbourhood(np.eye(2), np.zeros(2), 0.0).check() == []


def test_identity_gives_25_and_26():
    problem = at_zero(5, 5)
    theorem = stationary_points(problem, Dealt(Full(5), 5, "paper"))
    np.testing.assert_allclose(theorem.theta, np.linalg.eigvalsh(problem.L_bar)[-1], rtol=1e-12)
    v = np.linspace(-1, 2, 5)
    np.testing.assert_allclose(theorem.measure(v), v @ v, rtol=1e-12)
