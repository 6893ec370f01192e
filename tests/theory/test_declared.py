"""Every sketch keeps what `declared` says of it, over all of its draws."""

import numpy as np
import pytest

from subnetwork.theory.curves import fixed_point
from subnetwork.theory.declared import DECLARED
from subnetwork.theory.draws import enumerated, sampled
from subnetwork.theory.enumeration import weighted_draws
from subnetwork.theory.jacobi import Jacobi
from subnetwork.theory.matrix_sketches import AnyLaw, BlockPreconditioned, MatrixPartition
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.work import GradientSteps

MERGES = {"update": update_form, "merge": merge_form, "holders": holders_form}
SHAPES = {
    "preconditioned_perm1": [(3, 3)],
    "copies": [(6, 3), (2, 2)],
    "fixed": [(3, 3), (2, 5)],
    "rand_q": [(2, 4)],
    "bernoulli": [(2, 3)],
}
CASES = [(name, n, d) for name in DECLARED for n, d in SHAPES.get(name, [(2, 4), (2, 5), (3, 3)])]


def matrices(partition, d):
    """C_i of a draw, as what it does to a gradient; and as what it does to x."""
    up = [[partition.pull(e, i) for e in np.eye(d)] for i in range(partition.n_workers)]
    zero = [partition.select(np.zeros(d), i) for i in range(partition.n_workers)]
    down = [
        [partition.select(e, i) - zero[i] for e in np.eye(d)] for i in range(partition.n_workers)
    ]
    return np.array(up).transpose(0, 2, 1), np.array(down).transpose(0, 2, 1)


@pytest.mark.parametrize(("name", "n", "d"), CASES)
def test_a_sketch_is_what_it_declares(name, n, d):
    problem, row = trig(n, d), DECLARED[name]
    draws = [(p, *matrices(cut, d)) for p, cut in weighted_draws(row.build(problem))]
    assert sum(p for p, *_ in draws) == pytest.approx(1)
    mean = sum(p * up for p, up, _ in draws)
    assert np.allclose(mean, np.eye(d), atol=1e-12) == row.unbiased
    holds = all(np.allclose(up.mean(axis=0), np.eye(d), atol=1e-12) for _, up, _ in draws)
    assert holds == row.reconstructs
    symmetric = all(np.allclose(up, down) for _, up, down in draws)
    assert symmetric == (name != "jacobi")
    if row.omega is not None:
        x = np.linspace(-1, 2, d)
        spread = sum(p * ((up @ x - x) ** 2).sum(axis=1) for p, up, _ in draws)
        np.testing.assert_allclose(spread, row.omega(problem) * (x @ x), rtol=1e-12)


@pytest.mark.parametrize(("name", "n", "d"), CASES)
def test_x_inf_is_declared_and_that_of_all_draws(name, n, d):
    problem, row = trig(n, d), DECLARED[name]
    listed = enumerated(row.build(problem), GradientSteps(problem, 0.1), MERGES[row.form])
    if row.limit is not None:
        np.testing.assert_allclose(fixed_point(listed), row.limit(problem), rtol=1e-9, atol=1e-12)


def test_block_preconditioning_has_B_equal_to_I_in_every_draw_and_the_diagonal_one_has_not():
    problem = trig(2, 6)
    for _, cut in weighted_draws(BlockPreconditioned(problem)):
        B = np.mean([C @ L @ C for C, L in zip(cut.C, problem.L, strict=True)], axis=0)
        np.testing.assert_allclose(B, np.eye(6), atol=1e-13)


def test_jacobi_does_not_change_with_the_units_of_f_and_the_symmetric_sketch_does():
    problem = trig(5, 5)
    off = []
    for c in (0.1, 1.0, 10.0):
        scaled = Quadratics(c * problem.L, c * problem.b)
        np.testing.assert_allclose(
            DECLARED["jacobi"].limit(scaled), DECLARED["jacobi"].limit(problem), rtol=1e-12
        )
        h = problem.minimiser - DECLARED["preconditioned_perm1"].limit(scaled)
        off.append(np.linalg.norm(h) / np.linalg.norm(problem.minimiser))
    np.testing.assert_allclose(off, [0.858, 0.563, 0.597], atol=5e-4)


def test_any_law_runs_through_the_dense_reference_with_a_standard_error():
    """A law with two values, so that its moments are known."""
    problem, d = trig(2, 3), 3
    v = np.array([1.0, 2.0, -1.0]) / np.sqrt(6)

    def draw(seed, k):
        coin = np.random.default_rng((seed, k)).random() < 0.5
        C = np.eye(d) if coin else 3 * np.outer(v, v)
        return np.stack([C, np.eye(d)])

    law, work = AnyLaw(draw, 2, d), GradientSteps(problem, 0.1)
    found = sampled(law, work, update_form, dim=d, n_draws=400)
    C = np.stack([np.eye(d), 3 * np.outer(v, v)])
    B = 0.1 * (np.mean(C @ problem.L[0] @ C, axis=0) + problem.L[1]) / 2
    error = found.standard_error(found.B)
    assert (np.abs(np.einsum("r,rjl->jl", found.weight, found.B) - B) <= 4 * error + 1e-14).all()
    assert error.max() > 0
    listed = enumerated(DECLARED["perm"].build(problem), work, update_form)
    assert (listed.standard_error(listed.B) == 0).all()


def test_a_fixed_law_of_matrices_is_the_fixed_sketch():
    problem, d = trig(3, 3), 3
    C = np.stack([np.outer(e, e) for e in np.eye(d)])
    law, work = AnyLaw(lambda _seed, _k: C, 3, d), GradientSteps(problem, 0.1)
    by_law = sampled(law, work, merge_form, dim=d, n_draws=2)
    by_deal = enumerated(DECLARED["fixed"].build(problem), work, merge_form)
    np.testing.assert_allclose(by_law.B[0], by_deal.B[0], atol=1e-15)
    np.testing.assert_allclose(by_law.u[0], by_deal.u[0], atol=1e-15)
    assert by_law.B.shape[0] == 2
    np.testing.assert_array_equal(MatrixPartition(C).held(1), [0, 1, 0])


def test_rounds_runs_sketches_that_are_not_diagonal():
    from subnetwork import rounds

    problem, x = trig(2, 4), np.linspace(1, -1, 4)
    for sketch, merge in [
        (BlockPreconditioned(problem), update_form),
        (Jacobi(problem), holders_form),
        (DECLARED["shifted_perm"].build(problem), update_form),
    ]:
        work = GradientSteps(problem, 0.1)
        *_, last = rounds(x, sketch, work, merge, seed=3, n_rounds=5)
        by_hand = x
        for k in range(5):
            up, down = matrices(sketch.sample(3, k), 4)
            zero = [sketch.sample(3, k).select(np.zeros(4), i) for i in range(2)]
            g = [
                C @ (problem.L[i] @ (zero[i] + D @ by_hand) - problem.b[i])
                for i, (C, D) in enumerate(zip(up, down, strict=True))
            ]
            total = np.sum(g, axis=0) if merge is holders_form else np.mean(g, axis=0)
            by_hand = by_hand - 0.1 * total
        np.testing.assert_allclose(last.x, by_hand, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AnyLaw(lambda _s, _k: np.ones((2, 2, 2)) * np.array([[1, 2], [0, 1]]), 2, 2),
            r"eq\. \(3\) wants symmetric psd C_i, but C_i differs from C_i' by 2",
        ),
        (
            lambda: AnyLaw(lambda _s, _k: np.ones((1, 2, 2)), 2, 2),
            r"shape \(1, 2, 2\).*\(2, 2, 2\)",
        ),
        (
            lambda: Jacobi(Quadratics(np.zeros((2, 2, 2)), np.zeros((2, 2)))),
            r"\[L_i\]_jj = 0 for worker i=0, coordinate j=0, but the Jacobi .* ridge",
        ),
        (
            lambda: BlockPreconditioned(Quadratics(np.zeros((2, 2, 2)), np.zeros((2, 2)))),
            r"L_i of worker i=0 has the eigenvalue 0",
        ),
    ],
)
def test_refusals_say_what_works(make, message):
    with pytest.raises(ValueError, match=message):
        make()
