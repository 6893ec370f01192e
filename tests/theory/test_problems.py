"""Quadratics against their definition, by finite differences and scikit-learn."""

import os

import numpy as np
import pytest

from subnetwork.theory import problems, quadratics
from subnetwork.theory.data import LIBSVM, table_named
from subnetwork.theory.factored import Factored
from subnetwork.theory.glm import GeneralisedLinear
from subnetwork.theory.problems import (
    OTHER_PROBLEMS,
    Quadratics,
    any_problem_named,
    breast_cancer,
    gaussian,
    least_squares,
    on_table,
    problem_named,
    trig,
)
from subnetwork.theory.table import by_columns, gram, largest_of_gram
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


# by name

MADE_UP = ["trig", "gaussian", "breast_cancer", "digits", "diabetes"]


@pytest.mark.parametrize("name", MADE_UP)
def test_problems_by_name_are_dense_and_take_workers(name):
    problem = problem_named(name)(n_workers=3)
    assert isinstance(problem, Quadratics)
    assert problem.n_workers == 3
    np.testing.assert_allclose(problem.gradient(problem.minimiser), 0, atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [name for name in OTHER_PROBLEMS if not any(s in name for s in LIBSVM)],
)
def test_other_problems_by_name_are_solved(name):
    problem = any_problem_named(name)(n_workers=3)
    assert problem.n_workers == 3
    np.testing.assert_allclose(problem.gradient(problem.minimiser), 0, atol=1e-10)
    with pytest.raises(ValueError, match=rf"{name}.* is not stored as dense quadratics"):
        problem_named(name)


def test_any_problem_by_name_or_the_names_there_are():
    assert any_problem_named("trig")().dim == 5
    with pytest.raises(ValueError, match=r"'a8a'.*trig.*tridiagonal.*logistic:a9a"):
        any_problem_named("a8a")


def test_the_options_of_a_table():
    labelled = on_table("digits", 4, how="label")
    shuffled = on_table("digits", 4, seed=3)
    assert isinstance(labelled, Factored)
    spread = [np.std(p.b, axis=0).mean() for p in (labelled, shuffled)]
    assert spread[0] > 2 * spread[1]
    assert on_table("digits", 4, ridge=0.25).ridge == 0.25
    logistic = on_table("digits", 4, loss="logistic", relative_ridge=0.01)
    assert isinstance(logistic, GeneralisedLinear)
    steepest = on_table("digits", 1, loss="logistic", ridge=0.0, how="rows").worker_smoothness(0)
    np.testing.assert_allclose(logistic.ridge, 0.01 * steepest, rtol=1e-12)
    np.testing.assert_allclose(on_table("digits", 4).ridge, 0.1 * 4 * steepest, rtol=1e-12)
    uneven = on_table("digits", 4, how="dirichlet", alpha=0.3)
    assert len({len(y) for y in uneven.y}) > 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: on_table("digits", ridge=1.0, relative_ridge=0.1), r"ridge=1.0 and relative_"),
        (lambda: on_table("digits", loss="hinge"), r"no loss 'hinge'\. Known losses: logistic, sq"),
        (lambda: on_table("digits", how="even"), r"no split 'even'"),
        (lambda: on_table("diabetes", loss="logistic"), r"targets -1 and \+1, but the table has"),
        (lambda: problem_named("digits")(loss="huber"), r"digits with a loss is not quadratic"),
        (lambda: problem_named("digits")(1797, how="rows", ridge=-0.5), r"ridge=-0.5"),
    ],
)
def test_options_that_do_not_fit_say_what_works(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_dense_stack_that_would_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(problems, "_MOST_NUMBERS", 64 * 64 * 20)
    with pytest.raises(ValueError, match=r"30 would take 0.000983 GB .* Use at most 20 workers"):
        problem_named("digits")(30)
    assert problem_named("digits")(20).n_workers == 20


# real data

real = pytest.mark.skipif(
    not os.environ.get("SUBNETWORK_DATA"), reason="SUBNETWORK_DATA is not set"
)


@real
@pytest.mark.parametrize(
    ("name", "rank", "top", "lowest", "with_ridge"),
    [
        ("a9a", 108, 6.288, -3.6e-2, 4.3e-2),
        ("w8a", 266, 2.645, -1.3e-2, 5.5e-2),
        ("mushrooms", 84, 10.345, -3.8e-2, 5.5e-2),
        ("phishing", 39, 0.650, -1.1e-2, 6.6e-2),
    ],
)
def test_W_is_not_psd_on_real_data_until_a_ridge_makes_it(name, rank, top, lowest, with_ridge):
    """The figures of the sets' own README: L = X'X / N, W = (L D + D L) / 2."""
    table = table_named(name)
    X = by_columns(table.features)
    L = gram(X) / table.n_rows
    assert np.linalg.matrix_rank(L, hermitian=True) == rank
    np.testing.assert_allclose(largest_of_gram(X) / table.n_rows, top, atol=5e-4)
    for ridge, ratio in ((0.0, lowest), (0.1 * top, with_ridge)):
        ridged = L + ridge * np.eye(len(L))
        W = ridged * np.diag(ridged)
        eigenvalues = np.linalg.eigvalsh((W + W.T) / 2)
        np.testing.assert_allclose(eigenvalues[0] / eigenvalues[-1], ratio, atol=6e-4)


@real
@pytest.mark.parametrize(("name", "share"), [("a9a", 0.047), ("w8a", 0.30), ("phishing", 0.012)])
def test_workers_of_sorted_data_have_zero_diagonals(name, share):
    """Preconditioning divides by them; the share is that of the sets' own README."""
    problem = on_table(name, 10, how="label", ridge=0.0)
    assert abs((problem.diagonals == 0).mean() - share) < 0.006


@real
@pytest.mark.parametrize("name", ["a9a", "w8a", "mushrooms", "phishing"])
def test_real_problems_are_solved_in_every_form(name):
    dense, rows = problem_named(name)(n_workers=5), any_problem_named(f"rows:{name}")(n_workers=5)
    np.testing.assert_allclose(rows.minimiser, dense.minimiser, rtol=1e-8, atol=1e-12)
    logistic = any_problem_named(f"logistic:{name}")(n_workers=5, relative_ridge=1e-3)
    np.testing.assert_allclose(logistic.gradient(logistic.minimiser), 0, atol=1e-12)


@real
def test_a_real_problem_without_ridge_says_the_way_out():
    with pytest.raises(ValueError, match=r"L_bar has the eigenvalue .* Add a ridge .* range space"):
        _ = problem_named("a9a")(ridge=0.0).minimiser
