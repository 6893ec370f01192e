"""Every exact form of a round against all of its draws, run through `rounds`' own parts."""

from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest

from subnetwork import Full, Perm
from subnetwork.theory import moments, variants
from subnetwork.theory.copies import Copies
from subnetwork.theory.curves import along, expected, fixed_point
from subnetwork.theory.draws import enumerated
from subnetwork.theory.enumeration import every_draw, sizes_law, weighted_draws
from subnetwork.theory.estimator import Estimator, drawn, estimator, with_sizes
from subnetwork.theory.jacobi import Jacobi, Shifted
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.problems import Quadratics, least_squares, trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.stationary import growth, s2, stability_limit, stationary
from subnetwork.theory.work import GradientSteps

MERGES = {"update": update_form, "merge": merge_form, "holders": holders_form}
GAMMA = 0.13


def perm(n, d, semantics="paper", weights=None):
    return Dealt(Perm(n, weights), d, semantics)


def same_moments(one, other, d, rtol=1e-10):
    rng = np.random.default_rng(4)
    v = rng.standard_normal(d)
    R = rng.standard_normal((d, d))
    M = R @ R.T
    close = {"rtol": rtol, "atol": 1e-11}
    np.testing.assert_allclose(moments.mean_B(one), moments.mean_B(other), **close)
    np.testing.assert_allclose(moments.mean_u(one), moments.mean_u(other), **close)
    np.testing.assert_allclose(moments.second_B(one, M), moments.second_B(other, M), **close)
    np.testing.assert_allclose(moments.second_u(one), moments.second_u(other), **close)
    np.testing.assert_allclose(moments.cross(one, v), moments.cross(other, v), **close)


ROUNDS = [
    ("update", perm(2, 5), 1),
    ("merge", perm(2, 5), 1),
    ("holders", perm(2, 5, "as trained"), 1),
    ("update", PreconditionedPerm1(trig(4, 4)), 1),
    ("merge", PreconditionedPerm1(trig(4, 4)), 1),
    ("merge", PreconditionedPerm1(trig(4, 4)), 3),
    ("holders", perm(4, 4, "as trained"), 5),
    ("update", perm(4, 4), 3),
    ("merge", perm(4, 4), 2),
    ("update", Dealt(Full(3), 4, "paper"), 4),
    ("holders", Dealt(Full(3), 4, "as trained"), 4),
    ("update", Dealt(Copies(4), 2, "paper"), 3),
    ("merge", Dealt(Copies(6), 3, "paper"), 1),
    ("update", Dealt(Copies(3), 3, "paper"), 1),
    ("update", perm(2, 6, weights=(1, 2)), 1),
    ("merge", perm(3, 4, weights=(1, 1, 2)), 1),
    ("holders", Jacobi(trig(2, 5)), 1),
    ("holders", Jacobi(trig(4, 4)), 3),
]


@pytest.mark.parametrize(("form", "sketch", "tau"), ROUNDS, ids=str)
def test_a_round_in_closed_form_is_the_mean_over_all_its_draws(form, sketch, tau):
    problem = trig(sketch.deal.n_workers, sketch.dim)
    work = GradientSteps(problem, GAMMA, tau)
    exact = variants.one_round(work, sketch, form)
    same_moments(exact, enumerated(sketch, work, MERGES[form]), sketch.dim)


def test_random_sizes_of_unequal_weights_are_a_mixture_of_fixed_ones():
    sketch = perm(3, 5, weights=(1, 1, 2))
    law = sizes_law(sketch.deal, 5)
    assert sum(p for p, _ in law) == pytest.approx(1)
    np.testing.assert_allclose(
        sum(p * np.array(sizes) for p, sizes in law), 5 * np.array([1, 1, 2]) / 4
    )
    problem = trig(3, 5)
    work = GradientSteps(problem, GAMMA)
    listed = enumerated(sketch, work, update_form)
    e = variants.one_round(work, perm(3, 5), "update")
    by_size = [(p, replace(e, occupancy=with_sizes(sizes))) for p, sizes in law]
    M = np.diag(np.arange(1.0, 6))
    mixture = sum(p * moments.second_B(part, M) for p, part in by_size)
    np.testing.assert_allclose(mixture, moments.second_B(listed, M), rtol=1e-10, atol=1e-12)


def test_draws_of_the_deal_have_the_probabilities_listed():
    deal, found = Perm(3, (1, 1, 2)), {}
    for k in range(4000):
        sizes = tuple(map(len, deal.hands(5, seed=1, k=k)))
        found[sizes] = found.get(sizes, 0) + 1 / 4000
    for p, sizes in sizes_law(deal, 5):
        assert abs(found.pop(sizes) - p) < 4 * np.sqrt(p / 4000)
    assert not found


def test_correction_restores_f_under_unequal_shares():
    problem, deal = trig(2, 6), Perm(2, (1, 2))
    e = estimator(problem, Dealt(deal, 6, "as trained"))
    shares = np.array([1, 2]) / 3
    np.testing.assert_allclose(moments.mean_u(e), shares @ problem.b)
    fixed = variants.reweighted(e, np.array(deal.correction))
    np.testing.assert_allclose(moments.mean_u(fixed), problem.b_bar, rtol=1e-12)


def test_a_shift_moves_the_sketch_to_another_origin():
    problem, shift = trig(2, 4), np.array([0.3, -1.0, 2.0, 0.1])
    sketch = Shifted(perm(2, 4), shift)
    e = variants.shifted(problem, sketch)
    work = GradientSteps(problem, GAMMA)
    listed = enumerated(sketch, work, update_form)
    np.testing.assert_allclose(fixed_point(e), fixed_point(listed), rtol=1e-10)
    x0 = np.linspace(1, -1, 4)
    for one, other in zip(
        along(np.eye(4)[None], expected(problem, e, x0, step_size=GAMMA), 20),
        along(np.eye(4)[None], expected(problem, listed, x0, step_size=1.0), 20),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    end = stationary(problem, e, step_size=GAMMA)
    np.testing.assert_allclose(end.M, stationary(problem, listed, step_size=1.0).M, rtol=1e-9)


def table(n, m, d):
    rng = np.random.default_rng(2)
    A, y = rng.standard_normal((n * m, d)), rng.standard_normal(n * m)
    rows = [(A[i * m : (i + 1) * m], y[i * m : (i + 1) * m]) for i in range(n)]
    return least_squares(A, y, n_workers=n, ridge=0.2), rows


@pytest.mark.parametrize("semantics", ["paper", "as trained"])
def test_noise_of_sampled_rows_is_exact_by_enumerating_rows_and_draws(semantics):
    n, m, d = 2, 3, 4
    problem, rows = table(n, m, d)
    sketch = perm(n, d, semantics)
    e = replace(
        estimator(problem, sketch), noise=variants.sampled_rows(problem, sketch, rows, batch=1)
    )
    Bs, us, M, v = [], [], np.diag([1.0, 2, 3, 4]) + 0.3, np.array([1.0, -1, 2, 0.5])
    for chosen in product(range(m), repeat=n):
        L = [np.outer(A[r], A[r]) + 0.2 * np.eye(d) for (A, _), r in zip(rows, chosen, strict=True)]
        b = [y[r] * A[r] for (A, y), r in zip(rows, chosen, strict=True)]
        one = estimator(Quadratics(np.array(L), np.array(b)), sketch)
        for p in every_draw(sketch):
            B, u = drawn(one, p)
            Bs.append(B)
            us.append(u)
    Bs, us = np.array(Bs), np.array(us)
    np.testing.assert_allclose(moments.second_B(e, M), np.mean(Bs @ M @ Bs.transpose(0, 2, 1), 0))
    np.testing.assert_allclose(moments.second_u(e), np.einsum("rj,rl->jl", us, us) / len(us))
    np.testing.assert_allclose(
        moments.cross(e, v), np.einsum("rj,rl->jl", Bs @ v, us) / len(us), atol=1e-12
    )
    batch = variants.sampled_rows(problem, sketch, rows, batch=4)
    np.testing.assert_allclose(2 * batch.G, e.noise.G)


def test_additive_noise_adds_its_covariance_on_what_is_held():
    problem, sketch = trig(2, 4), perm(2, 4)
    R = np.random.default_rng(0).standard_normal((2, 4, 4))
    S = R @ R.transpose(0, 2, 1)
    e = estimator(problem, sketch)
    noisy = replace(e, noise=variants.additive_noise(problem, sketch, S))
    masks = [np.stack([p.held(i) for i in range(2)]) for p in every_draw(sketch)]
    extra = np.mean([sum(np.outer(h, h) * S[i] for i, h in enumerate(z)) for z in masks], axis=0)
    np.testing.assert_allclose(moments.second_u(noisy) - moments.second_u(e), extra, atol=1e-12)
    np.testing.assert_allclose(moments.second_B(noisy, S[0]), moments.second_B(e, S[0]))
    assert s2(noisy) == pytest.approx(s2(e) + np.trace(extra))


def presence_moments(e, sketch, presences):
    """Moments with workers taken out, by all draws; `presences` = (probability, 0/1 vector)s."""
    B, u, weight = [], [], []
    draws = list(weighted_draws(sketch))
    for chance, here in presences:
        for p, partition in draws:
            held = np.stack([partition.held(i) for i in range(len(here))]) * here[:, None]
            B.append(np.einsum("ij,ijl,il->jl", held, e.G, held) + e.drift * np.eye(len(held.T)))
            u.append((held * e.U).sum(axis=0))
            weight.append(chance * p)
    from subnetwork.theory.draws import Draws

    return Draws(np.array(B), np.array(u), np.array(weight))


def test_absent_workers_are_exact_for_any_probabilities():
    problem, sketch, p = trig(3, 6), perm(3, 6, "as trained"), np.array([1, 0.5, 0.25])
    e = estimator(problem, sketch)
    all_subsets = [np.array(z, dtype=float) for z in product((0, 1), repeat=3)]
    presences = [(float(np.prod(np.where(z, p, 1 - p))), z) for z in all_subsets]
    same_moments(variants.absent(e, p), presence_moments(e, sketch, presences), 6)
    restored = variants.reweighted(variants.absent(e, p), 1 / p)
    np.testing.assert_allclose(fixed_point(restored), fixed_point(e), rtol=1e-12)


@pytest.mark.parametrize("form", ["holders", "merge"])
def test_some_of_the_workers_are_exact_and_the_published_fixed_points(form):
    problem, gamma, r = trig(3, 6), 0.15, 2 / 3
    sketch = perm(3, 6, "as trained" if form == "holders" else "paper")
    presences = [(1 / 3, 1.0 - np.eye(3)[i]) for i in range(3)]
    e = variants.one_round(GradientSteps(problem, gamma), sketch, form)
    if form == "merge":  # unscaled IST whose missing blocks become zero
        ist = variants.one_round(GradientSteps(problem, gamma), perm(3, 6, "as trained"), "holders")
        e = Estimator(ist.G - np.eye(6), ist.U, ist.occupancy, drift=1.0)
    some = variants.some_take_part(e, 2)
    same_moments(some, presence_moments(e, sketch, presences), 6)
    H = moments.mean_B(estimator(problem, perm(3, 6, "as trained")))
    if form == "holders":
        np.testing.assert_allclose(fixed_point(some), np.linalg.solve(H, problem.b_bar))
        assert problem.gap(fixed_point(some)) == pytest.approx(0.0158, abs=5e-5)
    else:
        literal = np.linalg.solve(
            np.eye(6) - r * (np.eye(6) - gamma * H), r * gamma * problem.b_bar
        )
        np.testing.assert_allclose(fixed_point(some), literal, rtol=1e-12)
        assert problem.gap(literal) == pytest.approx(0.437, abs=5e-4)


def test_local_steps_have_the_published_floors_and_fixed_points():
    problem, sketch, D = trig(5, 5), perm(5, 5, "as trained"), trig(5, 5).diagonals
    floors = []
    for tau in (1, 2, 5, 50):
        e = variants.one_round(GradientSteps(problem, 0.2, tau), sketch, "holders")
        w = 1 - (1 - 0.2 * D) ** tau
        x_inf = (w * problem.b / D).sum(axis=0) / w.sum(axis=0)
        np.testing.assert_allclose(fixed_point(e), x_inf, rtol=1e-12)
        floors.append(stationary(problem, e, step_size=1.0).of(problem.L_bar / 2))
    np.testing.assert_allclose(floors, [0.137, 0.260, 0.588, 1.170], atol=5e-4)


def test_stability_limit_of_perm_1_is_the_published_one_and_growth_says_the_same():
    e = estimator(trig(5, 5), perm(5, 5))
    limit = stability_limit(e)
    assert limit == pytest.approx(0.389523, abs=5e-7)
    assert growth(e, step_size=0.999 * limit) < 1 < growth(e, step_size=1.001 * limit)


@pytest.mark.parametrize("sketch", [perm(2, 6), Jacobi(trig(2, 6)), perm(3, 6, weights=(1, 1, 2))])
def test_stability_limits_are_sharp_and_stationary_moments_are_where_curves_go(sketch):
    if isinstance(sketch, Dealt) and sketch.deal.weights:
        sketch = perm(3, 8, weights=(1, 1, 2))
    problem = trig(sketch.deal.n_workers, sketch.dim)
    e = estimator(problem, sketch)
    limit = stability_limit(e)
    assert growth(e, step_size=0.999 * limit) < 1 < growth(e, step_size=1.001 * limit)
    x0 = np.ones(problem.dim)
    end = stationary(problem, e, step_size=0.4 * limit)
    curve = expected(problem, e, x0, step_size=0.4 * limit)
    last = next(islice(curve, 300, None))
    np.testing.assert_allclose(end.M, last.M, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(end.m, last.m, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: variants.one_round(GradientSteps(trig(2, 4), 0.1, 2), perm(2, 4), "update"),
            r"2 local steps on blocks .* n_steps=1",
        ),
        (
            lambda: variants.one_round(GradientSteps(trig(2, 4), 0.1), perm(2, 4), "holders"),
            r"0/1 masks, but these sketches carry a scale",
        ),
        (
            lambda: variants.absent(estimator(trig(), perm(5, 5)), np.zeros(5)),
            r"not probabilities in \(0, 1\]",
        ),
        (
            lambda: variants.some_take_part(estimator(trig(), perm(5, 5)), 6),
            r"m=6 of n=5 .* 1 to 5 with Perm",
        ),
        (lambda: Copies(5).hands(2, seed=0, k=0), r"leave 1 over: .* n_workers=4 or 6"),
        (
            lambda: stationary(trig(), estimator(trig(), perm(5, 5)), step_size=0.5),
            r"no stationary second moment: .* 0\.3895",
        ),
        (
            lambda: variants.sampled_rows(trig(2, 4), perm(2, 4), table(2, 3, 4)[1]),
            r"not those of the problem: .* np\.array_split",
        ),
        (
            lambda: variants.additive_noise(trig(2, 2), perm(2, 2), np.stack([-np.eye(2)] * 2)),
            r"covariance has the eigenvalue -1",
        ),
    ],
)
def test_refusals_say_what_works(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
