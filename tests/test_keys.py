"""Streams: frozen first values, and draws that are uniform exactly."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subnetwork.keys import DATA, INIT, NOISE, PARTITION, below, key, mix, shuffled, words

# Frozen: a change here changes every published run.
FIRST_WORDS = {
    PARTITION: [1336947121, 2710320275, 3624628532, 143116121],
    DATA: [807733031, 1896855046, 1802590492, 1215079938],
    INIT: [781505551, 136571581, 138962831, 3644334248],
    NOISE: [107049008, 3367636462, 3880453903, 2296774252],
}


@pytest.mark.parametrize("stream", FIRST_WORDS)
def test_first_words_of_every_stream_are_frozen(stream):
    assert list(islice(words(key(0, stream)), 4)) == FIRST_WORDS[stream]


def test_words_are_those_of_splitmix64():
    # The reference implementation from state 1234567, published with the algorithm.
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert list(islice(words(1234567), 3)) == [value >> 32 for value in reference]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=200, unique=True))
def test_mix_is_injective(values):
    assert len({mix(z) for z in values}) == len(values)


def test_order_and_length_of_a_path_matter():
    paths = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (), (-1,)]
    assert len({key(*path) for path in paths}) == len(paths)


def with_products(m, *lows):
    """Words whose product with m has these values modulo 2**32; m odd."""
    return [low * pow(m, -1, 2**32) % 2**32 for low in lows]


def test_below_rejects_exactly_the_words_that_would_bias_it():
    m = 2**31 + 1  # threshold 2**32 mod m = 2**31 - 1: nearly half of all words are rejected
    threshold = 2**32 % m
    assert threshold == 2**31 - 1
    first_kept, last_rejected = with_products(m, threshold, threshold - 1)
    assert below(iter([first_kept]), m) == first_kept * m >> 32
    assert below(iter([last_rejected, 0xFFFFFFFF]), m) == 0xFFFFFFFF * m >> 32


def test_below_gives_every_value_equally_many_words():
    """Scaled down to 8-bit words the count is exhaustive; here by the same arithmetic on 2**32."""
    for m in (1, 2, 3, 5, 6, 7, 10, 12, 1000):
        threshold = 2**32 % m
        for value in {0, 1 % m, m // 2, m - 1}:
            # words w with value = w m >> 32, less those with (w m mod 2**32) < threshold
            first, end = -(-value * 2**32 // m), -(-(value + 1) * 2**32 // m)
            rejected = sum(
                1 for w in range(first, min(end, first + 2)) if w * m % 2**32 < threshold
            )
            assert end - first - rejected == 2**32 // m


def test_shuffles_of_three_are_equally_likely():
    draws = Counter(tuple(shuffled(3, words(key(seed)))) for seed in range(6000))
    assert len(draws) == 6
    errors = [(count - 1000) / np.sqrt(6000 / 6 * 5 / 6) for count in draws.values()]
    assert max(map(abs, errors)) < 4  # standard errors


@given(size=st.integers(0, 300), seed=st.integers(0, 2**64 - 1))
def test_a_shuffle_is_a_permutation(size, seed):
    assert sorted(shuffled(size, words(key(seed)))) == list(range(size))


@pytest.mark.parametrize(
    ("size", "path"),
    [(1, (7,)), (2, (7,)), (63, (7,)), (5_000, (7,)), (3_000, (7, 3_000, 2122)),
     (5_000, (7, 5_000, 1267)), (40_000, (7, 40_000, 10))],
)  # fmt: skip
def test_a_deck_is_the_same_drawn_at_once_and_word_by_word(size, path):
    """In the last three `below` rejects a word: the first one, the 2107th, the 14381st."""
    at_once, one_by_one = words(key(*path)), words(key(*path))
    assert shuffled(size, at_once) == shuffled(size, (word for word in one_by_one))
    assert next(at_once) == next(one_by_one)
