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
from subnetwork.theory.moments import mean_B, mean_u
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, PreconditionedPerm1
from subnetwork.theory.work import GradientSteps

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
    from subnetwork.theory.moments import cross, second_B, second_u

    np.testing.assert_allclose(second_B(exact, M), second_B(listed, M), atol=1e-12)
    np.testing.assert_allclose(second_u(exact), second_u(listed), atol=1e-12)
    np.testing.assert_allclose(cross(exact, M[0]), cross(listed, M[0]), atol=1e-12)


def test_four_steps_are_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"n_steps=4 .* 5 coordinates .* up to n_steps=3.* `draws"):
        mean_of_local_steps(GradientSteps(trig(2, 4), 0.1, 4), CASES[0][1], "holders")
