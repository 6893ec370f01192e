"""`study`: what it says agrees with the parts it is made of, and what it refuses it names."""

import numpy as np
import pytest

from subnetwork import Perm, RandQ
from subnetwork.theory.curves import along, bias, expected, fixed_point
from subnetwork.theory.declared import DECLARED
from subnetwork.theory.estimator import estimator
from subnetwork.theory.matrix_sketches import AnyLaw
from subnetwork.theory.problems import Quadratics, breast_cancer, gaussian, trig
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.study import study
from subnetwork.theory.theorem_a import theorem_a

SHAPES = {"copies": (4, 2), "preconditioned_perm1": (4, 4), "bernoulli": (2, 3)}


@pytest.mark.parametrize("name", DECLARED)
def test_the_curve_ends_at_the_floor_it_names_and_at_the_bias_for_small_steps(name):
    problem = trig(*SHAPES.get(name, (2, 4)))
    found = study(problem, name)
    curve = found.curve(np.ones(problem.dim), 400)
    np.testing.assert_allclose(curve[-1, 0], found.floor, rtol=1e-5, atol=1e-12)
    assert 0 <= found.bias <= found.floor * (1 + 1e-12)
    small = study(problem, name, step_size=found.stable_step * 1e-5)
    np.testing.assert_allclose(small.floor, found.bias, rtol=1e-3, atol=1e-12)
    if DECLARED[name].limit is not None:
        np.testing.assert_allclose(found.x_inf, DECLARED[name].limit(problem), rtol=1e-9)


def test_a_study_of_perm_is_its_parts():
    problem = trig(5, 5)
    sketch = Dealt(Perm(5), 5, "paper")
    found, e = study(problem, sketch, step_size=0.05), estimator(problem, sketch)
    assert found.stable_step == pytest.approx(0.389523, abs=5e-7)
    assert found.bias == pytest.approx(bias(problem, e))
    np.testing.assert_allclose(found.x_inf, fixed_point(e))
    x0 = np.linspace(-1, 1, 5)
    exact = along(problem.L_bar[None] / 2, expected(problem, e, x0, step_size=0.05), 9)[:, 0]
    np.testing.assert_allclose(found.curve(x0, 9)[:, 0], exact, rtol=1e-12)
    by_name = {v.equations: v for v in found.verdicts}
    assert by_name["A"].largest_step == pytest.approx(theorem_a(e).largest_step)
    assert by_name["A"].row(0.05)[1] == "speaks here"
    assert by_name["A"].row(0.3)[1] == "speaks"
    assert by_name["(22)-(24)"].largest_step is None
    assert "b_i is not 0" in by_name["(22)-(24)"].silent[0]


def test_it_prints_an_aligned_table_with_the_reasons_of_silence():
    said = str(study(trig(5, 5).minimised_at_zero(), "perm", step_size=0.19))
    lines = said.splitlines()
    (header,) = [line for line in lines if line.startswith("theorem")]
    (row,) = [line for line in lines if line.startswith("(22)-(24)")]
    assert row.index("speaks here") == header.index("verdict")
    assert row.index("0.1942") == header.index("steps up to")
    assert "largest stable step       0.38952" in lines
    assert "diverge" not in said
    assert "(7), (21) is silent: |grad f(x)|^2" in said


def test_an_indefinite_W_is_silence_and_the_rest_is_still_said():
    L = np.array([[1.0, 3.0], [3.0, 10.0]])
    found = study(Quadratics(np.stack([L, L]), np.zeros((2, 2))), "perm")
    silent = {v.equations for v in found.verdicts if v.silent}
    assert {"(22)-(24)", "(27)-(28), corrected"} <= silent
    assert found.floor == pytest.approx(0, abs=1e-14)
    assert found.distance == 0
    assert "eq. (22) fails: W-bar has the eigenvalue -" in str(found)


def test_every_theorem_for_preconditioned_perm_1():
    found = study(trig(4, 4), "preconditioned_perm1", step_size=0.4)
    by_name = {v.equations: v for v in found.verdicts}
    assert by_name["(18)-(19), tightened"].row(0.4)[1] == "speaks here"
    assert by_name["(18)-(19), tightened"].floor(0.4) >= 2 * found.floor
    assert by_name["(32)-(34)"].largest_step is None
    at_zero = study(trig(4, 4).minimised_at_zero(), "preconditioned_perm1")
    assert {v.equations for v in at_zero.verdicts if v.largest_step == 1.0} >= {"(32)-(34)"}
    assert "(25)-(26)" in {v.equations for v in study(trig(2, 3), "identity").verdicts}


def test_a_law_of_the_user_is_sampled_and_says_so(monkeypatch):
    monkeypatch.setattr("subnetwork.theory.study.LISTED", 200)

    def draw(seed, k):
        rng = np.random.default_rng((seed, k))
        v = rng.standard_normal((2, 3))
        return np.einsum("ij,il->ijl", v, v)

    found = study(trig(2, 3), AnyLaw(draw, 2, 3))
    assert any("from 200 draws, E u to " in note for note in found.notes)
    assert found.floor > 0


def test_beyond_200_coordinates_the_bias_is_exact_and_the_curve_is_refused():
    found = study(gaussian(2, 202, ridge=1.0), "ist")
    assert (found.stable_step, found.floor) == (None, None)
    assert found.bias > 0
    with pytest.raises(ValueError, match=r"d=202 is above 200"):
        found.curve(np.ones(202), 3)


def test_a_step_that_is_not_stable_has_no_floor():
    found = study(trig(5, 5), "perm", step_size=0.5)
    assert found.floor is None
    assert "No floor: E|x|^2 grows at step sizes of 0.3895 or more." in found.notes


def test_deals_without_closed_form_are_listed():
    found = study(trig(2, 4), Dealt(RandQ(2, q=2), 4, "as trained"))
    assert any("No closed form: As trained" in note for note in found.notes)
    assert any("all 36 draws" in note for note in found.notes)
    weighted = study(trig(3, 5), Dealt(Perm(3, (1, 1, 2)), 5, "paper"))
    assert weighted.floor > 0


@pytest.mark.slow
def test_real_data_with_30_coordinates():
    found = study(breast_cancer(), "perm")
    assert 0 < found.bias <= found.floor


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: study(Quadratics(np.zeros((2, 2, 2)), np.ones((2, 2))), "perm"),
            r"L_bar has the eigenvalue 0 .* ridge .* range space",
        ),
        (
            lambda: study(
                Quadratics(np.array([[[1.0, 0], [0, 0]], [[1.0, 0], [0, 1]]]), np.ones((2, 2))),
                "preconditioned_perm1",
            ),
            r"\[L_i\]_jj = 0 for worker i=0, coordinate j=1, but eq\. \(12\) divides .* ridge",
        ),
        (
            lambda: study(trig(7, 3), "perm"),
            r"'perm' wants n <= d, but there are n=7 workers for d=3 .* 'copies' with n=6",
        ),
        (lambda: study(trig(7, 3), "copies"), r"leave 1 over: .* n_workers=6 or 9"),
        (lambda: study(trig(2, 4), "permk"), r"no sketch 'permk'\. Known sketches: identity"),
        (lambda: study(trig(2, 4), "perm", step_size=-1.0), r"step_size=-1\.0 does not descend"),
    ],
)
def test_refusals_name_the_assumption_and_the_way_out(ask, message):
    with pytest.raises(ValueError, match=message) as refusal:
        ask()
    assert "\n" not in str(refusal.value)
