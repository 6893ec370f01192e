"""`rounds` against eq. (4) with dense matrices, and the promises of its docstring."""

import inspect

import numpy as np
import pytest

from subnetwork import Full, Perm, rounds
from subnetwork.theory.merges import merge_form, update_form
from subnetwork.theory.problems import trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.work import GradientSteps

SEED, GAMMA, K = 11, 0.07, 25
SKETCHES = [
    Dealt(Perm(5), 5, "paper"),
    Dealt(Perm(2), 7, "paper"),
    Dealt(Full(3), 4, "paper"),
    PreconditionedPerm1(trig(5, 5)),
]


def dense(partition):
    return [np.diag(row) for row in partition.scale]


@pytest.mark.parametrize("sketch", SKETCHES, ids=lambda s: type(s).__name__ + str(s.deal))
def test_equation_4_written_out_with_dense_matrices_and_a_fresh_sketch_every_round(sketch):
    n, d = sketch.scales.shape
    problem, x0 = trig(n, d), np.linspace(-1, 2, d)
    ran = rounds(x0, sketch, GradientSteps(problem, GAMMA), merge_form, seed=SEED, n_rounds=K)
    x, seen = x0, set()
    for k, round_ in enumerate(ran):
        C = dense(sketch.sample(SEED, k))
        seen.add(np.array(C).tobytes())
        x = sum(
            C[i] @ x - GAMMA * C[i] @ (problem.L[i] @ C[i] @ x - problem.b[i]) for i in range(n)
        )
        x = x / n  # (4)
        np.testing.assert_allclose(round_.x, x, rtol=1e-12, atol=1e-12)
    assert k == K - 1
    assert len(seen) > K / 2 or isinstance(sketch.deal, Full)


def test_equation_2_is_another_method_where_the_mean_sketch_is_not_the_identity():
    problem = trig(5, 5)
    sketch, x0 = PreconditionedPerm1(problem), np.ones(5)
    work = GradientSteps(problem, GAMMA)
    (by_2,) = rounds(x0, sketch, work, update_form, seed=SEED, n_rounds=1)
    (by_4,) = rounds(x0, sketch, work, merge_form, seed=SEED, n_rounds=1)
    C = dense(by_2.partition)
    g = sum(C[i] @ (problem.L[i] @ C[i] @ x0 - problem.b[i]) for i in range(5)) / 5
    np.testing.assert_allclose(by_2.x, x0 - GAMMA * g, rtol=1e-12)
    assert np.abs(by_2.x - by_4.x).max() > 0.1


def test_half_a_run_and_the_other_half_are_the_run():
    problem, sketch = trig(5, 5), Dealt(Perm(5), 5, "paper")
    work = GradientSteps(problem, GAMMA)

    def run(x, **bounds):
        return list(rounds(x, sketch, work, update_form, seed=SEED, **bounds))

    whole = run(np.ones(5), n_rounds=20)
    resumed = run(run(np.ones(5), n_rounds=10)[-1].x, start=10, n_rounds=20)
    assert [r.k for r in resumed] == list(range(10, 20))
    for before, after in zip(whole[10:], resumed, strict=True):
        assert (before.x == after.x).all()


def test_the_loop_is_short_enough_to_be_recognised():
    source = inspect.getsource(rounds)
    body = source[source.index('"""', source.index('"""') + 3) + 3 :]
    signature = source[: source.index('"""')]
    lines = [line for line in (signature + body).splitlines() if line.strip()]
    assert len(lines) < 20
