"""F(x) = mean_i E f_i(C_i x), by enumeration of whole draws, which is its definition."""

import numpy as np
import pytest

from subnetwork.deals import Bernoulli, Full, Perm, RandQ
from subnetwork.splits import consecutive
from subnetwork.theory.averaged import AveragedObjective, DrawnObjective, enumerated, sampled
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import estimator
from subnetwork.theory.glm import generalised_linear, logistic_gaussian
from subnetwork.theory.hands import every_hand
from subnetwork.theory.minima import GapOfMinima
from subnetwork.theory.objective import (
    QuadraticObjective,
    bias,
    bias_and_error,
    objective,
)
from subnetwork.theory.problems import problem_named, trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.sparse import tridiagonal
from subnetwork.theory.table import Table
from subnetwork.theory.work import GradientSteps

LOGISTIC = logistic_gaussian(3, 6, n_rows=20)
SKETCHES = {
    "identity": Dealt(Full(3), 6, "paper"),
    "perm": Dealt(Perm(3), 6, "paper"),
    "ist": Dealt(Perm(3), 6, "as trained"),
    "rand-q": Dealt(RandQ(3, q=2), 6, "paper"),
}


def point(d=6, seed=0):
    return np.random.default_rng(seed).standard_normal(d)


@pytest.fixture(params=SKETCHES)
def sketch(request):
    return SKETCHES[request.param]


@pytest.mark.parametrize("problem", [trig(3, 6), LOGISTIC], ids=["quadratic", "logistic"])
def test_F_is_the_mean_over_every_draw(problem, sketch):
    exact, slow, x = objective(problem, sketch), DrawnObjective(problem, draws(sketch)), point()
    np.testing.assert_allclose(exact.value(x), slow.value(x), rtol=1e-12)
    np.testing.assert_allclose(exact.gradient(x), slow.gradient(x), rtol=1e-11, atol=1e-13)


def draws(sketch):
    """Every draw; of Rand-q, whose 15^3 draws take long, workers with the same hand: same F."""
    if not isinstance(sketch.deal, RandQ):
        return list(every_draw(sketch))
    return [
        draw for draw in every_draw(sketch) if all((h == draw.hands[0]).all() for h in draw.hands)
    ]


def test_F_needs_no_disjoint_hands():
    """Perm-q and Rand-q with the same q differ round by round and have the same F."""
    x = point()
    perm, rand_q = (objective(LOGISTIC, SKETCHES[name]) for name in ("perm", "rand-q"))
    np.testing.assert_allclose(perm.value(x), rand_q.value(x), rtol=1e-13)
    np.testing.assert_allclose(perm.minimiser, rand_q.minimiser, atol=1e-7)


def test_IST_is_gradient_descent_on_F_in_expectation(sketch):
    """The mean displacement of the update form (2), by the workers themselves."""
    x, gamma, work = point(), 0.1, GradientSteps(LOGISTIC, 0.1)
    moved = []
    for draw in draws(sketch):
        w = [draw.select(x, i) for i in range(3)]
        moved.append(np.mean([z - v for z, v in zip(work(0, draw, w), w, strict=True)], axis=0))
    F = objective(LOGISTIC, sketch)
    np.testing.assert_allclose(np.mean(moved, axis=0), -gamma * F.gradient(x), rtol=1e-11)


@pytest.mark.parametrize("n", [2, 3, 4])  # 6 = 4 + 2: a remainder
@pytest.mark.parametrize("semantics", ["paper", "as trained"])
def test_the_minimiser_of_F_is_the_fixed_point_of_the_method(n, semantics):
    problem, sketch = trig(n, 6), Dealt(Perm(n), 6, semantics)
    F = objective(problem, sketch)
    known = fixed_point(estimator(problem, sketch))
    np.testing.assert_allclose(F.minimiser, known, rtol=1e-11)
    np.testing.assert_allclose(F.gradient(F.minimiser), 0, atol=1e-14)


def test_preconditioned_perm1_has_an_F_as_well():
    problem = trig(4, 4)
    sketch = PreconditionedPerm1(problem)
    F, slow = objective(problem, sketch), DrawnObjective(problem, list(every_draw(sketch)))
    np.testing.assert_allclose(F.value(point(4)), slow.value(point(4)), rtol=1e-12)
    np.testing.assert_allclose(F.gradient(point(4)), slow.gradient(point(4)), rtol=1e-11)
    by_hands = enumerated(problem, sketch)
    np.testing.assert_allclose(by_hands.value(point(4)), slow.value(point(4)), rtol=1e-12)
    np.testing.assert_allclose(F.minimiser, fixed_point(estimator(problem, sketch)), rtol=1e-11)


@pytest.mark.parametrize("deal", [Bernoulli(3, p=0.3), Perm(4), RandQ(3, q=2), Full(3)])
def test_hands_have_their_probabilities(deal):
    held, weights = every_hand(deal, 6)
    assert len(np.unique(held, axis=0)) == len(held)
    np.testing.assert_allclose(weights.sum(), 1)
    sizes = [len(deal.hands(6, seed=0, k=k)[0]) for k in range(4000)]
    counts = np.bincount(sizes, minlength=7) / 4000
    exact = np.bincount(held.sum(axis=1).astype(int), weights, minlength=7)
    assert np.abs(counts - exact).max() < 4 * 0.5 / np.sqrt(4000)


def test_sparse_problems_have_the_same_F_as_dense_ones():
    problem, sketch = tridiagonal(3, 6, noise=0.4, smallest=0.01), SKETCHES["perm"]
    F, dense = objective(problem, sketch), objective(problem.to_quadratics(), sketch)
    assert isinstance(F, QuadraticObjective)
    x = point()
    np.testing.assert_allclose(F.value(x), dense.value(x), rtol=1e-12)
    np.testing.assert_allclose(F.gradient(x), dense.gradient(x), rtol=1e-11)
    np.testing.assert_allclose(F.minimiser, dense.minimiser, rtol=1e-10)


def test_drawn_hands_are_within_four_standard_errors():
    problem, sketch = logistic_gaussian(), Dealt(Perm(4), 16, "paper")
    exact = objective(problem, sketch)
    drawn = objective(problem, sketch, n_draws=400, seed=1)
    for x in (problem.minimiser, point(16)):
        error = drawn.standard_error(x)
        assert 0 < error < 0.05 * abs(exact.value(x))
        assert abs(drawn.value(x) - exact.value(x)) < 4 * error
    assert exact.standard_error(point(16)) == 0
    found, error = bias_and_error(problem, drawn)
    assert 0 < error < 0.002
    assert abs(found - bias(problem, exact)) < 4 * error
    assert bias_and_error(problem, exact) == (bias(problem, exact), 0.0)


def test_draws_are_keyed_and_follow_the_sketch():
    sketch = SKETCHES["rand-q"]
    drawn = sampled(LOGISTIC, sketch, n_draws=3, seed=9)
    rounds = [sketch.sample(9, k) for k in range(3)]
    slow, x = DrawnObjective(LOGISTIC, rounds), point()
    np.testing.assert_allclose(drawn.value(x), slow.value(x), rtol=1e-13)
    np.testing.assert_allclose(drawn.gradient(x), slow.gradient(x), rtol=1e-12)
    np.testing.assert_allclose(drawn.standard_error(x), slow.standard_error(x), rtol=1e-11)
    np.testing.assert_allclose(drawn.minimiser, slow.minimiser, atol=1e-6)
    other = sampled(LOGISTIC, sketch, n_draws=3, seed=10)
    assert other.value(x) != drawn.value(x)


def test_a_user_s_problem_with_single_points_only_works():
    class Squares:
        """f_i(x) = |x - i|^2 / 2, without many points at once."""

        n_workers, dim = 3, 6

        def value(self, x):
            return float(np.mean([self.worker_value(i, x) for i in range(3)]))

        def gradient(self, x):
            return x - 1.0

        def worker_value(self, worker, x):
            return float(((x - worker) ** 2).sum() / 2)

        def worker_gradient(self, worker, x):
            return x - worker

        def worker_block_gradient(self, worker, units, x_units):
            del units
            return x_units - worker

    F = objective(Squares(), SKETCHES["perm"])
    assert isinstance(F, AveragedObjective)
    np.testing.assert_allclose(F.minimiser, 1 / 3, atol=1e-7)  # n x_F = mean of the i


# the gap of the minima


@pytest.mark.parametrize(
    ("problem", "gap", "bound"),
    [
        (trig(3, 6), 0.321, 1.392),
        (logistic_gaussian(), 0.172, 1.452),
        (logistic_gaussian(correlation=0.7), 0.144, 1.728),
    ],
    ids=["trig 3 x 6", "logistic", "logistic, correlated"],
)
def test_the_published_gaps_and_bounds(problem, gap, bound):
    sketch = Dealt(Perm(problem.n_workers), problem.dim, "paper")
    theorem, F = GapOfMinima(problem, sketch), objective(problem, sketch)
    assert theorem.check() == []
    assert round(theorem.measure(F.minimiser), 3) == gap
    assert round(theorem.bound(), 3) == bound
    assert F.value(F.minimiser) >= problem.minimum


def test_the_published_gaps_of_unscaled_ist():
    for correlation, gap in ((0.0, 0.0088), (0.7, 0.189)):
        problem = logistic_gaussian(correlation=correlation)
        F = objective(problem, Dealt(Perm(4), 16, "as trained"))
        assert round(bias(problem, F), len(str(gap)) - 2) == gap


@pytest.mark.parametrize("deal", [Perm(3), RandQ(3, q=4), Bernoulli(3, p=0.6), Full(3)])
@pytest.mark.parametrize(
    "problem", [trig(3, 6), LOGISTIC, tridiagonal(3, 6, noise=0.05, smallest=0.1)]
)
def test_the_bound_is_the_quadratic_form_by_enumeration_and_holds(problem, deal):
    sketch = Dealt(deal, 6, "paper")
    theorem, x = GapOfMinima(problem, sketch), problem.minimiser
    L = [np.stack([problem.worker_product(i, e) for e in np.eye(6)]) for i in range(3)]
    held, weights = every_hand(deal, 6)
    C = held * sketch.scales[0]
    mean = sum(np.einsum("h,hj,jl,hl->jl", weights, C, L_i, C) - L_i for L_i in L) / 3
    np.testing.assert_allclose(theorem.bound(), x @ mean @ x / 2, rtol=1e-10, atol=1e-14)
    assert theorem.measure(objective(problem, sketch).minimiser) <= theorem.bound() + 1e-12


def test_the_theorem_is_silent_outside_its_assumptions():
    biased = GapOfMinima(trig(3, 6), SKETCHES["ist"])
    assert len(biased.check()) == 1
    with pytest.raises(ValueError, match=r"silent: E C_i differs from I by 0.667.* 'paper'"):
        biased.bound()
    bent = GapOfMinima(tridiagonal(3, 6, noise=30.0, smallest=0.1), SKETCHES["perm"])
    with pytest.raises(ValueError, match=r"worker i=\d has the curvature -\d.* Add a ridge of"):
        bent.bound()
    A = np.array([[1.0], [-1.0]])
    separable = generalised_linear(Table(A, A[:, 0], A[:, 0]), consecutive(2, 1), ridge=0.0)
    assert "may have no minimiser" in GapOfMinima(separable, Dealt(Full(1), 1, "paper")).check()[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: objective(logistic_gaussian(4, 40, n_rows=3), Dealt(Perm(4), 40, "paper")),
            r"more than 100000 different sets of 40 coordinates\. Give n_draws=1000",
        ),
        (
            lambda: objective(LOGISTIC, Dealt(Perm(3, (1, 2, 3)), 6, "paper")),
            r"its workers differ\. Give n_draws=1000",
        ),
        (
            lambda: objective(trig(3, 6), Dealt(Perm(3, (1, 2, 3)), 6, "paper")),
            r"workers are not exchangeable",
        ),
        (lambda: objective(LOGISTIC, SKETCHES["perm"], n_draws=1), r"n_draws=1 .* Use 2"),
        (
            lambda: sampled(LOGISTIC, SKETCHES["perm"], n_draws=9).batches(8),
            r"9 hands cannot be cut into n_batches=8 samples.* n_draws=16",
        ),
        (lambda: enumerated(LOGISTIC, SKETCHES["perm"]).batches(8), r"n_batches=8"),
        (
            lambda: objective(flat(), SKETCHES["perm"]).minimiser,
            r"mean_i E C_i L_i C_i has the eigenvalue .* Add a ridge",
        ),
    ],
)
def test_what_cannot_be_had_says_what_works(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def flat():
    """Quadratics whose third coordinate nobody minds."""
    problem = trig(3, 6)
    L, b = problem.L.copy(), problem.b.copy()
    L[:, 2], L[:, :, 2] = 0, 0
    return type(problem)(L, b)


def test_an_objective_without_minimum_is_refused():
    A, y = np.array([[1.0, 0.5], [-1.0, -2.0]]), np.array([1.0, -1.0])
    separable = generalised_linear(Table(A, y, y), consecutive(2, 2), ridge=0.0)
    F = objective(separable, Dealt(Perm(2), 2, "paper"))
    with pytest.raises(ValueError, match=r"F still falls: F may have no minimiser\. Add a ridge"):
        _ = F.minimiser


def test_real_data_have_a_bias_below_its_bound():
    problem = problem_named("breast_cancer")(5, ridge=0.1)
    sketch = Dealt(Perm(5), 30, "paper")
    theorem = GapOfMinima(problem, sketch)
    assert 0 < theorem.measure(objective(problem, sketch).minimiser) <= theorem.bound()
