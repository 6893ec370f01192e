"""Compiled twins: the same integers as plain Python."""

from itertools import islice

import numpy as np
import pytest

from subnetwork import Bernoulli, Full, Perm, RandQ, keys
from subnetwork.theory import plans
from subnetwork.theory.kernels import draws, streams

SEEDS = [0, 1, 7, 2**32, 2**63, 2**64 - 1]


def u64(*numbers):
    return np.array(numbers, dtype=np.uint64)


@pytest.mark.parametrize("seed", SEEDS)
def test_keys_and_words_are_the_same(seed):
    for path in [(seed,), (seed, 3), (seed, 3, 0), (seed, 2**64 - 1, 5, 6)]:
        assert int(streams.key(u64(*path))) == keys.key(*path)
    state = u64(keys.key(seed))
    compiled = [int(streams.word(state)) for _ in range(50)]
    assert compiled == list(islice(keys.words(keys.key(seed)), 50))


@pytest.mark.parametrize("m", [1, 2, 3, 7, 1000, 2**31 + 1, 3 * 2**30, 2**32 - 1, 2**32])
def test_below_rejects_the_same_words(m):
    state, stream = u64(9), keys.words(9)
    for _ in range(300):
        assert int(streams.below(state, m)) == keys.below(stream, m)
    assert int(streams.word(state)) == next(stream)  # as many words were used


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 500])
@pytest.mark.parametrize("seed", SEEDS)
def test_shuffles_are_the_same(size, seed):
    items = np.arange(size)
    streams.shuffle(items, u64(seed))
    assert items.tolist() == keys.shuffled(size, keys.words(seed))


PERMS = [(1, None), (2, None), (3, None), (7, None), (2, (1, 3)), (3, (1, 2, 4)), (4, (5, 5, 5, 1))]


def started(*seeds):
    return u64(*(keys.key(seed) for seed in seeds))


@pytest.mark.parametrize(("n", "weights"), PERMS, ids=str)
@pytest.mark.parametrize("size", [16, 17, 30, 101])
def test_perm_deals_the_same_hands(n, weights, size):
    deal = Perm(n, weights)
    law = plans.law(deal, size)._replace(axis=2)
    deck = plans.deck(len(SEEDS), size, law)
    for k in (0, 1, 12345):
        draws.deal_owners(started(*SEEDS), k, law, deck)
        draws.sort_hands(len(SEEDS), law, deck)
        own, hands = deck.own.reshape(-1, size), deck.hands.reshape(-1, size)
        ends = np.broadcast_to(deck.ends[: n + 1], (len(SEEDS), n + 1))
        ends = ends if law.even else deck.ends.reshape(-1, n + 1)
        for s, seed in enumerate(SEEDS):
            for i, hand in enumerate(deal.hands(size, seed=seed, k=k, axis=2)):
                np.testing.assert_array_equal(hands[s, ends[s, i] : ends[s, i + 1]], hand)
                assert (own[s, hand] == i).all()


@pytest.mark.parametrize("size", [1, 5, 40])
def test_independent_deals_deal_the_same_hands(size):
    deals = [Full(3), *(Bernoulli(3, p) for p in (0.01, 0.5, 1 / 3, 1.0))]
    deals += [RandQ(3, q) for q in {1, (size + 1) // 2, size}]
    for deal in deals:
        for i in range(3):
            law = plans.law(deal, size)
            deck = plans.deck(len(SEEDS), size, law)
            draws.deal_alone(started(*SEEDS), 4, i, law, deck)
            hands, ends = deck.hands.reshape(-1, size), deck.ends.reshape(-1, 2)
            for s, seed in enumerate(SEEDS):
                held = deal.hands(size, seed=seed, k=4)[i]
                np.testing.assert_array_equal(hands[s, : ends[s, 1]], held)


def test_a_large_deck_rejects_the_same_words():
    """Of 60,000 words about 0.4 are rejected, so of six decks some hold a word drawn twice."""
    size, seeds = 60_000, range(6)
    rejections = 0
    for seed in seeds:
        swaps = np.zeros(size, dtype=np.uint32)
        start = keys.key(seed)
        draws.draw_swaps(np.uint64(start), size, swaps)
        stream = CountedWords(start)
        drawn = [keys.below(stream, i + 1) for i in range(size - 1, 0, -1)][::-1]
        rejections += stream.count - (size - 1)
        np.testing.assert_array_equal(swaps[: size - 1], drawn)
    assert rejections > 0


class CountedWords:
    def __init__(self, start):
        self.stream, self.count = keys.words(start), 0

    def __next__(self):
        self.count += 1
        return next(self.stream)


def test_code_is_compiled_without_a_cache_where_none_can_be_written():
    """Numba finds no folder for code that comes from no file, as where no folder is writable."""
    scope = {}
    exec(compile("def twice(x):\n    return 2 * x", "<no file>", "exec"), scope)
    assert streams.compiled(scope["twice"])(21) == 42
