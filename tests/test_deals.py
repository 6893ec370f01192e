"""Deals: laws written once and run over the list of deals, and the messages of refusals."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subnetwork import deals
from subnetwork.deals import (
    AtLeast,
    Bernoulli,
    Full,
    Lazy,
    Ordered,
    Perm,
    RandQ,
    Rolling,
    Scored,
    WarmUp,
)

DEALS = [
    Full(3),
    Perm(1),
    Perm(3),
    Perm(5),
    Perm(3, weights=(1, 2, 4)),
    RandQ(3, q=2),
    Bernoulli(3, p=0.3),
    Bernoulli(2, p=1.0),
    Lazy(3, period=4),
    Lazy(3, period=1),
    Lazy(2, period=None),
    Ordered((1.0, 0.5, 0.1)),
    Rolling((0.5, 0.3)),
    AtLeast(3, least=2),
    AtLeast(3, least=7),
    WarmUp(2, Perm(3)),
    Scored((0.5, 0.3, 0.2)),
]
seeds = st.integers(0, 2**64 - 1)


def masks(deal, size, seed, k, axis=0):
    """0/1 rows: who holds what."""
    rows = np.zeros((deal.n_workers, size), dtype=int)
    for i, hand in enumerate(deal.hands(size, seed=seed, k=k, axis=axis)):
        rows[i, hand] = 1
    return rows


@pytest.mark.parametrize("deal", DEALS, ids=str)
@given(size=st.integers(8, 40), seed=seeds, k=st.integers(0, 10**6))
def test_hands_are_ascending_units_of_the_axis(deal, size, seed, k):
    hands = deal.hands(size, seed=seed, k=k)
    assert len(hands) == deal.n_workers
    for hand in hands:
        assert hand.dtype == np.int64
        assert (np.diff(hand) > 0).all()
        assert ((hand >= 0) & (hand < size)).all()


@pytest.mark.parametrize("deal", DEALS, ids=str)
def test_a_round_is_drawn_from_its_key_alone_and_every_part_of_it_counts(deal):
    def draw(seed, k, axis):
        return masks(deal, 40, seed, k, axis).tobytes()

    assert draw(5, 7, 2) == draw(5, 7, 2)
    distinct = {draw(*path) for path in product((5, 6), (7, 8), (0, 2))}
    by_round = isinstance(deal, Rolling)  # keyed by k alone
    for_ever = deal == Lazy(2, period=None)  # keyed by seed and axis
    trivial = isinstance(deal, Full | Ordered) or deal in (Perm(1), Bernoulli(2, p=1.0))
    assert len(distinct) == (1 if trivial else 2 if by_round else 4 if for_ever else 8)


@given(n=st.integers(1, 12), more=st.integers(0, 40), seed=seeds, k=st.integers(0, 99))
def test_perm_gives_every_unit_to_one_worker_and_hands_differ_by_one_at_most(n, more, seed, k):
    rows = masks(Perm(n), n + more, seed, k)
    assert (rows.sum(axis=0) == 1).all()  # so mean_i C_i = I, in every round
    assert set(rows.sum(axis=1)) <= {(n + more) // n, -(-(n + more) // n)}


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=8), more=st.integers(0, 40))
def test_weighted_hands_cover_and_are_right_to_the_unit(weights, more):
    size = sum(weights) + more
    rows = masks(Perm(len(weights), tuple(weights)), size, 3, 4)
    assert (rows.sum(axis=0) == 1).all()
    off = rows.sum(axis=1) - size * np.array(weights) / sum(weights)
    assert (np.abs(off) < 1).all()


@pytest.mark.parametrize(("n", "size"), [(2, 5), (3, 7), (3, 6), (4, 7)])
def test_remainders_go_to_workers_at_random_so_that_E_C_is_the_identity(n, size):
    draws = 4000
    held = sum(masks(Perm(n), size, 0, k) for k in range(draws)) / draws
    # Exact: each coordinate is with each worker with probability 1/n.
    assert np.abs(held - 1 / n).max() < 4.5 * np.sqrt((n - 1) / n**2 / draws)


def test_all_sets_of_workers_are_equally_likely_to_get_the_remainder():
    draws = 3000
    larger = Counter((masks(Perm(4), 6, 2, k).sum(axis=1) == 2).tobytes() for k in range(draws))
    assert len(larger) == 6  # the pairs of four workers
    assert max(abs(c - draws / 6) for c in larger.values()) < 4 * np.sqrt(draws / 6 * 5 / 6)


def test_all_balanced_assignments_are_equally_likely():
    draws = 6000
    seen = Counter(masks(Perm(2), 3, 1, k).argmax(axis=0).tobytes() for k in range(draws))
    assert len(seen) == 6  # 3 ways for sizes (2, 1) and 3 for (1, 2)
    assert max(abs(c - 1000) for c in seen.values()) < 4 * np.sqrt(draws / 6 * 5 / 6)


class FixedStart:
    """Stands for a stream: an order of the workers by its seed, then one given number."""

    def __init__(self, start, total, seed):
        self.start, self.total, self.order = start, total, np.random.default_rng(seed).permutation


@pytest.fixture
def every_start(monkeypatch):
    monkeypatch.setattr(deals, "shuffled", lambda size, stream: stream.order(size).tolist())
    monkeypatch.setattr(
        deals, "below", lambda stream, m: stream.start if m == stream.total else 1 / 0
    )
    return FixedStart


@pytest.mark.parametrize(("weights", "size"), [((1, 3), 6), ((1, 2, 4), 10), ((2, 5, 5), 7)])
def test_sizes_have_the_exact_means_that_the_weights_ask_for(weights, size, every_start):
    """Over all starts of the line the mean size is w_i size exactly, whatever the order."""
    total = sum(weights)
    deal = Perm(len(weights), weights)
    for seed in range(5):
        summed = np.zeros(len(weights), dtype=int)
        for start in range(total):
            stream = every_start(start, total, seed)
            summed += deal._sizes(size, stream)
        assert (summed == size * np.array(weights)).all()


def test_correction_restores_the_unweighted_mean():
    deal = Perm(3, weights=(1, 2, 4))
    shares = np.array(deal.weights) / 7
    np.testing.assert_allclose(shares * deal.correction, 1 / 3)


@pytest.mark.parametrize(("deal", "p"), [(RandQ(3, q=2), 2 / 7), (Bernoulli(3, p=0.3), 0.3)])
def test_independent_deals_hold_each_unit_with_their_probability(deal, p):
    draws = 4000
    held = sum(masks(deal, 7, 0, k) for k in range(draws)) / draws
    assert np.abs(held - p).max() < 4.5 * np.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize(
    ("deal", "size", "message"),
    [
        (Perm(5), 3, r"there are 3 units for n_workers=5\. Use at most 3 workers"),
        (Perm(2, (1, 9)), 5, r"worker 0, of weight 1 in 10, .* Raise its weight to 3 or more"),
        (RandQ(2, q=6), 5, r"RandQ cannot deal q=6 of 5 units\. Use q <= 5\."),
    ],
)
def test_a_deal_that_cannot_be_made_says_what_can(deal, size, message):
    with pytest.raises(ValueError, match=message):
        deal.hands(size, seed=0, k=0)


def test_the_advised_weight_works():
    assert len(Perm(2, (3, 9)).hands(5, seed=0, k=0)[0]) >= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Perm(0), r"at least one worker, not n_workers=0"),
        (lambda: Perm(2, (1,)), r"n_workers=2 workers, not weights=\(1,\)"),
        (lambda: Perm(2, (0, 1)), r"one positive whole weight"),
        (lambda: RandQ(2, q=0), r"q >= 1 units, not q=0"),
        (lambda: Bernoulli(2, p=0.0), r"0 < p <= 1, not p=0.0"),
    ],
)
def test_a_law_that_does_not_exist_is_refused_where_it_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@given(
    n=st.integers(1, 6), more=st.integers(0, 60), period=st.integers(1, 9), k=st.integers(0, 500)
)
def test_lazy_hands_are_disjoint_cover_and_keep_their_sizes(n, more, period, k):
    deal = Lazy(n, period)
    rows = masks(deal, n + more, 1, k)
    assert (rows.sum(axis=0) == 1).all()
    if more % n == 0:
        assert set(rows.sum(axis=1)) == {(n + more) // n}
    assert np.ptp(rows.sum(axis=1)) <= 1


def test_lazy_moves_one_unit_in_period_a_round_and_each_of_them_once_in_a_period():
    n, size, period = 4, 400, 10
    rounds = [masks(Lazy(n, period), size, 2, k) for k in range(20 * period + 1)]
    moved = np.array([(a != b).any(axis=0) for a, b in pairwise(rounds)])
    assert moved.sum(axis=1).max() <= size / period
    assert abs(moved.mean() - (1 - 1 / n) / period) < 0.004  # 20 periods of 400 units: 3 sigma
    for unit in range(size):
        when = np.flatnonzero(moved[:, unit]) + 1
        assert len(set(when % period)) <= 1


def test_lazy_deals_every_unit_to_every_worker_alike():
    n, size, draws = 3, 14, 4000
    held = sum(masks(Lazy(n, 2), size, seed, 5) for seed in range(draws)) / draws
    assert np.abs(held - 1 / n).max() < 4.5 * np.sqrt((n - 1) / n**2 / draws)


def test_lazy_with_period_one_deals_everything_anew():
    rounds = [masks(Lazy(4, 1), 400, 0, k) for k in range(50)]
    moved = np.mean([(a != b).any(axis=0) for a, b in pairwise(rounds)])
    assert abs(moved - 3 / 4) < 0.02


def test_ordered_hands_are_nested_and_rolling_ones_reach_every_unit():
    hands = Ordered((1.0, 0.5, 0.25)).hands(30, seed=0, k=3)
    assert [len(hand) for hand in hands] == [30, 15, 8]
    assert all(hand.tolist() == list(range(len(hand))) for hand in hands)
    assert len(Ordered((0.07,)).hands(100, seed=0, k=0)[0]) == 7  # not ceil(7.000000000000001)
    reached = sum(masks(Rolling((0.2,)), 30, 0, k)[0] for k in range(30))
    assert set(reached) == {6}


def test_refusals_of_lazy_ordered_and_rolling():
    with pytest.raises(ValueError, match="once in period=0 rounds"):
        Lazy(2, 0)
    with pytest.raises(ValueError, match="3 units for n_workers=4"):
        Lazy(4, 2).hands(3, seed=0, k=0)
    for law in (Ordered, Rolling):
        with pytest.raises(ValueError, match=r"shares of the units in \(0, 1\]"):
            law((0.5, 1.5))


@given(n=st.integers(1, 9), size=st.integers(1, 12), least=st.integers(1, 12), seed=seeds)
def test_with_a_minimum_everyone_has_it_and_holders_differ_by_one_at_most(n, size, least, seed):
    if least > size:
        with pytest.raises(ValueError, match=rf"least={least} of {size} units.*least <= {size}"):
            AtLeast(n, least).hands(size, seed=seed, k=1)
        return
    rows = masks(AtLeast(n, least), size, seed, 1)
    if n * least <= size:
        assert (rows == masks(Perm(n), size, seed, 1)).all()
        assert rows.sum(axis=1).min() >= least
    else:
        assert (rows.sum(axis=1) == least).all()
        assert set(rows.sum(axis=0)) <= {n * least // size, -(-n * least // size)}


def test_with_a_minimum_every_worker_and_unit_are_treated_alike():
    n, size, least, draws = 3, 4, 2, 4000
    rounds = np.array([masks(AtLeast(n, least), size, 0, k) for k in range(draws)])
    share = least / size
    assert np.abs(rounds.mean(axis=0) - share).max() < 4.5 * np.sqrt(share * (1 - share) / draws)
    pairs = [(rounds[:, i] == rounds[:, j]).all(axis=1) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert (np.sum(pairs, axis=0) == 1).all()  # the third window is the first one
    assert np.abs(np.mean(pairs, axis=1) - 1 / 3).max() < 4.5 * np.sqrt(2 / 9 / draws)


def test_a_warm_up_holds_everything_and_then_deals():
    deal = WarmUp(2, Perm(2))
    assert all(masks(deal, 6, 0, k).all() for k in range(2))
    assert all((masks(deal, 6, 0, k) == masks(Perm(2), 6, 0, k)).all() for k in (2, 3))
    with pytest.raises(ValueError, match="at most 3 workers"):
        WarmUp(2, Perm(4)).hands(3, seed=0, k=0)
    with pytest.raises(ValueError, match=r"n_rounds >= 0 rounds, not -1"):
        WarmUp(-1, Perm(4))
    with pytest.raises(ValueError, match=r"least >= 1 units, not least=0"):
        AtLeast(2, 0)


@given(
    scores=st.lists(st.integers(-3, 3), min_size=4, max_size=30),
    capacities=st.lists(st.sampled_from((0.1, 0.25, 0.5, 1.0)), min_size=1, max_size=4),
    seed=seeds,
)
def test_scored_hands_are_windows_of_the_units_in_the_order_of_their_scores(
    scores, capacities, seed
):
    deal = Scored(tuple(capacities), ((0.0,), tuple(map(float, scores))))
    hands = deal.hands(len(scores), seed=seed, k=3, axis=1)
    ranked = sorted(scores, reverse=True)
    for i, (capacity, hand) in enumerate(zip(capacities, hands, strict=True)):
        share = -(-len(scores) * Fraction(str(capacity)) // 1)
        start = min(i * (len(scores) // len(capacities)), len(scores) - share)
        assert sorted((scores[u] for u in hand), reverse=True) == ranked[start : start + share]
    assert (np.diff(hands[0]) > 0).all()


def test_scored_puts_equal_scores_in_random_order_and_others_never():
    deal = Scored((0.5, 0.5), ((1.0, 1.0, 1.0, 1.0, 9.0, 0.0),))
    first = [deal.hands(6, seed=0, k=k)[0].tolist() for k in range(3000)]
    assert all(4 in hand and 5 not in hand for hand in first)
    counts = Counter(tuple(hand) for hand in first)
    assert len(counts) == 6  # two of the four equal ones
    assert max(abs(n - 500) for n in counts.values()) < 5 * 500**0.5


def test_scored_refuses_scores_that_do_not_fit():
    with pytest.raises(ValueError, match="3 scores for axis number 0, which has 4 units"):
        Scored((0.5,), ((1.0, 2.0, 3.0),)).hands(4, seed=0, k=0)
    with pytest.raises(ValueError, match="0 scores for axis number 1"):
        Scored((0.5,), ((1.0, 2.0, 3.0),)).hands(3, seed=0, k=0, axis=1)
    with pytest.raises(ValueError, match="scores that are NaN"):
        Scored((0.5,), ((1.0, float("nan")),))
    with pytest.raises(ValueError, match=r"shares of the units in \(0, 1\]"):
        Scored((1.5,))


def test_a_period_longer_than_the_units_deals_one_group_a_round_and_then_none():
    """Also one so long that its groups could not be counted."""
    deal = Lazy(2, period=10**9)
    first, second, third, fourth = (deal.hands(6, seed=0, k=k) for k in range(4))
    for before, after in ((first, second), (second, third)):
        moved = set(before[0]) - set(after[0])
        assert len(moved) <= 1  # of one group of two
    assert all(np.array_equal(a, b) for a, b in zip(third, fourth, strict=True))
