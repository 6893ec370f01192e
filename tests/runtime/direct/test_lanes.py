"""Sixteen entries at a time: picked out and put in as numpy does it."""

import numpy as np
import pytest
from numba import njit

from subnetwork.runtime.direct.lanes import compress, count_bits, expand
from subnetwork.runtime.direct.rows import put_word, take_word


@njit
def picked(chosen, source, s, into, t):
    compress(into, t, source, s, chosen)
    return count_bits(chosen)


@njit
def put(chosen, source, s, into, t):
    expand(into, t, source, s, chosen)


@njit
def word_out(word, source, into, t):
    return take_word(word, source, 0, into, t)


@njit
def word_in(word, source, s, into):
    return put_word(word, into, 0, source, s)


def bits_of(word, n):
    return np.array([word >> i & 1 for i in range(n)], bool)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("word", [0, 1, 0x8000, 0xFFFF, 0x5AF1])
def test_entries_of_bits_that_are_set_and_no_others(dtype, word):
    rng, chosen = np.random.default_rng(word), bits_of(word, 16)
    source = rng.integers(0, 250, 40).astype(dtype)
    into = np.full(40, 251, dtype)
    n = picked(np.uint64(word), source, 3, into, 5)
    assert n == chosen.sum()
    expected = np.full(40, 251, dtype)
    expected[5 : 5 + n] = source[3:19][chosen]
    np.testing.assert_array_equal(into, expected)

    into, expected = np.full(40, 251, dtype), np.full(40, 251, dtype)
    put(np.uint64(word), source, 7, into, 11)
    expected[11:27][chosen] = source[7 : 7 + n]
    np.testing.assert_array_equal(into, expected)


@pytest.mark.parametrize("word", [0, 1, 1 << 63, (1 << 64) - 1, 0xF00D_0000_BEEF_1234])
def test_words_go_out_and_come_back(word):
    """Nothing before or after is touched, at the very ends of the arrays either."""
    source, chosen = np.arange(64, dtype=np.int32), bits_of(word, 64)
    out = np.full(int(chosen.sum()) + 2, -1, np.int32)
    assert word_out(np.uint64(word), source, out, 1) == 1 + chosen.sum()
    np.testing.assert_array_equal(out, [-1, *source[chosen], -1])
    back = np.full(64, -2, np.int32)
    assert word_in(np.uint64(word), out, 1, back) == 1 + chosen.sum()
    np.testing.assert_array_equal(back, np.where(chosen, source, -2))
