"""Quadratics against their definition, by finite differences and scikit-learn."""

import numpy as np
import pytest

from subnetwork.theory import quadratics
from subnetwork.theory.problems import (
    Quadratics,
    breast_cancer,
    gaussian,
    least_squares,
    problem_named,
    trig,
)
from subnetwork.theory.work import GradientSteps

PROBLEMS = [trig(), trig(2, 6), gaussian(3, 4), breast_cancer(10)]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: f"{p.n_workers}x{p.dim}")
def test_value_gradient_and_minimum_belong_together(problem):
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((2, problem.dim))
    eps = 1e-5
    slope = (problem.value(x + eps * v) - problem.value(x - eps * v)) / (2 * eps)
    np.testing.assert_allclose(problem.gradient(x) @ v, slope, rtol=1e-7)
    each = [problem.worker_gradient(i, x) for i in range(problem.n_workers)]
    np.testing.assert_allclose(np.mean(each, axis=0), problem.gradient(x), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(problem.gradient(problem.minimiser), 0, atol=1e-12)
    np.testing.assert_allclose(problem.gap(x), problem.value(x) - problem.minimum, rtol=1e-10)
    np.testing.assert_allclose(problem.value(problem.minimiser), problem.minimum, rtol=1e-11)


def test_least_squares_is_the_mean_loss_of_every_worker():
    rng = np.random.default_rng(1)
    A, y, x = rng.standard_normal((11, 3)), rng.standard_normal(11), rng.standard_normal(3)
    problem = least_squares(A, y, n_workers=2, ridge=0.3)
    parts = [(A[:6], y[:6]), (A[6:], y[6:])]
    f = [np.sum((a @ x - t) ** 2) / (2 * len(t)) + 0.15 * x @ x for a, t in parts]
    constant = np.mean([np.sum(t**2) / (2 * len(t)) for _, t in parts])
    np.testing.assert_allclose(problem.value(x) + constant, np.mean(f), rtol=1e-12)


def test_breast_cancer_has_the_solution_of_ridge_regression():
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    X, t = load_breast_cancer(return_X_y=True)
    known = Ridge(alpha=0.1 * len(t), fit_intercept=False, solver="cholesky")
    known.fit(StandardScaler().fit_transform(X), 2.0 * t - 1)
    np.testing.assert_allclose(breast_cancer(1).minimiser, known.coef_, rtol=1e-9)


def test_breast_cancer_over_30_workers_is_heterogeneous_and_definite():
    problem = breast_cancer()
    assert problem.L.shape == (30, 30, 30)
    assert np.linalg.eigvalsh(problem.L_bar)[0] > 0.1
    D = problem.diagonals
    assert D.max() / D.min() > 10


def test_trig_is_the_published_formula():
    A = np.sin(
        1.3 * 2
        + 0.7 * np.array([[1], [2]])
        + 1.1 * np.array([1, 2])
        + 0.4 * np.array([[1, 2], [2, 4]])
    )
    np.testing.assert_allclose(trig(2, 2).L[1], A.T @ A / 2 + np.eye(2) / 2, rtol=1e-14)
    np.testing.assert_allclose(trig(2, 2).b[1], np.cos([0.9 * 2 + 1.7, 0.9 * 2 + 3.4]))


def test_minimised_at_zero_keeps_the_matrices():
    problem = trig().minimised_at_zero()
    assert not problem.minimiser.any()
    assert (problem.L == trig().L).all()


def eye(n, d):
    return np.stack([np.eye(d)] * n)


@pytest.mark.parametrize(
    ("L", "b", "message"),
    [
        (np.ones((0, 3, 3)), np.zeros((0, 3)), r"do not match"),
        (eye(2, 2) * [[np.nan, 1]], np.zeros((2, 2)), r"L of worker 0 .* not finite"),
        (eye(2, 2), np.array([[0, 0], [0, np.inf]]), r"b of worker 1 .* not finite"),
        (eye(2, 2) + np.eye(2, k=1), np.zeros((2, 2)), r"worker 0 differs .* \(L \+ L'\)/2"),
    ],
)
def test_what_is_no_quadratic_is_refused(L, b, message):
    with pytest.raises(ValueError, match=message):
        Quadratics(L, b)


def test_shapes_that_do_not_match_are_refused_where_types_are_not_checked():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 3\) and b of shape \(2, 2\) do not match"):
        quadratics._common_shape(eye(2, 3), np.zeros((2, 2)))


def test_a_singular_problem_has_no_minimiser_and_says_the_way_out():
    flat = np.stack([np.diag([1.0, 0.0])] * 2)
    problem = Quadratics(flat, np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"L_bar has the eigenvalue 0 .* ridge .* range space"):
        _ = problem.minimiser
    assert problem.value(np.ones(2)) == -1.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: breast_cancer(600), r"569 rows .* n_workers=600.* Use 1 to 569 workers"),
        (lambda: breast_cancer(3, ridge=-1.0), r"ridge=-1.0"),
        (lambda: least_squares(np.ones((3, 2)), np.ones(4), n_workers=1), r"\(3, 2\) .* \(4,\)"),
        (
            lambda: problem_named("breast_cancr"),
            r"no problem 'breast_cancr'\. Known problems: breast_cancer, gaussian, trig",
        ),
        (lambda: GradientSteps(trig(), -0.1), r"step_size=-0.1 does not descend"),
        (lambda: GradientSteps(trig(), 0.0), r"step_size=0.0 does not descend"),
        (lambda: GradientSteps(trig(), float("nan")), r"step_size=nan does not descend"),
        (lambda: GradientSteps(trig(), 0.1, n_steps=0), r"n_steps=0 .* n_steps=1"),
    ],
)
def test_refusals_say_what_works(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_local_steps_are_steps_of_gradient_descent_on_the_sketched_function():
    from subnetwork import Perm
    from subnetwork.theory.sketches import Dealt

    problem, x = trig(2, 5), np.linspace(0, 1, 5)
    partition = Dealt(Perm(2), 5, "paper").sample(0, 0)
    w = [partition.select(x, i) for i in range(2)]
    trained = GradientSteps(problem, 0.1, n_steps=3)(0, partition, w)
    for i in range(2):
        z, C = w[i], np.diag(partition.scale[i])
        for _ in range(3):
            z = z - 0.1 * C @ (problem.L[i] @ z - problem.b[i])
        np.testing.assert_allclose(trained[i], z, rtol=1e-13)
