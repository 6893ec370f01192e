"""The laws of laws.py over the list of sketches; merges; refusals."""

import numpy as np
import pytest

from subnetwork import Bernoulli, Full, Perm, RandQ
from subnetwork.theory.merges import holders_form, merge_form, update_form
from subnetwork.theory.problems import Quadratics, trig
from subnetwork.theory.sketches import Dealt, DiagonalPartition, PreconditionedPerm1

from . import laws

IDENTITY = Dealt(Full(3), 4, "paper")
PERM = [Dealt(Perm(n), d, "paper") for n, d in [(1, 3), (3, 3), (2, 4), (2, 5), (3, 7), (4, 6)]]
MASKS = [Dealt(Perm(n), d, "as trained") for n, d in [(3, 3), (2, 5)]]
RAND_Q = Dealt(RandQ(2, q=2), 4, "paper")
RAND_Q_MASKS = Dealt(RandQ(2, q=2), 4, "as trained")
BERNOULLI = Dealt(Bernoulli(2, p=0.4), 4, "paper")
PRECONDITIONED = PreconditionedPerm1(trig(4, 4))
ALL = [IDENTITY, *PERM, *MASKS, RAND_Q, RAND_Q_MASKS, BERNOULLI, PRECONDITIONED]


def x_for(sketch):
    return np.linspace(-1, 2, sketch.scales.shape[1])


@pytest.mark.parametrize("sketch", ALL, ids=repr)
def test_a_sample_holds_the_declared_scales(sketch):
    laws.draws_what_it_says(sketch)


@pytest.mark.parametrize("sketch", [IDENTITY, *PERM], ids=repr)
def test_mean_of_the_sketches_is_the_identity_in_every_round(sketch):
    laws.covers(sketch)


@pytest.mark.parametrize("sketch", [IDENTITY, *PERM, RAND_Q], ids=repr)
def test_sketches_are_unbiased(sketch):
    laws.is_unbiased(sketch)


@pytest.mark.parametrize("sketch", [*PERM, *MASKS, PRECONDITIONED], ids=repr)
def test_every_coordinate_has_one_holder(sketch):
    laws.is_disjoint(sketch)


@pytest.mark.parametrize("sketch", [RAND_Q, PRECONDITIONED, *MASKS], ids=repr)
def test_the_other_sketches_do_not_cover(sketch):
    with pytest.raises(AssertionError):
        laws.covers(sketch)


@pytest.mark.parametrize("sketch", ALL, ids=repr)
def test_update_form_keeps_an_untrained_model_for_every_sketch(sketch):
    laws.work_that_does_nothing_changes_nothing(sketch, update_form, x_for(sketch))


@pytest.mark.parametrize("sketch", [IDENTITY, *PERM], ids=repr)
def test_merge_form_keeps_an_untrained_model_where_the_sketches_cover(sketch):
    laws.work_that_does_nothing_changes_nothing(sketch, merge_form, x_for(sketch))


@pytest.mark.parametrize("sketch", [*MASKS, RAND_Q_MASKS], ids=repr)
def test_holders_form_keeps_an_untrained_model_as_trained(sketch):
    laws.work_that_does_nothing_changes_nothing(sketch, holders_form, x_for(sketch))


@pytest.mark.parametrize("sketch", [RAND_Q, PRECONDITIONED], ids=repr)
def test_merge_form_multiplies_the_model_elsewhere(sketch):
    with pytest.raises(AssertionError):
        laws.work_that_does_nothing_changes_nothing(sketch, merge_form, x_for(sketch))


def test_bernoulli_on_paper_is_unbiased_within_4_standard_errors():
    draws = 4000
    mean = sum(BERNOULLI.sample(0, k).scale for k in range(draws)) / draws
    error = np.sqrt((1 / 0.4 - 1) / draws)
    assert np.abs(mean - 1).max() < 4 * error


def test_holders_form_assigns_averages_and_keeps():
    scale = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    partition = DiagonalPartition(scale, (np.array([0, 1]), np.array([1])))
    x = np.array([10.0, 20.0, 30.0])
    z = [np.array([11.0, 22.0, 0.0]), np.array([0.0, 26.0, 0.0])]
    np.testing.assert_array_equal(holders_form(x, partition, z), [11.0, 24.0, 30.0])
    np.testing.assert_array_equal(merge_form(x, partition, z), [5.5, 24.0, 0.0])
    np.testing.assert_array_equal(update_form(x, partition, z), [10.5, 24.0, 30.0])


def test_the_only_holder_of_an_entry_gives_its_exact_bits():
    partition = DiagonalPartition(np.ones((1, 1)), (np.array([0]),))
    x, z = np.array([1e16]), np.array([0.1])
    assert holders_form(x, partition, [z])[0] == 0.1  # x + (z - x) would be 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dealt(Perm(4), 3, "paper"), r"3 units for n_workers=4\. Use at most 3"),
        (lambda: PreconditionedPerm1(trig(2, 6)), r"d=6 coordinates for n_workers=2.* n_workers=6"),
        (
            lambda: PreconditionedPerm1(Quadratics(np.zeros((2, 2, 2)), np.zeros((2, 2)))),
            r"\[L_i\]_jj = 0 for worker i=0, coordinate j=0, .* ridge such as 0\.001",
        ),
    ],
)
def test_refusals_say_what_works(make, message):
    with pytest.raises(ValueError, match=message):
        make()
