"""The two experiments, their records, and the table of claims."""

import json
import math

import numpy as np
import pytest

from subnetwork.experiments import evidence, interpolation, neighbourhood
from subnetwork.experiments.outcome import at_most, equal, write_claims
from subnetwork.experiments.verify import numbers, verify
from subnetwork.record import read
from subnetwork.theory.problems import Quadratics, breast_cancer, trig


@pytest.fixture(scope="module")
def stationary():
    return interpolation.run(breast_cancer(), n_rounds=120, n_seeds=100)


@pytest.fixture(scope="module")
def biased():
    return neighbourhood.run(breast_cancer(), n_rounds=120, n_seeds=100)


def by_equation(found, equation):
    return [outcome for outcome in found.outcomes if outcome.equation == equation]


def test_24_holds_on_breast_cancer_and_agrees_with_the_exact_expectation(stationary):
    bound, agreement = by_equation(stationary, "(24)")
    assert (bound.verdict, agreement.verdict) == ("holds", "holds")
    assert bound.measured == stationary.rows[-1]["measured"] < bound.claimed
    for row in stationary.rows:
        assert row["low"] <= row["measured"] * (1 + 1e-12)
        assert row["measured"] <= row["high"] * (1 + 1e-12)
        assert row["exact"] <= row["bound"]
    assert [row["k"] for row in stationary.rows] == evidence.log_spaced(120)


def test_28_fails_on_breast_cancer_by_more_than_10_and_its_step_diverges(stationary):
    theta, step = by_equation(stationary, "(28)")
    assert (theta.verdict, theta.corrected) == ("fails", "holds")
    assert theta.measured > 10 * theta.claimed
    assert (step.verdict, step.corrected) == ("fails", "holds")


def test_19_holds_on_breast_cancer_printed_and_tightened(biased):
    assert [outcome.verdict for outcome in biased.outcomes] == ["holds"] * 4
    for row in biased.rows:
        assert row["exact"] <= row["tightened"] <= row["bound"]


def test_running_means_are_those_of_the_first_k_rounds():
    from subnetwork import Perm, rounds
    from subnetwork.theory.merges import update_form
    from subnetwork.theory.sketches import Dealt
    from subnetwork.theory.theorems import stationary_points
    from subnetwork.theory.work import GradientSteps

    found = interpolation.run(trig(), n_rounds=6, n_seeds=2, seed=5)
    problem, sketch = trig().minimised_at_zero(), Dealt(Perm(5), 5, "paper")
    theorem = stationary_points(problem, sketch)
    work = GradientSteps(problem, found.config["step_size"])
    means = []
    for seed in evidence.run_seeds(5, 2):
        ran = rounds(np.ones(5), sketch, work, update_form, seed=seed, n_rounds=6)
        xs = [np.ones(5), *(r.x for r in ran)]
        left = [theorem.measure(problem.gradient(x)) for x in xs]
        means.append([np.mean(left[:K]) for K in evidence.log_spaced(6)])
    np.testing.assert_allclose(
        [row["measured"] for row in found.rows], np.mean(means, axis=0), rtol=1e-12
    )


def test_more_seeds_are_the_old_ones_and_new_ones():
    assert evidence.run_seeds(3, 9)[:4] == evidence.run_seeds(3, 4)
    assert evidence.run_seeds(3, 4) != evidence.run_seeds(4, 4)


def test_a_wrong_expectation_would_be_seen(stationary):
    """5 standard errors off is no agreement."""
    horizons, runs = [1, 2], np.random.default_rng(0).standard_normal((400, 2)) + 1
    good = evidence.Sides(horizons, runs, np.ones(2), np.ones(2))
    off = evidence.Sides(horizons, runs, np.array([1.0, 1.3]), np.ones(2))
    assert evidence.agreement(good, "(24)", "").verdict == "holds"
    assert evidence.agreement(off, "(24)", "").verdict == "fails"
    assert evidence.below(good, [0.5, 0.5], "(24)", "").verdict == "fails"
    assert stationary.outcomes[1].measured < evidence.STANDARD_ERRORS


def indefinite():
    L = np.array([[1.0, 1.8], [1.8, 4.0]])
    return Quadratics(np.stack([L, L]), np.zeros((2, 2)))


def test_a_silent_theorem_draws_no_bound_and_the_method_still_runs(tmp_path):
    found = interpolation.run(indefinite(), n_rounds=300, n_seeds=10, step_size=0.05)
    bound, agreement = found.outcomes
    assert (bound.verdict, bound.claimed, agreement.verdict) == ("silent", None, "holds")
    assert not bound.stands
    assert found.rows[-1]["bound"] is None
    assert read(evidence.write(tmp_path, found)).column("bound") == [None] * len(found.rows)


def test_perm_q_with_a_remainder_is_an_experiment_too():
    found = interpolation.run(trig(2, 5), n_rounds=40, n_seeds=60)
    assert [outcome.verdict for outcome in found.outcomes] == ["holds", "holds"]
    assert found.config["sketch"] == "Perm-2.5"


def test_records_say_what_ran_and_hold_the_rows(tmp_path, biased):
    path = evidence.write(tmp_path, biased)
    record = read(path)
    assert (path.name, record.header["kind"], record.end) == ("neighbourhood.jsonl", "lab", "done")
    assert record.header["config"]["equation"] == "(19)"
    assert "norm L⁻¹" in record.header["config"]["left_side"]
    assert list(record.rows) == list(biased.rows)


def test_claims_are_written_one_a_line(tmp_path):
    rows = [equal("a", "(1)", 1.0, 1.0), at_most("b", "(2)", math.nan, 1.0)]
    record = read(write_claims(tmp_path, rows, seed=4))
    assert record.header["kind"] == "claims"
    assert record.rows[0]["verdict"] == "holds"
    assert (record.rows[1]["verdict"], record.rows[1]["measured"]) == ("fails", None)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_every_equation_stands_for_other_points_and_20000_other_seeds(seed):
    assert [row.claim for row in verify(seed) if not row.stands] == []


def test_every_equation_stands_as_printed_or_as_corrected(table):
    assert [row.claim for row in table if not row.stands] == []
    assert numbers(table) == set(range(1, 35))
    for other in ("deck", "A", "v1 (21)", "v1 (23)", "v1 (30)"):
        assert any(row.equation == other for row in table)


def test_the_printed_equations_that_fail_are_the_known_ones(table):
    failing = {row.equation for row in table if row.verdict == "fails"}
    of_v1 = {"v1 (21)", "v1 (23)", "v1 before (27)", "v1 (30)", "v1 after (28)"}
    assert failing == {"(4)", "(6)", "(7)-(8)", "(20)", "(7), (21)", "(28)"} | of_v1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: interpolation.run(trig(), step_size=0.5), r"0\.5 is outside \(0, 0\.1941\]"),
        (lambda: interpolation.run(trig(), step_size=-1.0), r"-1 is outside"),
        (lambda: interpolation.run(indefinite()), r"eq\. \(22\) fails"),
        (lambda: interpolation.run(trig(6, 5)), r"5 units for n_workers=6"),
        (lambda: interpolation.run(trig(), n_seeds=1), r"n_seeds=1 .* n_seeds >= 2"),
        (lambda: neighbourhood.run(trig(), step_size=0.5), r"0\.5 is outside \(0, 0\.3333\]"),
        (lambda: neighbourhood.run(trig(), beta=0.7), r"beta=0\.7 is outside \(0, 1/2\)"),
        (lambda: neighbourhood.run(trig(2, 6)), r"d=6 coordinates for n_workers=2"),
    ],
)
def test_bad_input_is_refused_in_one_line(ask, message):
    with pytest.raises(ValueError, match=message) as refusal:
        ask()
    assert "\n" not in str(refusal.value)


def test_rows_are_json():
    found = interpolation.run(trig(), n_rounds=3, n_seeds=2)
    assert json.loads(json.dumps(list(found.rows))) == list(found.rows)
    json.dumps(dict(found.config))
