"""The registry's experiments, small: their verdicts, and the numbers that are known of them."""

import inspect
import json

import numpy as np
import pytest

from subnetwork.experiments import (
    bias_against_q,
    bias_removal,
    equal_bits,
    gdci_threshold,
    logistic,
    logistic_on_data,
    not_psd,
    runs,
    shapes_of_the_paper,
)
from subnetwork.experiments.registry import EXPERIMENTS, run_named
from subnetwork.theory.problems import breast_cancer, trig


def holds(found):
    return {outcome.claim: outcome.verdict for outcome in found.outcomes}


def test_marks_of_a_longer_run_are_those_of_a_shorter_one_and_new_ones():
    assert set(marks := runs.marks(100)) - {100} <= set(runs.marks(5000))
    assert (marks[0], marks[-1], runs.marks(0)) == (0, 100, [0])


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_of_the_registry_can_be_asked_for_by_keywords(name):
    experiment = EXPERIMENTS[name]
    assert inspect.signature(experiment.run).return_annotation.__name__ == "Evidence"
    assert experiment.figure in {"theorem", "curves"}
    assert 10 < len(experiment.line) < 80
    with pytest.raises(ValueError, match=f"experiment {name} takes no 'horizon'. It takes: "):
        run_named(name, {"horizon": 3})


def test_methods_with_memory_remove_the_bias_and_the_others_do_not():
    """Full size is `bias_removal.run()`; here quadratics on which everything is quick."""
    found = bias_removal.run(trig(2, 8), n_rounds=250, n_seeds=2)
    assert set(holds(found).values()) == {"holds"}
    assert len(found.outcomes) == 13
    curves = {row["curve"] for row in found.rows}
    assert len(curves) == 15
    assert found.config["floor"] > 0
    json.dumps([dict(row) for row in found.rows])


@pytest.mark.slow
def test_bias_removal_at_full_size():
    found = bias_removal.run()
    assert set(holds(found).values()) == {"holds"}
    assert found.config["floor"] == pytest.approx(0.0058, rel=0.01)


def test_n_equals_d_leaves_no_block_to_reweight():
    found = bias_removal.run(trig(4, 4), n_rounds=20, n_seeds=2)
    assert not {"reweighted (M1a)", "two resolutions (M1b)"} & {row["curve"] for row in found.rows}


def test_homogeneous_gaussian_quadratics_have_the_numbers_that_are_written_down():
    found = shapes_of_the_paper.homogeneous(n_rounds=20)
    assert found.config["condition"] == pytest.approx(1.9e4, rel=0.05)
    assert found.config["size_of_solution"] == pytest.approx(2258, abs=1)
    assert found.config["size_of_limit"] == pytest.approx(0.14, abs=0.005)
    assert set(holds(found).values()) == {"holds"}
    for row in found.rows:
        assert row["measured"] == pytest.approx(row["exact"], rel=1e-9)
    assert found.config["note"] == "shape recollected, not a quotation"


def test_a_larger_step_ends_higher_on_heterogeneous_quadratics():
    found = shapes_of_the_paper.heterogeneous(dim=120, n_workers=6, n_rounds=150)
    assert set(holds(found).values()) == {"holds"}


@pytest.mark.slow
def test_heterogeneous_at_full_size_ends_near_the_numbers_that_are_written_down():
    """1.05e-4, 3.8e-5, 1.15e-5 above a bias of 7.6e-6, of another draw of the same law."""
    found = shapes_of_the_paper.heterogeneous()
    ends = [runs.last(found.rows, f"\N{GREEK SMALL LETTER GAMMA} = {g}") for g in (1, 0.5, 0.1)]
    np.testing.assert_allclose(ends, [1.05e-4, 3.8e-5, 1.15e-5], rtol=0.2)
    assert found.config["floor"] == pytest.approx(7.6e-6, rel=0.1)


def test_the_bias_is_zero_where_a_worker_holds_everything_and_falls_with_q():
    found = bias_against_q.run()
    assert set(holds(found).values()) == {"holds"}
    for curve in {row["curve"] for row in found.rows}:
        values = [row["measured"] for row in found.rows if row["curve"] == curve]
        assert values == sorted(values, reverse=True)
        assert values[-1] == 0 < values[-2]


def test_gdci_works_far_beyond_what_20_asks_for():
    found = gdci_threshold.run(n_seeds=800)
    assert set(holds(found).values()) == {"holds"}
    assert gdci_threshold.exact_threshold(100) == pytest.approx(4.1e-2, rel=0.01)


def test_perm_is_ahead_of_rand_q_at_equal_bits():
    found = equal_bits.run(n_rounds=16, n_seeds=20)
    assert set(holds(found).values()) == {"holds"}
    ends = {row["curve"]: row["bits_down"] + row["bits_up"] for row in found.rows}
    assert len(set(ends.values())) == 1


def test_the_theorem_is_silent_where_w_is_not_psd_and_the_method_converges():
    found = not_psd.run(n_rounds=40, n_seeds=4)
    first, second = found.outcomes
    assert (first.verdict, second.verdict) == ("silent", "holds")
    assert found.config["lowest_of_W"] < 0
    assert found.rows[-1]["measured"] < 0.1 * found.rows[0]["measured"]
    assert not_psd.run(breast_cancer(), n_rounds=5, n_seeds=2).outcomes[0].verdict == "holds"


@pytest.mark.parametrize("correlation", [0.0, pytest.param(0.7, marks=pytest.mark.slow)])
def test_on_logistic_regression_extrapolation_fails_and_damped_anchors_work(correlation):
    found = logistic.run(n_rounds=600, n_seeds=2, correlation=correlation)
    assert set(holds(found).values()) == {"holds"}
    stable = "anchored, T = 8 reaches" in " ".join(holds(found))
    assert stable == (correlation == 0)


def test_logistic_on_data_that_is_always_there_and_a_refusal_where_it_is_not(monkeypatch):
    monkeypatch.delenv("SUBNETWORK_DATA", raising=False)
    with pytest.raises(ValueError, match="SUBNETWORK_DATA is not set"):
        logistic_on_data.run(data="a9a")
    found = logistic_on_data.run(data="breast_cancer", n_workers=5, n_rounds=150)
    assert set(holds(found).values()) == {"holds"}


def test_rows_of_a_run_that_diverges_end_before_infinity():
    from subnetwork.theory.method_table import method_named

    problem = trig(2, 4)
    method = method_named("ist", problem, np.ones(4), step_size=50.0)
    rows = runs.over_seeds("x", method, problem.gap, seeds=[1, 2], n_rounds=400)
    assert rows[-1]["k"] < 400
    assert all(np.isfinite(row["measured"]) for row in rows)
