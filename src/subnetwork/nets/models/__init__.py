"""Built-in networks: plain modules by name, each cut by `decompose`.

A name is a function of the data and of the sizes that were asked for; what it returns is all that
a method has to know of the network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from subnetwork.nets import losses
from subnetwork.nets.data import DataSet, GraphSet
from subnetwork.nets.data.graphs import Operator, looped, mean, symmetric
from subnetwork.nets.losses import Loss
from subnetwork.nets.models.gnn import GAT, GCN, SAGE
from subnetwork.nets.models.gpt import GPT
from subnetwork.nets.models.mlp import mlp
from subnetwork.nets.models.relu import MaskedReLU
from subnetwork.nets.models.resnet import ResNet
from subnetwork.nets.seeding import seeded

__all__ = ["GAT", "GCN", "GPT", "MODELS", "SAGE", "MaskedReLU", "Network", "ResNet", "Sizes"]
__all__ += ["mlp", "network"]


@dataclass(frozen=True)
class Sizes:
    """What of a network can be chosen; every network takes from it what it has."""

    hidden: tuple[int, ...] = (256,)  # units of each hidden layer: mlp, relu, gcn, sage, gat
    width: int = 16  # channels of the first stage of resnet; of a token of gpt
    blocks: int = 2  # of each stage of resnet; of gpt
    heads: int = 4  # of gpt and gat
    dropout: float = 0.0
    norm: str = "batch"  # batch, layer or none: between the layers of mlp, gcn, sage, gat


@dataclass(frozen=True, eq=False)
class Network:
    """A module with what training it takes."""

    model: nn.Module
    example: object  # a batch of inputs for `decompose`; None: the graph gives one
    loss: Loss
    operator: Operator | None = None  # how a graph's neighbours are added up
    flat: bool = False  # whether rows are read as vectors
    inexact: bool = False
    """Whether axes are cut whose units meet in a layer normalisation: a part is not the masked
    model then (GIST with LayerNorm)."""


Build: TypeAlias = Callable[[Sizes, DataSet | GraphSet], Network]


def _mlp(sizes: Sizes, data: DataSet | GraphSet) -> Network:
    rows = _rows("mlp", data).flat()
    model = mlp(rows.train_inputs.shape[1], sizes.hidden, rows.n_classes, sizes.norm, sizes.dropout)
    inexact = sizes.norm == "layer"
    return Network(model, _example(rows), _loss(rows), flat=True, inexact=inexact)


def _relu(sizes: Sizes, data: DataSet | GraphSet) -> Network:
    rows = _rows("relu", data).flat()
    neurons = _one_layer("relu", sizes, "mlp")
    model = MaskedReLU(rows.train_inputs.shape[1], neurons, rows.n_classes)
    return Network(model, _example(rows), _loss(rows), flat=True)


def _resnet(sizes: Sizes, data: DataSet | GraphSet) -> Network:
    rows = _rows("resnet", data)
    if rows.train_inputs.ndim != 4:
        raise ValueError(
            f"resnet reads pictures (channels, height, width), and a row of {rows.name} has shape "
            f"{tuple(rows.train_inputs.shape[1:])}. Use cifar10, or --model mlp."
        )
    model = ResNet(rows.train_inputs.shape[1], sizes.width, sizes.blocks, rows.n_classes)
    return Network(model, _example(rows), _loss(rows))


def _gpt(sizes: Sizes, data: DataSet | GraphSet) -> Network:
    rows = _rows("gpt", data)
    if rows.train_inputs.is_floating_point() or rows.train_targets.ndim != 2:
        raise ValueError(
            f"gpt reads text, and {rows.name} is none. Use tinyshakespeare, or --model mlp."
        )
    length = rows.train_inputs.shape[1]
    model = GPT(rows.n_classes, length, sizes.width, sizes.heads, sizes.blocks, sizes.dropout)
    return Network(model, _example(rows), losses.classes)


def _graph(name: str, kind: type[GCN | SAGE], operator: Operator) -> Build:
    def build(sizes: Sizes, data: DataSet | GraphSet) -> Network:
        nodes = _nodes(name, data)
        widths = (nodes.features.shape[1], *sizes.hidden, nodes.n_classes)
        model = kind(widths, sizes.norm, sizes.dropout)
        return Network(model, None, losses.marked, operator, inexact=sizes.norm == "layer")

    return build


def _gat(sizes: Sizes, data: DataSet | GraphSet) -> Network:
    nodes = _nodes("gat", data)
    widths = (nodes.features.shape[1], _one_layer("gat", sizes, "gcn or sage"), nodes.n_classes)
    return Network(GAT(*widths, sizes.heads, sizes.dropout), None, losses.marked, looped)


MODELS: Mapping[str, Build] = {
    "mlp": _mlp,
    "relu": _relu,
    "resnet": _resnet,
    "gpt": _gpt,
    "gcn": _graph("gcn", GCN, symmetric),
    "sage": _graph("sage", SAGE, mean),
    "gat": _gat,
}


def network(name: str, sizes: Sizes, data: DataSet | GraphSet, *, seed: int) -> Network:
    """The network of that name for a data set, initialised by the seed.

    Raises:
        ValueError: an unknown name, with the known ones, a data set that it cannot read, or hidden
            layers that it does not have.
    """
    if name not in MODELS:
        raise ValueError(
            f"There is no model {name!r}. Known are: {', '.join(MODELS)}; a model of your own "
            "trains by `join` (docs/join.md)."
        )
    with seeded(seed):
        return MODELS[name](sizes, data)


def _rows(name: str, data: DataSet | GraphSet) -> DataSet:
    if isinstance(data, GraphSet):
        raise ValueError(
            f"{name} reads rows, and {data.name} is a graph. Use --model gcn, sage or gat."
        )
    return data


def _nodes(name: str, data: DataSet | GraphSet) -> GraphSet:
    if isinstance(data, DataSet):
        raise ValueError(
            f"{name} reads a graph, and {data.name} is none. Use cora, or --model mlp."
        )
    return data


def _one_layer(name: str, sizes: Sizes, deeper: str) -> int:
    """The units of the one hidden layer that a network has."""
    if len(sizes.hidden) != 1:
        raise ValueError(
            f"{name} has one hidden layer, not hidden={sizes.hidden}. Use --hidden and one "
            f"number of units, or --model {deeper}."
        )
    return sizes.hidden[0]


def _loss(rows: DataSet) -> Loss:
    return losses.several if rows.train_targets.is_floating_point() else losses.classes


def _example(rows: DataSet) -> torch.Tensor:
    few = rows.train_inputs[:4]
    return rows.prepare(few) if rows.prepare else few
