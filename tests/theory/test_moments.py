"""Closed-form moments against the mean over every draw, to 1e-10 and better."""

import numpy as np
import pytest

from subnetwork import Bernoulli, Full, Perm, RandQ
from subnetwork.theory import moments
from subnetwork.theory.enumeration import every_draw
from subnetwork.theory.estimator import Estimator, drawn, estimator, occupancy
from subnetwork.theory.perm1 import (
    BLB_28,
    BLB_28_corrected,
    covariance_18,
    dealt_b,
    permuted_covariance,
)
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1

SHAPES = [(1, 1), (1, 4), (2, 2), (5, 5), (2, 4), (3, 6), (2, 8), (2, 5), (3, 7), (3, 4), (4, 6)]
DEALS = [(Perm(n), d) for n, d in SHAPES]
DEALS += [(RandQ(2, q=1), 3), (RandQ(2, q=2), 4), (RandQ(1, q=3), 5), (Full(3), 4)]


def arbitrary(deal, d):
    """An estimator with nothing special about it: G_i not even symmetric."""
    rng = np.random.default_rng(d)
    n = deal.n_workers
    G, U = rng.standard_normal((n, d, d)), rng.standard_normal((n, d))
    return Estimator(G, U, occupancy(deal, d))


@pytest.mark.parametrize(("deal", "d"), DEALS, ids=str)
def test_moments_are_means_over_every_draw(deal, d):
    e, rng = arbitrary(deal, d), np.random.default_rng(1)
    M, v = rng.standard_normal((d, d)), rng.standard_normal(d)
    draws = [drawn(e, p) for p in every_draw(Dealt(deal, d, "as trained"))]

    def mean(f):
        return np.mean([f(*draw) for draw in draws], axis=0)

    close = {"rtol": 1e-11, "atol": 1e-11}
    np.testing.assert_allclose(moments.mean_B(e), mean(lambda B, _: B), **close)
    np.testing.assert_allclose(moments.mean_u(e), mean(lambda _, u: u), **close)
    np.testing.assert_allclose(moments.second_B(e, M), mean(lambda B, _: B @ M @ B.T), **close)
    np.testing.assert_allclose(moments.second_u(e), mean(lambda _, u: np.outer(u, u)), **close)
    np.testing.assert_allclose(moments.cross(e, v), mean(lambda B, u: np.outer(B @ v, u)), **close)


def test_bernoulli_moments_are_means_over_all_weighted_masks():
    n, d, p = 2, 3, 0.3
    e, M, v = arbitrary(Bernoulli(n, p), d), np.arange(9.0).reshape(3, 3), np.array([1.0, -2, 3])
    B_M_B, B_v_u = np.zeros((d, d)), np.zeros((d, d))
    for bits in range(2 ** (n * d)):
        z = (bits >> np.arange(n * d) & 1).reshape(n, d).astype(float)
        weight = p ** z.sum() * (1 - p) ** (n * d - z.sum())
        B, u = np.einsum("ij,ijl,il->jl", z, e.G, z), (z * e.U).sum(axis=0)
        B_M_B += weight * B @ M @ B.T
        B_v_u += weight * np.outer(B @ v, u)
    np.testing.assert_allclose(moments.second_B(e, M), B_M_B, rtol=1e-12)
    np.testing.assert_allclose(moments.cross(e, v), B_v_u, rtol=1e-12)


def test_a_remainder_makes_pairs_as_likely_as_published():
    assert occupancy(Perm(2), 5).together[2] * 2 == pytest.approx(0.4)  # theory.md, section 2


@pytest.mark.parametrize("semantics", ["paper", "as trained"])
def test_the_estimator_is_what_one_round_does(semantics):
    from subnetwork import rounds
    from subnetwork.theory.merges import holders_form, update_form
    from subnetwork.theory.work import GradientSteps

    problem, x = trig(2, 5), np.linspace(-1, 1, 5)
    sketch = Dealt(Perm(2), 5, semantics)
    merge = update_form if semantics == "paper" else holders_form
    e = estimator(problem, sketch)
    for r in rounds(x, sketch, GradientSteps(problem, 0.1), merge, seed=1, n_rounds=5):
        B, u = drawn(e, r.partition)
        np.testing.assert_allclose(r.x, x - 0.1 * (B @ x - u), rtol=1e-12)
        x = r.x


def test_closed_forms_of_perm_1_are_the_general_ones():
    problem = trig(5, 5)
    e = estimator(problem, Dealt(Perm(5), 5, "paper"))
    exact = moments.second_B(e, problem.L_bar)
    np.testing.assert_allclose(BLB_28_corrected(problem), exact, rtol=1e-12)
    assert np.abs(BLB_28(problem) - exact).max() > 0.1
    np.linalg.cholesky(exact - BLB_28(problem) + 1e-12 * np.eye(5))  # what (28) drops is psd
    e = estimator(problem, PreconditionedPerm1(problem))
    u = moments.mean_u(e)
    sketch = PreconditionedPerm1(problem)
    np.testing.assert_allclose(dealt_b(sketch), e.U, rtol=1e-13)
    np.testing.assert_allclose(
        covariance_18(sketch), moments.second_u(e) - np.outer(u, u), rtol=1e-10, atol=1e-14
    )


def test_one_worker_leaves_nothing_to_chance():
    assert permuted_covariance(np.ones((1, 1))) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: occupancy(Perm(2, (1, 2)), 7),
            r"on 7 units have no closed .* equal weights, weight",
        ),
        (
            lambda: estimator(trig(2, 4), Dealt(RandQ(2, q=2), 4, "as trained")),
            r"number of holders .* Use Perm or Full, or the semantics 'paper'",
        ),
    ],
)
def test_refusals_say_what_works(make, message):
    with pytest.raises(ValueError, match=message):
        make()
