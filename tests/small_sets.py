"""Small data sets in the place of those that are read from files."""

import numpy as np
import torch
from scipy.sparse import csr_array

from subnetwork.methods import tasks
from subnetwork.nets.data import DATA, DataSet, GraphSet, text_set


def given(monkeypatch):
    """cifar10 has 60 pictures, tinyshakespeare a line, a graph 40 nodes, until the test ends."""
    pictures, labels = torch.rand(60, 3, 8, 8), torch.arange(60) % 10
    few = DataSet("cifar10", pictures[:40], labels[:40], pictures[40:], labels[40:], 10)
    text = text_set("tinyshakespeare", "to be or not to be, " * 60, length=8)
    for data in (few, text):
        monkeypatch.setitem(DATA, data.name, lambda _, data=data: data)
    monkeypatch.setattr(tasks, "graph", few_nodes)


def few_nodes(name, seed, n=40):
    """A graph at random, whose features tell the classes."""
    rng = np.random.default_rng(seed % 7)
    edges = np.triu(rng.random((n, n)) < 0.15, 1)
    targets, nodes = torch.arange(n) % 3, torch.arange(n)
    features = np.eye(3, dtype=np.float32)[targets] + rng.random((n, 3)).astype(np.float32)
    return GraphSet(
        name, csr_array(features), csr_array((edges | edges.T).astype(np.float32)), targets,
        nodes[:12], nodes[12:20], nodes[20:], 3,
    )  # fmt: skip
