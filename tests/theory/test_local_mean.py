"""The mean of several local steps on blocks, against all draws run through `rounds`' own parts."""

import numpy as np
import pytest

from subnetwork import Perm, RandQ
from subnetwork.deals import Bernoulli
from subnetwork.theory import variants
from subnetwork.theory.curves import fixed_point
from subnetwork.theory.draws import enumerated
from subnetwork.theory.jacobi import Jacobi
from subnetwork.theory.local_mean import mean_of_local_steps
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.moments import mean_B, mean_u, second_B
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.work import GradientSteps, UnequalSteps

MERGES = {"update": update_form, "merge": merge_form, "holders": holders_form}
CASES = [
    ("holders", Dealt(Perm(2), 5, "as trained")),
    ("update", Dealt(Perm(2), 6, "paper")),
    ("merge", Dealt(Perm(2), 4, "paper")),
    ("update", Dealt(RandQ(2, 2), 4, "paper")),
    ("update", Dealt(Bernoulli(2, 0.5), 3, "paper")),
    ("holders", Jacobi(trig(2, 5))),
    ("merge", PreconditionedPerm1(trig(3, 3))),
    ("update", Dealt(Perm(2, (1, 2)), 6, "paper")),
]


@pytest.mark.parametrize("tau", [1, 2, 3])
@pytest.mark.parametrize(("form", "sketch"), CASES, ids=str)
def test_the_mean_of_local_steps_is_that_over_all_draws(form, sketch, tau):
    problem = trig(sketch.deal.n_workers, sketch.dim)
    work = GradientSteps(problem, 0.07, tau)
    mean, listed = mean_of_local_steps(work, sketch, form), enumerated(sketch, work, MERGES[form])
    np.testing.assert_allclose(mean.B, mean_B(listed), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mean.u, mean_u(listed), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mean.fixed_point, fixed_point(listed), rtol=1e-8, atol=1e-10)
    assert mean.bias(problem) == pytest.approx(problem.gap(mean.fixed_point))


@pytest.mark.parametrize("form", ["holders", "update"])
def test_diagonal_quadratics_have_every_moment_of_any_local_steps_and_any_q(form):
    D = np.array([[1.0, 2, 0.5, 3, 1, 2], [0.3, 1, 2, 1, 4, 0.7]])
    problem = Quadratics(D[:, :, None] * np.eye(6), np.cos(np.arange(12.0)).reshape(2, 6))
    sketch = Dealt(Perm(2), 6, "as trained" if form == "holders" else "paper")
    work = GradientSteps(problem, 0.1, 4)
    exact = variants.one_round(work, sketch, form)
    listed, M = enumerated(sketch, work, MERGES[form]), np.diag(np.arange(1.0, 7)) + 0.5
    from subnetwork.theory.moments import cross, second_u

    np.testing.assert_allclose(second_B(exact, M), second_B(listed, M), atol=1e-12)
    np.testing.assert_allclose(second_u(exact), second_u(listed), atol=1e-12)
    np.testing.assert_allclose(cross(exact, M[0]), cross(listed, M[0]), atol=1e-12)


def test_four_steps_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"n_steps=4 .* 5 coordinates .* up to n_steps=3.* `draws"):
        mean_of_local_steps(GradientSteps(trig(2, 4), 0.1, 4), CASES[0][1], "holders")


@pytest.mark.parametrize(
    ("form", "sketch", "taus"),
    [
        ("holders", Dealt(Perm(4), 4, "as trained"), (1, 3, 2, 1)),
        ("update", PreconditionedPerm1(trig(3, 3)), (4, 1, 1)),
    ],
)
def test_workers_with_different_numbers_of_steps_are_exact(form, sketch, taus):
    problem = trig(sketch.deal.n_workers, sketch.dim)
    work = UnequalSteps(problem, 0.1, taus)
    exact, listed = variants.one_round(work, sketch, form), enumerated(sketch, work, MERGES[form])
    M = np.diag(np.arange(1.0, sketch.dim + 1)) + 0.5
    for moment in (mean_B, mean_u):
        np.testing.assert_allclose(moment(exact), moment(listed), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(second_B(exact, M), second_B(listed, M), rtol=1e-10, atol=1e-12)


def test_unequal_steps_minimise_a_weighted_problem_and_the_correction_restores_f():
    problem, taus = trig(4, 4), (1, 3, 2, 6)
    sketch, work = Dealt(Perm(4), 4, "as trained"), UnequalSteps(problem, 1e-6, taus)
    e = variants.one_round(work, sketch, "holders")
    w = np.array(taus) / 12
    weighted = (w @ problem.b) / (w @ problem.diagonals)
    np.testing.assert_allclose(fixed_point(e), weighted, rtol=1e-4)
    one = variants.one_round(GradientSteps(problem, 1e-6), sketch, "holders")
    restored = fixed_point(variants.reweighted(e, work.correction))
    np.testing.assert_allclose(restored, fixed_point(one), rtol=1e-4)
    assert np.abs(restored - weighted).max() > 0.01


def test_steps_of_other_numbers_of_workers_are_refused():
    with pytest.raises(ValueError, match=r"n_steps=\(1, 0\) is not one .* each of 2 workers"):
        UnequalSteps(trig(2, 4), 0.1, (1, 0))
