"""Laws that every problem keeps, however it is stored; dense matrices are the slow definition."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from subnetwork import Perm, rounds
from subnetwork.deals import RandQ
from subnetwork.splits import consecutive, iid
from subnetwork.theory.factored import Factored, factored
from subnetwork.theory.glm import GeneralisedLinear, generalised_linear, logistic_gaussian
from subnetwork.theory.linear import largest_eigenvalue, solve_definite
from subnetwork.theory.losses import LOSSES
from subnetwork.theory.merges import update_form
from subnetwork.theory.perm1_table import perm1_table
from subnetwork.theory.problem import Problem, QuadraticProblem
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.sparse import SharedPattern, tridiagonal
from subnetwork.theory.table import Table, largest_of_gram
from subnetwork.theory.work import BlockSteps, GradientSteps


def table(m=23, d=6, *, sparse=False, seed=0):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, d)) * (rng.random((m, d)) < (0.5 if sparse else 1.0))
    y = np.where(rng.random(m) < 0.4, -1.0, 1.0)
    return Table(csr_array(A) if sparse else A, y, y)


def on(loss, *, sparse=False, ridge=0.1):
    data = table(sparse=sparse)
    parts = iid(data.n_rows, 4, seed=1)  # 6, 6, 6 and 5 rows
    if loss is None:
        return factored(data, parts, ridge=ridge)
    return generalised_linear(data, parts, loss=LOSSES[loss], ridge=ridge)


PROBLEMS = {
    "dense": trig(4, 6),
    "tridiagonal": tridiagonal(4, 6, noise=0.3, smallest=0.05),
    "factored": on(None),
    "factored, sparse": on(None, sparse=True),
    **{loss: on(loss) for loss in LOSSES},
    "logistic, sparse": on("logistic", sparse=True),
    "logistic of the page": logistic_gaussian(4, 6, n_rows=30),
}
QUADRATIC = ["tridiagonal", "factored", "factored, sparse"]


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


def point(problem, seed=0):
    return np.random.default_rng(seed).standard_normal(problem.dim)


def matrix(problem, worker):
    """L_i from its products."""
    return np.stack([problem.worker_product(worker, e) for e in np.eye(problem.dim)])


def test_is_what_the_protocols_ask_for(problem):
    assert isinstance(problem, Problem)
    assert isinstance(problem, QuadraticProblem) == (not isinstance(problem, GeneralisedLinear))


def test_gradients_are_slopes_of_the_values(problem):
    x, v, eps = point(problem), point(problem, 1), 1e-6
    slope = (problem.value(x + eps * v) - problem.value(x - eps * v)) / (2 * eps)
    np.testing.assert_allclose(problem.gradient(x) @ v, slope, rtol=1e-6)
    for i in range(problem.n_workers):
        up, down = problem.worker_value(i, x + eps * v), problem.worker_value(i, x - eps * v)
        np.testing.assert_allclose(
            problem.worker_gradient(i, x) @ v, (up - down) / (2 * eps), rtol=1e-6, atol=1e-9
        )


def test_f_is_the_mean_over_workers(problem):
    x, workers = point(problem), range(problem.n_workers)
    values = [problem.worker_value(i, x) for i in workers]
    gradients = [problem.worker_gradient(i, x) for i in workers]
    np.testing.assert_allclose(problem.value(x), np.mean(values), rtol=1e-12)
    np.testing.assert_allclose(problem.gradient(x), np.mean(gradients, axis=0), rtol=1e-11)


@pytest.mark.parametrize("units", [[], [3], [0, 2, 5], [0, 1, 2, 3, 4, 5]])
def test_a_block_gradient_is_the_gradient_of_the_submodel(problem, units):
    units, x = np.array(units, dtype=np.int64), np.zeros(problem.dim)
    x[units] = point(problem)[units]
    for i in range(problem.n_workers):
        block = problem.worker_block_gradient(i, units, x[units])
        np.testing.assert_allclose(
            block, problem.worker_gradient(i, x)[units], rtol=1e-12, atol=1e-14
        )


def test_the_minimiser_is_stationary_and_lowest(problem):
    x = problem.minimiser
    np.testing.assert_allclose(problem.gradient(x), 0, atol=1e-13)
    np.testing.assert_allclose(problem.value(x), problem.minimum, rtol=1e-11)
    far = point(problem)
    np.testing.assert_allclose(problem.gap(far), problem.value(far) - problem.minimum, rtol=1e-10)
    assert problem.gap(x + 1e-3 * far) > 0


def test_smoothness_is_what_assumption_1_says(problem):
    x, h = point(problem), point(problem, 1)
    for i in range(problem.n_workers):
        L = matrix(problem, i)
        np.testing.assert_allclose(L, L.T, atol=1e-14)
        np.testing.assert_allclose(problem.diagonals[i], np.diag(L), rtol=1e-12)
        lowest, highest = np.linalg.eigvalsh(L)[[0, -1]]
        np.testing.assert_allclose(problem.worker_smoothness(i), highest, rtol=1e-12)
        assert problem.worker_convexity(i) <= lowest + 1e-12
        model = problem.worker_value(i, x) + problem.worker_gradient(i, x) @ h
        curved = problem.worker_value(i, x + h) - model
        assert problem.worker_convexity(i) / 2 * h @ h - 1e-12 <= curved
        assert curved <= h @ L @ h / 2 + 1e-12


@pytest.mark.parametrize("name", QUADRATIC)
def test_is_the_same_problem_as_its_dense_twin(name):
    problem = PROBLEMS[name]
    dense, x, units = problem.to_quadratics(), point(problem), np.array([1, 4])
    same = {"rtol": 1e-10, "atol": 1e-13}
    np.testing.assert_allclose(problem.value(x), dense.value(x), **same)
    np.testing.assert_allclose(problem.gradient(x), dense.gradient(x), **same)
    np.testing.assert_allclose(problem.minimiser, dense.minimiser, **same)
    np.testing.assert_allclose(problem.minimum, dense.minimum, **same)
    np.testing.assert_allclose(problem.gap(x), dense.gap(x), **same)
    np.testing.assert_allclose(problem.L_bar, dense.L_bar, **same)
    np.testing.assert_allclose(problem.diagonals, dense.diagonals, **same)
    for i in range(problem.n_workers):
        for theirs, ours in [
            (dense.worker_value(i, x), problem.worker_value(i, x)),
            (dense.worker_gradient(i, x), problem.worker_gradient(i, x)),
            (dense.worker_product(i, x), problem.worker_product(i, x)),
            (
                dense.worker_block_gradient(i, units, x[units]),
                problem.worker_block_gradient(i, units, x[units]),
            ),
            (dense.worker_smoothness(i), problem.worker_smoothness(i)),
        ]:
            np.testing.assert_allclose(ours, theirs, **same)


@pytest.mark.parametrize("name", QUADRATIC)
def test_minimised_at_zero_keeps_the_matrices(name):
    problem = PROBLEMS[name].minimised_at_zero()
    assert not problem.minimiser.any()
    np.testing.assert_array_equal(problem.diagonals, PROBLEMS[name].diagonals)


@pytest.mark.parametrize("sketch", [Dealt(Perm(4), 6, "paper"), Dealt(RandQ(4, q=3), 6, "paper")])
def test_a_submodels_work_takes_the_same_steps_as_full_gradients(problem, sketch):
    both = [
        list(rounds(np.ones(6), sketch, work(problem, 0.02, 3), update_form, seed=5, n_rounds=4))
        for work in (GradientSteps, BlockSteps)
    ]
    for full, block in zip(*both, strict=True):
        np.testing.assert_allclose(block.x, full.x, rtol=1e-12, atol=1e-14)
        assert not np.array_equal(full.x, np.ones(6))


def test_block_steps_refuse_what_gradient_steps_refuse():
    with pytest.raises(ValueError, match=r"step_size=0.0 does not descend"):
        BlockSteps(PROBLEMS["dense"], 0.0)


# the tridiagonal generator


def test_tridiagonal_is_the_published_generator():
    n, d, s = 3, 5, 0.4
    problem = tridiagonal(n, d, noise=s, smallest=1e-3, seed=7)
    dense = problem.to_quadratics()
    rng = np.random.default_rng(7)
    nu, noise_b = np.empty(n), np.empty(n)
    for i in range(n):
        nu[i] = 1 + s * rng.standard_normal()
        noise_b[i] = s * rng.standard_normal()
    T = 2 * np.eye(d) - np.eye(d, k=1) - np.eye(d, k=-1)
    L = nu[:, None, None] / 4 * T
    L += (1e-3 - np.linalg.eigvalsh(L.mean(axis=0))[0]) * np.eye(d)
    np.testing.assert_allclose(dense.L, L, atol=1e-15)
    np.testing.assert_allclose(dense.b[:, 0], nu / 4 * (-1 + noise_b), rtol=1e-14)
    assert not dense.b[:, 1:].any()


@pytest.mark.parametrize("noise", [0.0, 0.5, 30.0])
def test_tridiagonal_has_the_wanted_smallest_eigenvalue(noise):
    dense = tridiagonal(3, 40, noise=noise, smallest=0.01, seed=4).to_quadratics()
    np.testing.assert_allclose(np.linalg.eigvalsh(dense.L_bar)[0], 0.01, rtol=1e-9)


def test_tridiagonal_of_the_papers_size_fits_and_is_solved():
    problem = tridiagonal(1000, 1000)
    assert problem.values.nbytes < 1000 * 3000 * 8
    np.testing.assert_allclose(problem.gradient(problem.minimiser), 0, atol=1e-12)


def test_a_wider_pattern_is_solved_as_well():
    rng = np.random.default_rng(2)
    L = rng.standard_normal((2, 5, 5))
    L = L @ L.transpose(0, 2, 1) + np.eye(5)
    L[:, 0, 4] = L[:, 4, 0] = 0
    pattern = csr_array(L[0] != 0)
    rows = np.repeat(np.arange(5), np.diff(pattern.indptr))
    problem = SharedPattern(
        pattern.indptr.astype(np.int64),
        pattern.indices.astype(np.int64),
        L[:, rows, pattern.indices],
        rng.standard_normal((2, 5)),
    )
    np.testing.assert_allclose(problem.to_quadratics().L, L)
    np.testing.assert_allclose(problem.minimiser, problem.to_quadratics().minimiser, rtol=1e-11)


def pattern(**changes):
    made = tridiagonal(2, 3)
    parts = {name: getattr(made, name).copy() for name in ("indptr", "indices", "values", "b")}
    for name, change in changes.items():
        parts[name] = change(parts[name])
    return SharedPattern(**parts)


def spoil(index, value):
    def change(array):
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pattern(b=lambda b: b[:, :2]), r"3 rows and 7 entries.* b of shape \(2, 2\)"),
        (lambda: pattern(values=spoil((1, 0), np.nan)), r"values of worker 1 .* not finite"),
        (lambda: pattern(values=spoil((1, 1), 9.0)), r"differs from its transpose by 9\.\d+"),
        (lambda: pattern(indices=spoil(1, 2)), r"differs from its transpose by inf"),
        (lambda: pattern(indices=spoil(1, 3)), r"columns 0\.\.3 in d=3.* from 0 to 2"),
        (lambda: tridiagonal(2, 3, smallest=0.0), r"smallest=0.0 .* 1e-6"),
        (lambda: tridiagonal(0, 3), r"n_workers=0, dim=3"),
        (
            lambda: pattern(values=lambda v: v - 1.0 * (v > 0)).minimiser,
            r"L_bar has the eigenvalue -1 .* positive definite",
        ),
    ],
)
def test_patterns_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# factored, iteratively


def test_wide_tables_are_solved_by_their_products(monkeypatch):
    """d = 2,500 is above where a d x d matrix is made; the rows' own 2 x 40 system knows x*."""
    rng = np.random.default_rng(0)
    A, y, ridge = rng.standard_normal((40, 2500)), rng.standard_normal(40), 0.3
    monkeypatch.setattr(Factored, "L_bar", property(lambda _: pytest.fail("made a matrix")))
    data = Table(A, y, y)
    problem = factored(data, consecutive(40, 2), ridge=ridge)
    dual = A.T @ np.linalg.solve(A @ A.T / 40 + ridge * np.eye(40), y / 40)
    np.testing.assert_allclose(problem.minimiser, dual, rtol=1e-9, atol=1e-12)
    left = np.linalg.norm(problem.gradient(problem.minimiser))
    assert left <= 1e-12 * np.linalg.norm(problem.b_bar)
    flat = factored(data, consecutive(40, 2), ridge=0.0)
    assert flat.worker_smoothness(0) == pytest.approx(
        np.linalg.norm(A[:20], 2) ** 2 / 20, rel=1e-10
    )


def test_a_wide_logistic_regression_is_solved_by_its_products(monkeypatch):
    rng = np.random.default_rng(3)
    A, y = rng.standard_normal((30, 2100)) / 40, np.repeat([1.0, -1.0], 15)
    monkeypatch.setattr(GeneralisedLinear, "hessian", lambda *_: pytest.fail("made a matrix"))
    problem = generalised_linear(Table(A, y, y), consecutive(30, 3), ridge=0.05)
    np.testing.assert_allclose(problem.gradient(problem.minimiser), 0, atol=1e-12)


def test_solving_with_a_singular_matrix_is_refused():
    with pytest.raises(ValueError, match=r"L_bar could not be solved with .* Add a ridge"):
        solve_definite(lambda v: v * [1.0, 0.0] + 0.0, np.ones(2), np.ones(2), "L_bar")
    with pytest.raises(ValueError, match=r"a diagonal entry is 0"):
        solve_definite(lambda v: v * [1.0, 0.0], np.ones(2), np.array([1.0, 0.0]), "L_bar")
    np.testing.assert_array_equal(solve_definite(np.negative, np.zeros(2), np.ones(2), "L"), 0)


def test_a_hilbert_matrix_is_solved_after_restarts_or_refused():
    """Conjugate gradients need restarts at condition 5e5: the true residual decides."""
    i = np.arange(5)
    H = 1 / (1 + i[:, None] + i)
    x = solve_definite(lambda v: H @ v, np.ones(5), np.diag(H).copy(), "H")
    assert np.linalg.norm(H @ x - 1) <= 1e-12 * np.sqrt(5)


@pytest.mark.parametrize("d", [1, 3, 40])
def test_the_largest_eigenvalue_by_products(d):
    A = np.random.default_rng(d).standard_normal((d + 2, d))
    top = np.linalg.eigvalsh(A.T @ A)[-1]
    np.testing.assert_allclose(largest_eigenvalue(lambda v: A.T @ (A @ v), d), top, rtol=1e-12)
    for shaped in (A, A.T.copy(), csr_array(A).tocsc()):
        np.testing.assert_allclose(largest_of_gram(shaped), top, rtol=1e-12)


def test_factored_refuses_shapes_and_ridges():
    A, y = np.ones((3, 2)), np.ones(3)
    with pytest.raises(ValueError, match=r"ridge=-1.0 would take convexity away"):
        Factored((A,), (y,), -1.0)
    with pytest.raises(ValueError, match=r"do not match: each worker wants \(m_i, d\)"):
        Factored((A,), (y[:2],), 0.0)
    with pytest.raises(ValueError, match=r"do not match"):
        GeneralisedLinear((A, np.ones((3, 3))), LOSSES["logistic"], 0.0)
    with pytest.raises(ValueError, match=r"1 of 2 workers get no row \(the first is worker 1\)"):
        factored(table(), (np.arange(3), np.arange(0)))
    with pytest.raises(ValueError, match=r"row 23, but the table has 23 rows"):
        factored(table(), (np.array([23]),))


# generalised linear models


def test_logistic_regression_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression

    data = table(60, 4, seed=5)
    problem = generalised_linear(data, consecutive(60, 3), ridge=0.2)
    known = LogisticRegression(C=1 / (0.2 * 60), fit_intercept=False, tol=1e-12, max_iter=1000)
    known.fit(data.features, data.targets)
    np.testing.assert_allclose(problem.minimiser, known.coef_[0], rtol=1e-6)


def test_the_squared_loss_of_the_margin_is_least_squares():
    squares, rows = on("squared"), on(None)
    np.testing.assert_allclose(squares.minimiser, rows.minimiser, rtol=1e-11)
    x = point(rows)
    np.testing.assert_allclose(squares.value(x), rows.value(x) + 0.5, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=lambda loss: loss.name)
def test_losses_are_convex_with_the_declared_derivatives(loss):
    t = np.linspace(-4, 4, 401) + 0.00123  # away from the corners of piecewise losses
    eps = 1e-5
    slope = (loss.value(t + eps) - loss.value(t - eps)) / (2 * eps)
    curvature = (loss.slope(t + eps) - loss.slope(t - eps)) / (2 * eps)
    np.testing.assert_allclose(loss.slope(t), slope, atol=1e-9)
    np.testing.assert_allclose(loss.curvature(t), curvature, atol=1e-9)
    assert loss.curvature(t).min() >= 0
    assert loss.curvature(t).max() <= loss.largest
    assert loss.largest - loss.curvature(np.array([0.0, 0.5])).max() < 1e-12


def test_losses_do_not_overflow():
    far = np.array([-1e4, 1e4])
    for loss in LOSSES.values():
        assert np.isfinite([loss.value(far), loss.slope(far), loss.curvature(far)]).all()


def test_many_points_at_once_are_single_points():
    problem, points = PROBLEMS["logistic, sparse"], np.eye(6)[:4] * 2
    each = [problem.worker_gradient(1, x) for x in points]
    np.testing.assert_allclose(problem.worker_gradients(1, points), each, rtol=1e-13)
    values = [problem.worker_value(1, x) for x in points]
    np.testing.assert_allclose(problem.worker_values(1, points), values, rtol=1e-13)


def test_the_hessian_is_the_slope_of_the_gradient():
    problem, x, v, eps = PROBLEMS["logistic"], np.ones(6), np.arange(6.0), 1e-6
    slope = (problem.gradient(x + eps * v) - problem.gradient(x - eps * v)) / (2 * eps)
    np.testing.assert_allclose(problem.hessian(x) @ v, slope, rtol=1e-7)


def test_smoothness_matrices_are_those_of_the_products():
    problem = PROBLEMS["logistic, sparse"]
    for i, L in enumerate(problem.smoothness_matrices()):
        np.testing.assert_allclose(L, matrix(problem, i), atol=1e-14)


def test_separable_data_without_ridge_have_no_minimiser_and_the_message_says_so():
    A = np.array([[1.0], [2.0], [-1.0]])
    y = np.array([1.0, 1.0, -1.0])
    problem = generalised_linear(Table(A, y, y), consecutive(3, 1), ridge=0.0)
    with pytest.raises(
        ValueError,
        match=r"ridge=0: f may have no minimiser, .* Use a ridge",
    ):
        _ = problem.minimiser


def test_targets_that_are_no_classes_are_refused():
    data = Table(np.ones((2, 1)), np.array([1.0, 3.0]), np.zeros(2))
    with pytest.raises(ValueError, match=r"-1 and \+1, but the table has 3"):
        generalised_linear(data, consecutive(2, 1))


# Perm-1


def test_a_perm1_table_knows_what_perm1_sees():
    from subnetwork.theory.curves import fixed_point
    from subnetwork.theory.estimator import estimator

    rows = on(None)
    problem = factored(table(), consecutive(23, 6), ridge=0.1)
    dense, light = problem.to_quadratics(), perm1_table(problem)
    np.testing.assert_allclose(light.minimiser, dense.minimiser, rtol=1e-11)
    np.testing.assert_allclose(light.gap(np.ones(6)), dense.gap(np.ones(6)), rtol=1e-11)
    unscaled = estimator(dense, Dealt(Perm(6), 6, "as trained"))
    np.testing.assert_allclose(light.fixed_point, fixed_point(unscaled), rtol=1e-11)
    np.testing.assert_allclose(light.diagonals, dense.diagonals, rtol=1e-12)
    assert perm1_table(rows).b.shape == (4, 6)
