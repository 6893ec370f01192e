"""Shards and batches: disjoint, complete, keyed."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subnetwork.nets import Batches, load


def batches(rows=50, n_workers=3, batch_size=7, seed=0):
    inputs = torch.arange(rows, dtype=torch.float32)[:, None]
    return Batches(inputs, torch.arange(rows), n_workers, batch_size, seed)


@given(rows=st.integers(12, 60), n_workers=st.integers(1, 5), seed=st.integers(0, 2**63))
def test_shards_are_disjoint_and_cover_the_rows(rows, n_workers, seed):
    stream = batches(rows, n_workers, 2, seed)
    shards = torch.cat([stream.shard(i) for i in range(n_workers)])
    assert sorted(shards.tolist()) == list(range(rows))


@given(seed=st.integers(0, 2**63), step=st.integers(0, 1000))
def test_two_workers_never_see_the_same_batch(seed, step):
    """The released IST gives every worker the identical batches."""
    stream = batches(seed=seed)
    seen = [set(stream.rows(i, step).tolist()) for i in range(3)]
    assert not any(a & b for a, b in pairwise(seen + seen[:1]))


def test_every_row_is_read_once_an_epoch_and_none_is_dropped():
    """The released IST drops the tail of every epoch."""
    stream = batches(rows=50, n_workers=3, batch_size=7)
    for worker in range(3):
        size = len(stream.shard(worker))
        read = torch.cat([stream.rows(worker, step) for step in range(size)])  # 7 epochs
        for epoch in read.split(size):
            assert sorted(epoch.tolist()) == stream.shard(worker).tolist()


def test_epochs_come_in_different_orders():
    stream = batches(rows=42, n_workers=1, batch_size=42)
    assert stream.rows(0, 0).tolist() != stream.rows(0, 1).tolist()


def test_inputs_and_targets_stay_together():
    inputs, targets = batches().batch(2, 5)
    assert inputs[:, 0].tolist() == targets.tolist()


def test_a_batch_larger_than_a_shard_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=17 .* shard of 16 rows .* from 1 to 16"):
        batches(rows=50, n_workers=3, batch_size=17)


def test_digits_are_split_without_overlap():
    data = load("digits", 3)
    assert len(data.train_inputs) + len(data.test_inputs) == 1797
    assert data.train_inputs.max() <= 1
    other = load("digits", 4)
    assert not torch.equal(data.test_targets, other.test_targets)


def test_an_unknown_data_set_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no data set 'digit'\. Known are: digits"):
        load("digit")
