"""Splits give each row to one worker and each worker a row, or say why they cannot."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from subnetwork.splits import by_client, by_label, consecutive, dirichlet, iid
from subnetwork.theory.problems import split
from subnetwork.theory.table import Table


def is_a_partition(parts, m, n):
    assert len(parts) == n
    assert all(len(rows) and (np.diff(rows) > 0).all() for rows in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(m))


def sizes(parts):
    return [len(rows) for rows in parts]


@given(n=st.integers(1, 8), more=st.integers(0, 40), seed=st.integers(0, 2**64 - 1))
def test_even_splits_are_partitions_into_equal_shares(n, more, seed):
    m = n + more
    labels = np.arange(m) * 7 % 3.0
    for parts in (consecutive(m, n), iid(m, n, seed=seed), by_label(labels, n)):
        is_a_partition(parts, m, n)
        assert max(sizes(parts)) - min(sizes(parts)) <= 1


@given(n=st.integers(1, 6), alpha=st.floats(0.5, 100), seed=st.integers(0, 2**32 - 1))
def test_dirichlet_is_a_partition_or_refuses(n, alpha, seed):
    labels = np.arange(120) % 4.0
    try:
        parts = dirichlet(labels, n, alpha=alpha, seed=seed)
    except ValueError as reason:
        assert "without a row" in str(reason)  # noqa: PT017
        return
    is_a_partition(parts, 120, n)


def test_dirichlet_draws_until_every_worker_has_a_row():
    """The first draw of seeds 1, 13 and 19 leaves one without (one draw in ten does here)."""
    labels = np.arange(100) % 5.0
    for seed in range(20):
        is_a_partition(dirichlet(labels, 8, alpha=0.3, seed=seed), 100, 8)


@given(clients=st.lists(st.integers(-3, 9), min_size=1, max_size=30))
def test_clients_keep_their_rows(clients):
    parts = by_client(clients)
    is_a_partition(parts, len(clients), len(set(clients)))
    for client, rows in zip(sorted(set(clients)), parts, strict=True):
        assert [clients[row] for row in rows] == [client] * len(rows)


def test_sorted_by_label_gives_few_labels_to_each_worker():
    labels = np.random.default_rng(0).integers(0, 10, 500).astype(float)
    parts = by_label(labels, 10)
    assert max(len(np.unique(labels[rows])) for rows in parts) <= 3
    assert min(len(np.unique(labels[rows])) for rows in iid(500, 10, seed=0)) > 3


def test_alpha_is_a_dial_from_one_label_to_all():
    labels = np.arange(4000) % 4.0

    def unevenness(alpha):
        parts = dirichlet(labels, 4, alpha=alpha, seed=3)
        counts = [[(labels[rows] == label).sum() for label in range(4)] for rows in parts]
        return np.std(counts)

    assert unevenness(1000.0) < 50 < unevenness(0.3)


def test_dirichlet_shares_have_the_mean_and_variance_of_the_law():
    """Share of a label: mean 1/n, variance (1/n)(1 - 1/n) / (n alpha + 1); 400 splits."""
    labels, alpha, n = np.zeros(1000), 2.0, 3
    shares = np.array([sizes(dirichlet(labels, n, alpha=alpha, seed=seed)) for seed in range(400)])
    law = (1 / n) * (1 - 1 / n) / (n * alpha + 1)
    assert abs(shares.mean(axis=0) / 1000 - 1 / n).max() < 4 * np.sqrt(law / 400)
    np.testing.assert_allclose(shares.var(axis=0) / 1e6, law, rtol=0.3)


def test_random_splits_are_frozen():
    """A seed names the same split for ever; change these numbers with a note in the changelog."""
    assert [rows.tolist() for rows in iid(9, 3, seed=1)] == [[2, 6, 8], [1, 3, 5], [0, 4, 7]]
    parts = dirichlet(np.arange(12) % 2.0, 3, alpha=1.0, seed=0)
    assert [rows.tolist() for rows in parts] == [[0], [1, 2, 3, 4, 5, 7, 11], [6, 8, 9, 10]]


def test_seeds_and_labels_matter():
    labels = np.arange(60) % 2.0
    one, other = (dirichlet(labels, 3, alpha=1.0, seed=seed) for seed in (5, 6))
    assert sizes(one) != sizes(other) or any(
        (a != b).any() for a, b in zip(one, other, strict=True)
    )
    assert any((a != b).any() for a, b in zip(iid(60, 3, seed=5), iid(60, 3, seed=6), strict=True))


def test_splits_by_name():
    table = Table(np.ones((8, 1)), np.ones(8), np.arange(8) % 2.0)
    options = {"alpha": 50.0, "seed": 2}
    assert split(table, 2, how="rows", **options)[0].tolist() == [0, 1, 2, 3]
    assert split(table, 2, how="label", **options)[0].tolist() == [0, 2, 4, 6]
    for how in ("iid", "dirichlet"):
        is_a_partition(split(table, 2, how=how, **options), 8, 2)
    with pytest.raises(ValueError, match=r"no split 'random'\. Known splits: rows, iid, label"):
        split(table, 2, how="random", **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iid(3, 4, seed=0), r"3 rows .* n_workers=4.* Use 1 to 3 workers"),
        (lambda: consecutive(3, 0), r"n_workers=0"),
        (lambda: by_label(np.ones(2), 3), r"2 rows .* n_workers=3"),
        (lambda: dirichlet(np.ones(2), 3, alpha=1.0, seed=0), r"2 rows .* n_workers=3"),
        (lambda: dirichlet(np.ones(5), 2, alpha=0.0, seed=0), r"alpha=0.0 .* such as 0.5"),
        (
            lambda: dirichlet(np.ones(50), 9, alpha=0.01, seed=0),
            r"alpha=0.01 leaves \d of 9 workers without a row, .* Use alpha=1 or more",
        ),
        (
            lambda: dirichlet(np.arange(101.0), 2, alpha=1.0, seed=0),
            r"101 different labels, .* Split iid",
        ),
        (lambda: by_client([]), r"Client ids of shape \(0,\)"),
    ],
)
def test_splits_that_cannot_be_say_what_works(make, message):
    with pytest.raises(ValueError, match=message):
        make()
