"""Theorem A, the special cases and prior work: both sides, silence, published numbers."""

from itertools import islice

import numpy as np
import pytest

from subnetwork import Full, Perm
from subnetwork.theory import special_cases
from subnetwork.theory.curves import along, bias, expected, fixed_point
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import drawn, estimator
from subnetwork.theory.moments import mean_B
from subnetwork.theory.prior_work import BoundedGradient, CompressedIterates, sgd_on_F
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.stationary import stability_limit, stationary
from subnetwork.theory.theorem_a import theorem_a
from subnetwork.theory.theorems import neighbourhood, stationary_points


def perm(n, d, semantics="paper"):
    return Dealt(Perm(n), d, semantics)


def indefinite():
    """L = [[1, 3], [3, 10]]: W-bar of Perm-1 is indefinite."""
    L = np.array([[1.0, 3.0], [3.0, 10.0]])
    return Quadratics(np.stack([L, L]), np.array([[1.0, 2.0], [1.0, 2.0]]))


CASES = [
    (problem, semantics)
    for problem in (trig(5, 5), trig(3, 6), trig(4, 12), indefinite())
    for semantics in ("paper", "as trained")
]


@pytest.mark.parametrize(("problem", "semantics"), CASES)
def test_theorem_a_holds_for_any_b_and_for_b_0(problem, semantics):
    n, d = problem.n_workers, problem.dim
    x0, K = np.ones(d), 100
    for p in (problem, problem.minimised_at_zero()):
        e = estimator(p, perm(n, d, semantics))
        theorem, x_inf = theorem_a(e), fixed_point(e)
        assert theorem.check() == []
        gamma = theorem.largest_step
        for k, now in zip(range(K), expected(p, e, x0, step_size=gamma), strict=False):
            off = x_inf - p.minimiser  # E|x - x_inf|^2 from the moments of x - x*
            left = np.trace(now.M) - 2 * off @ now.m + off @ off
            assert left <= theorem.bound((x0 - x_inf) @ (x0 - x_inf), gamma, k) * (1 + 1e-9) + 1e-12


def test_theorem_a_has_the_constants_of_all_draws_and_its_floor_is_about_3_times_the_exact_one():
    problem, sketch = trig(5, 5), perm(5, 5)
    e = estimator(problem, sketch)
    draws, x_inf = [drawn(e, p) for p in every_draw(sketch)], fixed_point(e)
    theorem = theorem_a(e)
    np.testing.assert_allclose(theorem.BB, np.mean([B.T @ B for B, _ in draws], 0), rtol=1e-12)
    s2 = np.mean([np.sum((B @ x_inf - u) ** 2) for B, u in draws])
    np.testing.assert_allclose(theorem.s2, s2, rtol=1e-10)
    gamma = theorem.largest_step
    end = stationary(problem, e, step_size=gamma)
    exact = np.trace(end.M) - np.sum((x_inf - problem.minimiser) ** 2)
    assert 3.0 <= theorem.floor(gamma) / exact <= 3.6
    ist = theorem_a(estimator(problem, perm(5, 5, "as trained")))
    np.testing.assert_allclose(ist.s2, theorem.s2, rtol=1e-10)
    np.testing.assert_allclose(ist.theta * 5, theorem.theta, rtol=1e-12)


def test_theorem_a_is_silent_where_E_B_is_not_symmetric_or_the_step_is_too_large():
    from subnetwork.theory.jacobi import Jacobi

    theorem = theorem_a(estimator(trig(2, 4), Jacobi(trig(2, 4))))
    (why,) = theorem.check()
    assert "differs from its transpose" in why
    with pytest.raises(ValueError, match="Theorem A is silent"):
        theorem.bound(1.0, 0.1, 3)
    theorem = theorem_a(estimator(trig(2, 4), perm(2, 4)))
    with pytest.raises(ValueError, match=r"outside \(0, "):
        theorem.bound(1.0, 1.01 * theorem.largest_step, 3)


def along_run(problem, sketch, step_size, forms, K=60):
    e = estimator(problem, sketch)
    return along(
        np.stack(forms), expected(problem, e, np.ones(problem.dim), step_size=step_size), K
    )


def test_26_holds_for_any_b_and_is_tight_on_a_line():
    problem = trig(3, 5)
    theorem = special_cases.gradient_descent(problem)
    left, gap = along_run(
        problem, Dealt(Full(3), 5, "paper"), theorem.largest_step, [theorem.form, problem.L_bar / 2]
    ).T
    for K in (1, 7, 60):
        assert left[:K].mean() <= theorem.bound(gap[0] - gap[K], theorem.largest_step, K)
    line = Quadratics(np.array([[[3.0]]]), np.array([[1.0]]))
    tight = special_cases.gradient_descent(line)
    left, gap = along_run(
        line, Dealt(Full(1), 1, "paper"), tight.largest_step, [tight.form, line.L_bar / 2], 1
    ).T
    np.testing.assert_allclose(left[0], tight.bound(gap[0] - gap[1], tight.largest_step, 1))


def test_28_corrected_is_the_general_theorem_and_the_printed_one_is_silent_for_unequal_diagonals():
    problem = trig(5, 5).minimised_at_zero()
    corrected = special_cases.perm1(problem)
    general = stationary_points(problem, perm(5, 5))
    np.testing.assert_allclose(corrected.theta, general.theta, rtol=1e-12)
    np.testing.assert_allclose(corrected.W, general.W, rtol=1e-12)
    assert corrected.theta == pytest.approx(5.1503, abs=5e-5)
    assert corrected.check() == []
    printed = special_cases.perm1(problem, printed=True)
    assert printed.theta == pytest.approx(5.0387, abs=5e-5)
    (why,) = printed.check()
    assert "the D_i differ" in why
    with pytest.raises(ValueError, match="is silent: the D_i differ"):
        printed.bound(1.0, 0.1, 10)


def test_theta_of_the_homogeneous_problem_is_the_published_one():
    same = Quadratics(np.stack([trig(1, 5).L[0]] * 5), np.zeros((5, 5)))
    assert special_cases.perm1(same, printed=True).theta == pytest.approx(5.6234, abs=5e-5)
    assert special_cases.perm1(same, printed=True).check() == []
    np.testing.assert_allclose(special_cases.perm1(same).theta, 5.6234, atol=5e-5)


def test_31_one_round_at_1_over_n_solves_the_homogeneous_problem():
    same = Quadratics(np.stack([trig(1, 5).L[0]] * 5), np.zeros((5, 5)))
    theorem = special_cases.homogeneous(same)
    assert theorem.theta == 5
    scaled = Quadratics(np.stack([theorem.matrix] * 5), np.zeros((5, 5)))
    left, gap = along_run(scaled, perm(5, 5), 0.2, [theorem.form, scaled.L_bar / 2]).T
    assert gap[1] < 1e-14 * gap[0]
    assert left[:60].mean() <= theorem.bound(gap[0] - gap[60], 0.2, 60)
    np.testing.assert_allclose(theorem.theta, stationary_points(scaled, perm(5, 5)).theta)
    (why,) = special_cases.homogeneous(trig(5, 5).minimised_at_zero()).check()
    assert "the L_i differ by" in why
    assert len(special_cases.homogeneous(trig(5, 5)).check()) == 2


def test_34_holds_and_needs_b_0():
    problem = trig(5, 5).minimised_at_zero()
    sketch = PreconditionedPerm1(problem)
    theorem = special_cases.heterogeneous(sketch)
    for gamma in (1.0, 0.3):
        left, gap = along_run(problem, sketch, gamma, [theorem.form, problem.L_bar / 2]).T
        assert left[:60].mean() <= theorem.bound(gap[0] - gap[60], gamma, 60)
    assert "b_i is not 0" in special_cases.heterogeneous(PreconditionedPerm1(trig(5, 5))).check()[0]
    v = np.linspace(-1, 2, 5)
    np.testing.assert_allclose(theorem.measure(problem.L_bar @ v), v @ theorem.form @ v)


def test_gdci_is_stable_exactly_below_its_threshold():
    theorem = CompressedIterates(100.0)
    assert theorem.required == pytest.approx(1e-4)
    assert theorem.threshold == pytest.approx(4.1e-2, abs=5e-4)
    step = theorem.best_step()
    assert theorem.growth(0.999 * theorem.threshold, step) < 1
    steps = np.linspace(0.01, 3, 2000)
    assert min(theorem.growth(1.001 * theorem.threshold, s) for s in steps) > 1
    assert theorem.check(1e-5) == []
    assert "stable up to 0.0408" in theorem.check(1e-3)[0]


def test_gdci_growth_is_that_of_all_masks():
    """Bernoulli C on a diagonal quadratic: x+ = (I - gamma L) C x, omega = 1/p - 1."""
    kappa, p, gamma, lam = 3.0, 0.8, 0.9, np.array([1 / 3.0, 1.0])
    worst = []
    for x in np.eye(2):
        total = 0.0
        for mask in np.ndindex(2, 2):
            chance = np.prod(np.where(mask, p, 1 - p))
            total += chance * np.sum(((1 - gamma * lam) * np.array(mask) / p * x) ** 2)
        worst.append(total)
    growth = CompressedIterates(kappa).growth(1 / p - 1, gamma)
    np.testing.assert_allclose(max(worst), growth, rtol=1e-12)


@pytest.mark.parametrize("G", [0.0, 1.0, 1e6])
def test_no_quadratic_has_a_bounded_gradient(G):
    problem = trig(3, 4)
    theorem = BoundedGradient(problem, G)
    x = theorem.witness()
    assert np.sum(problem.gradient(x) ** 2) > G
    assert "no quadratic has a bounded gradient" in theorem.check()[0]
    assert BoundedGradient(Quadratics(np.zeros((1, 2, 2)), np.ones((1, 2))), 3.0).check() == []


@pytest.mark.parametrize("n", [4, 16, 64])
def test_the_bias_does_not_vanish_as_n_grows(n):
    """Equal L_i = 0.7 I + 0.3 11', b orthogonal to 1: |x_inf - x*|/|x*| = 1 - 0.7/sqrt(n)."""
    L, b = 0.7 * np.eye(n) + 0.3 * np.ones((n, n)), (-1.0) ** np.arange(n)
    problem = Quadratics(np.stack([L] * n), np.stack([b] * n))
    off = neighbourhood(PreconditionedPerm1(problem)).h
    share = np.linalg.norm(off) / np.linalg.norm(problem.minimiser)
    np.testing.assert_allclose(share, 1 - 0.7 / np.sqrt(n), rtol=1e-10)
    ist = fixed_point(estimator(problem, perm(n, n, "as trained")))
    still = np.linalg.norm(ist - problem.minimiser) / np.linalg.norm(problem.minimiser)
    np.testing.assert_allclose(still, 0.3, rtol=1e-10)


def test_the_published_numbers_of_19_come_out():
    """beta = 1/4, gamma = 1/3, K = 200 (theory.md, section 2)."""
    sketch = PreconditionedPerm1(trig(5, 5))
    theorem = neighbourhood(sketch)
    assert theorem.floor(1 / 3) == pytest.approx(0.1582, abs=5e-5)
    found = {}
    for start, x0 in (("ones", np.ones(5)), ("zero", np.zeros(5))):
        curve = expected(trig(5, 5), estimator(trig(5, 5), sketch), x0, step_size=1 / 3)
        left = along(theorem.form[None], curve, 200)[:, 0]
        drop = (left[0] - left[-1]) / 2
        found[start] = (
            left[:-1].mean(),
            theorem.bound(drop, 1 / 3, 200, beta=0.25),
            theorem.tightened(drop, 1 / 3, 200),
        )
    np.testing.assert_allclose(found["ones"], [0.1862, 0.5762, 0.2644], atol=5e-5)


def test_published_gaps_of_readout_and_t6():
    """T4 and T6 are trig(4, 16) and trig(6, 6): bias floors .0058 and .0012 of unscaled IST."""
    for n, d, floor in ((4, 16, 0.0058), (6, 6, 0.0012)):
        problem = trig(n, d)
        e = estimator(problem, perm(n, d, "as trained"))
        assert bias(problem, e) == pytest.approx(floor, abs=5e-5)
    problem = trig(3, 6)
    paper, ist = (estimator(problem, perm(3, 6, s)) for s in ("paper", "as trained"))
    assert bias(problem, paper) == pytest.approx(0.3213, abs=5e-5)
    assert problem.gap(3 * fixed_point(paper)) == pytest.approx(bias(problem, ist), rel=1e-12)
    assert bias(problem, ist) == pytest.approx(0.0158, abs=5e-5)
    assert stability_limit(ist) == pytest.approx(3 * stability_limit(paper), rel=1e-8)


@pytest.mark.parametrize(("n", "d", "simulated"), [(4, 16, 0.767), (6, 6, 0.252)])
def test_published_simulated_floors_of_ist_are_within_3_percent_of_the_exact_ones(n, d, simulated):
    """Step 0.5/lambda_max(L_bar) on T4 and T6 (theory.md, section 4.2): bias and noise."""
    problem = trig(n, d)
    gamma = 0.5 / np.linalg.eigvalsh(problem.L_bar)[-1]
    e = estimator(problem, perm(n, d, "as trained"))
    exact = stationary(problem, e, step_size=gamma).of(problem.L_bar / 2)
    assert exact == pytest.approx(simulated, rel=0.03)


@pytest.mark.parametrize(("semantics", "n", "d"), [("as trained", 4, 16), ("paper", 5, 5)])
def test_non_convex_sgd_holds_on_the_objective_of_ist(semantics, n, d):
    """min over k of E|grad F|^2, exactly, against 6 (F0 - F*) / (gamma K) + gamma L C."""
    problem, K, x0 = trig(n, d), 60, np.ones(d)
    sketch = Dealt(Perm(n), d, semantics)
    e = estimator(problem, sketch)
    theorem, H, x_inf = sgd_on_F(e), mean_B(e), fixed_point(e)
    gamma = theorem.largest_step(K)
    about = Quadratics(problem.L, problem.b)
    H2, cross = H @ H, []
    for now in islice(expected(about, e, x0, step_size=gamma), K):
        off = problem.minimiser - x_inf  # E|H (x - x_inf)|^2 from the moments about x*
        cross.append(now.of(H2) + 2 * now.m @ H2 @ off + off @ H2 @ off)
    drop = float((x0 - x_inf) @ H @ (x0 - x_inf) / 2)
    assert 0 < min(cross) <= theorem.bound(drop, gamma, K)
    if d == 5:  # the constants, at a point, over all draws
        x = np.linspace(-3, 5, d)
        squares = [np.sum((B @ x - u) ** 2) for B, u in (drawn(e, p) for p in every_draw(sketch))]
        gap = (x - x_inf) @ H @ (x - x_inf) / 2
        assert np.mean(squares) <= 2 * theorem.A * gap + theorem.C
        assert np.mean(squares) > 0.25 * (2 * theorem.A * gap)
    with pytest.raises(ValueError, match="non-convex SGD speaks"):
        theorem.bound(drop, 2 * gamma, K)


def test_hessian_variance_is_the_worst_case_of_its_definition():
    problem, rng = trig(3, 6), np.random.default_rng(0)
    for h in rng.standard_normal((200, 6)):
        each = np.mean([np.sum((L @ h) ** 2) for L in problem.L])
        assert each - np.sum((problem.L_bar @ h) ** 2) <= problem.hessian_variance * (h @ h) + 1e-12
    square = (problem.L @ problem.L).mean(axis=0) - problem.L_bar @ problem.L_bar
    h = np.linalg.eigh(square)[1][:, -1]
    assert h @ square @ h == pytest.approx(problem.hessian_variance)
    assert Quadratics(np.stack([problem.L[0]] * 2), problem.b[:2]).hessian_variance < 1e-12
