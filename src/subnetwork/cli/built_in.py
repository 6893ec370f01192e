"""The built-in networks of `subnetwork plan`: at sizes as in use, on inputs that are made up."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import nn

from subnetwork.nets.data import DataSet, GraphBatches, GraphSet, text_set
from subnetwork.nets.models import MODELS, Sizes, network

__all__ = ["MODELS", "built_in"]

SIZES: Mapping[str, Sizes] = {
    "mlp": Sizes(hidden=(1024, 1024)),
    "relu": Sizes(hidden=(4096,)),
    "resnet": Sizes(width=64),  # ResNet-18's
    "gpt": Sizes(width=256, heads=8, blocks=4),
    "gat": Sizes(heads=8),
}
BATCH = {"mlp": 64, "relu": 64, "resnet": 8, "gpt": 16}


def built_in(name: str) -> tuple[nn.Module, object]:
    """The network and a batch for it: pictures, text, or a graph of the size of a batch."""
    data = READS.get(name, _graph)()
    net = network(name, SIZES.get(name, Sizes(norm="none")), data, seed=0)
    if isinstance(data, GraphSet):
        assert net.operator is not None
        return net.model, GraphBatches(data, net.operator, [np.arange(1)], seed=0).example()
    inputs = data.flat().train_inputs if net.flat else data.train_inputs
    return net.model, inputs[: BATCH[name]]


def _pictures(channels: int, side: int) -> DataSet:
    draw = torch.Generator().manual_seed(0)
    pictures = torch.rand(64, channels, side, side, generator=draw)
    targets = torch.arange(64) % 10
    return DataSet("pictures", pictures, targets, pictures, targets, n_classes=10)


def _text() -> DataSet:
    """65 characters, as Tiny Shakespeare has, in rows of 64."""
    return text_set("text", "".join(map(chr, range(32, 97))) * 20)


def _graph() -> GraphSet:
    """Nodes with as many features and classes as Cora's, four neighbours each, on a ring."""
    n = 256
    links = np.arange(n)[:, None] + np.array([-2, -1, 1, 2])
    adjacency = np.zeros((n, n), np.float32)
    adjacency[np.arange(n)[:, None], links % n] = 1
    features = (np.random.default_rng(0).random((n, 1433)) < 0.0127).astype(np.float32)
    nodes = torch.arange(n)
    return GraphSet(
        "graph", csr_array(features), csr_array(adjacency), nodes % 7, nodes, nodes, nodes, 7
    )


READS: Mapping[str, Callable[[], DataSet]] = {
    "mlp": lambda: _pictures(1, 28),
    "relu": lambda: _pictures(1, 28),
    "resnet": lambda: _pictures(3, 32),
    "gpt": _text,
}
"""What a network reads; what is not named here reads a graph."""
