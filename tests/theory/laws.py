"""Laws of sketches, each written once; `test_sketches.py` says which sketch keeps which."""

import numpy as np

from subnetwork.theory.enumeration import every_draw


def covers(sketch):
    """mean_i C_i = I in every round: perfect reconstruction."""
    for partition in every_draw(sketch):
        np.testing.assert_allclose(partition.scale.mean(axis=0), 1, rtol=1e-14)


def is_unbiased(sketch):
    """E C_i = I for every worker."""
    mean = np.mean([partition.scale for partition in every_draw(sketch)], axis=0)
    np.testing.assert_allclose(mean, 1, rtol=1e-12)


def is_disjoint(sketch):
    """Nobody shares a coordinate, and each is held by someone."""
    for partition in every_draw(sketch):
        assert ((partition.scale != 0).sum(axis=0) == 1).all()


def draws_what_it_says(sketch, seed=3, k=5):
    """`sample` puts the declared scales where the deal's hands are, and nothing elsewhere."""
    _, d = sketch.scales.shape
    partition = sketch.sample(seed, k)
    for i, hand in enumerate(sketch.deal.hands(d, seed=seed, k=k)):
        np.testing.assert_array_equal(partition.hands[i], hand)
        expected = np.zeros(d)
        expected[hand] = sketch.scales[i, hand]
        np.testing.assert_array_equal(partition.scale[i], expected)


def work_that_does_nothing_changes_nothing(sketch, merge, x):
    """merge(select(x)) = x: cutting a model and putting it together loses nothing."""
    for k in range(20):
        partition = sketch.sample(0, k)
        untouched = [partition.select(x, i) for i in range(partition.n_workers)]
        np.testing.assert_allclose(merge(x, partition, untouched), x, rtol=1e-14)
