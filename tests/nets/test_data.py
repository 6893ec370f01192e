"""Shards and batches: disjoint, complete, keyed."""

import gzip
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from subnetwork import Perm, files
from subnetwork.nets import MLP, SGD, Batches, LocalSteps, NetSketch, initial_state, load
from subnetwork.nets.data import GraphBatches, GraphSet, batches_of
from subnetwork.nets.data import graph as load_graph
from subnetwork.nets.data.graphs import clusters, mean, symmetric
from subnetwork.nets.data.sets import Scaled


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


def test_a_round_longer_than_an_epoch_learns_from_every_row():
    """The released IST learns nothing where an epoch is shorter than a round."""
    network = MLP(3, (4,), 2)
    rows, targets = torch.randn(10, 3), torch.arange(10) % 2
    feed = Batches(rows, targets, n_workers=2, batch_size=2, seed=0)
    local = LocalSteps(network, feed, SGD(0.1), n_steps=9)  # an epoch of a worker has 2.5 steps
    w = NetSketch(network.layout, Perm(2)).sample(0, 0).select(initial_state(network, seed=0), 1)
    z = local(0, 1, w)
    assert z.n_steps == 9
    assert not torch.equal(z.params["0.weight"], w.params["0.weight"])
    read = torch.cat([feed.rows(1, step) for step in local.steps(0)]).bincount(minlength=10)
    assert sorted(read[feed.shard(1)].tolist()) == [3, 3, 4, 4, 4]


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
    with pytest.raises(ValueError, match=r"no data set 'digit'\. Known are: digits.*join\.md"):
        load("digit")


def test_workers_read_the_parts_they_are_given_and_no_other_row():
    parts = [torch.arange(0, 9).numpy(), torch.arange(9, 11).numpy()]
    inputs = torch.arange(11.0)[:, None]
    feed = Batches(inputs, torch.arange(11), 2, 4, 0, parts)
    for worker, part in enumerate(parts):
        read = torch.cat([feed.rows(worker, step) for step in range(9)])
        assert set(read.tolist()) == set(part.tolist())
    assert len(feed.rows(1, 0)) == 2  # a worker with fewer rows than a batch reads them all
    with pytest.raises(
        ValueError, match=r"Worker 1 has 1 rows .* wants two at least.*larger alpha"
    ):
        Batches(inputs, torch.arange(11), 2, 4, 0, [parts[0], parts[1][:1]])
    lone = Batches(inputs, torch.arange(11), 2, 4, 0, [parts[0], parts[1][:1]], least=1)
    assert lone.rows(1, 3).tolist() == [9]
    with pytest.raises(ValueError, match=r"Worker 1 has 0 rows .* trains on one at least"):
        Batches(inputs, torch.arange(11), 2, 4, 0, [parts[0], parts[1][:0]], least=1)


def test_a_map_style_dataset_gives_the_batches_of_its_arrays():
    class Squares(torch.utils.data.Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            return torch.tensor([float(i)]), i**2

    options = {"n_workers": 2, "batch_size": 5, "seed": 3}
    pair = (torch.arange(20.0)[:, None], torch.arange(20) ** 2)
    lazily, arrays = batches_of(Squares(), **options), batches_of(pair, **options)
    for worker in range(2):
        for one, other in zip(lazily.batch(worker, 3), arrays.batch(worker, 3), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(torch.cat(list(lazily.stream(7))), pair[0])


def test_validation_rows_are_training_rows_that_are_not_trained_on():
    data = load("digits")
    held = data.validating(0)
    assert len(held.train_inputs) + len(held.test_inputs) == len(data.train_inputs)
    whole = {tuple(row.tolist()) for row in data.train_inputs}
    kept = {tuple(row.tolist()) for row in held.train_inputs}
    tried = {tuple(row.tolist()) for row in held.test_inputs}
    assert kept | tried == whole
    assert not kept & tried


def test_clusters_are_a_partition_and_a_batch_is_an_induced_graph():
    rng = np.random.default_rng(0)
    edges = np.triu(rng.random((30, 30)) < 0.1, 1)
    whole = (edges | edges.T).astype(np.float32)
    pieces = clusters(csr_array(whole), 4)
    assert sorted(np.concatenate(pieces).tolist()) == list(range(30))
    graph = GraphSet(
        "g", csr_array(np.eye(30, dtype=np.float32)), csr_array(whole), torch.arange(30) % 2,
        torch.arange(10), torch.arange(10, 12), torch.arange(12, 30), 2,
    )  # fmt: skip
    parts = [np.arange(0, 10, 2), np.arange(1, 10, 2)]
    feed = GraphBatches(graph, mean, parts, 0, n_clusters=4, per_batch=2)
    for worker in range(2):
        seen = []
        for step in range(2):  # an epoch
            (features, operator), targets = feed.batch(worker, step)
            nodes = features.to_dense().argmax(1)
            inside = torch.as_tensor(whole[nodes][:, nodes])
            expected = inside / inside.sum(1, keepdim=True).clamp(min=1)
            torch.testing.assert_close(operator.to_dense(), expected)
            seen += nodes[targets >= 0].tolist()
            assert feed.samples(worker, step) == (targets >= 0).sum()
        assert sorted(seen) == parts[worker].tolist()  # each once, and no other's


def test_operators_are_those_of_the_papers():
    a = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)
    looped = a + np.eye(3)
    root = np.diag(looped.sum(1) ** -0.5)
    np.testing.assert_allclose(symmetric(csr_array(a)).toarray(), root @ looped @ root, rtol=1e-6)
    np.testing.assert_allclose(mean(csr_array(a)).toarray(), a / a.sum(1, keepdims=True))


def test_idx_files_are_read_and_a_cut_one_is_refused(tmp_path):
    pixels = bytes(range(12))
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (3, 2, 2))
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header + pixels))
    assert files.idx(path).tolist() == np.arange(12).reshape(3, 2, 2).tolist()
    path.write_bytes(gzip.compress(header + pixels[:-1]))
    with pytest.raises(ValueError, match="announces 12 bytes of entries, 11 follow"):
        files.idx(path)
    path.write_bytes(gzip.compress(b"hello"))
    with pytest.raises(ValueError, match="it begins with 68 65 6c 6c"):
        files.idx(path)


def test_a_file_that_is_not_there_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv(files.VARIABLE, raising=False)
    with pytest.raises(ValueError, match=r"SUBNETWORK_DATA is not set.*cora\.npz"):
        load_graph("cora")
    monkeypatch.setenv(files.VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=r"no file cora\.npz.*Put 2708 nodes there"):
        load_graph("cora")


def test_bytes_are_scaled_where_they_are_while_a_network_is_made_without_memory():
    """A plain network is built on the meta device; the rows that show it their shape are here."""
    rows = torch.full((2, 3, 1, 1), 51, dtype=torch.uint8)
    with torch.device("meta"):
        scaled = Scaled((0.0, 0.1, 0.2), (1.0, 2.0, 0.5))(rows)
    assert (
        scaled.flatten(1).tolist() == [[pytest.approx(v, abs=1e-6) for v in (0.2, 0.05, 0.0)]] * 2
    )


HERE = pytest.mark.skipif(not os.environ.get("SUBNETWORK_DATA"), reason="needs the data folder")


@HERE
@pytest.mark.parametrize(("name", "score"), [("cora", 0.811), ("citeseer", 0.721)])
def test_sgc_scores_what_is_known_of_a_graph(name, score):
    """Two steps of the normalised adjacency and logistic regression: features, edges, split."""
    from sklearn.linear_model import LogisticRegression

    graph = load_graph(name)
    operator = symmetric(graph.adjacency)
    x = (operator @ (operator @ graph.features)).toarray()
    y = graph.targets.numpy()
    fit = LogisticRegression(C=100, max_iter=300).fit(x[graph.train], y[graph.train])
    assert abs(fit.score(x[graph.test_nodes], y[graph.test_nodes]) - score) < 0.015


@HERE
def test_shakespeare_scores_what_is_known_of_its_bigrams():
    data = load("tinyshakespeare")
    counts = torch.ones(65, 65)
    pairs = data.train_inputs.flatten() * 65 + data.train_targets.flatten()
    counts += torch.bincount(pairs, minlength=65 * 65).reshape(65, 65)
    bits = -(counts / counts.sum(1, keepdim=True)).log2()
    assert abs(bits[data.test_inputs, data.test_targets].mean() - 3.583) < 0.01


@pytest.mark.parametrize("there", [True, False])
def test_digits_are_those_of_scikit_learn_without_importing_it(there, monkeypatch):
    from sklearn.datasets import load_digits

    from subnetwork.nets.data import pictures

    if not there:
        monkeypatch.setattr(pictures, "find_spec", lambda _: None)
    pixels, labels = pictures._digits()
    bunch = load_digits()
    assert np.array_equal(pixels, bunch.data)
    assert np.array_equal(labels, bunch.target)


def test_a_worker_of_a_plain_network_imports_neither_scipy_nor_scikit_learn():
    code = """
import sys
from subnetwork.methods import Training
from subnetwork.methods.worker import build
build(Training(workers=2).to_json())
print([name for name in ("scipy", "sklearn", "numba", "matplotlib") if name in sys.modules])
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
