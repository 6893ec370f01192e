"""Graphs whose nodes are classified: Planetoid's and Shchur's sets, and batches of clusters."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subnetwork import files
from subnetwork.deals import Hands
from subnetwork.keys import key, shuffled, words
from subnetwork.nets.data.batches import Inputs, in_epochs
from subnetwork.nets.data.sets import Pairs
from subnetwork.nets.losses import IGNORED
from subnetwork.splits import Parts, consecutive

if TYPE_CHECKING:  # scipy takes 0.3 s to import, in every worker, and plain networks do without
    from scipy.sparse import csr_array

WITHOUT = "digits, which comes with scikit-learn"


@dataclass(frozen=True)
class Known:
    """What a file of a graph is known to hold."""

    nodes: int
    features: int
    classes: int
    parts: Mapping[str, int] = field(default_factory=dict)  # nodes of each part of its own split


PLANETOID = {
    "cora": Known(2_708, 1_433, 7, {"train": 140, "val": 500, "test": 1_000}),
    "citeseer": Known(3_327, 3_703, 6, {"train": 120, "val": 500, "test": 1_000}),
}
SHCHUR = {
    "amazon_computers": Known(13_752, 767, 10),
    "coauthor_physics": Known(34_493, 8_415, 5),
}


@dataclass(frozen=True, eq=False)
class GraphSet:
    """One graph with a class for each node, and which nodes are trained, chosen and tested on."""

    name: str
    features: "csr_array[Any]"  # (N, F)
    adjacency: "csr_array[Any]"  # (N, N), symmetric, without self-loops
    targets: Tensor  # (N,), -1 where a node has no class
    train: Tensor
    validation: Tensor
    test_nodes: Tensor
    n_classes: int

    @property
    def rows(self) -> Tensor:
        """The training nodes: what is dealt out to the workers."""
        return self.train

    @property
    def labels(self) -> Tensor:
        """The class of each training node."""
        return self.targets[self.train]

    @property
    def clients(self) -> None:
        """Nodes have no clients."""
        return

    def validating(self, seed: int) -> "GraphSet":
        """The same graph with its validation nodes in the place of the test nodes."""
        del seed
        return replace(self, test_nodes=self.validation)

    def marked(self, nodes: Tensor) -> Tensor:
        """Targets of these nodes; every other node is ignored."""
        targets = torch.full_like(self.targets, IGNORED)
        targets[nodes] = self.targets[nodes]
        return targets


def symmetric(adjacency: "csr_array[Any]") -> "csr_array[Any]":
    """D^-1/2 (A + I) D^-1/2, with D the degrees of A + I (Kipf & Welling 2017)."""
    looped = adjacency + _identity(adjacency.shape[0])
    root = 1 / np.sqrt(looped.sum(axis=1))
    scaled: csr_array[Any] = looped.multiply(root[:, None]).multiply(root[None, :]).tocsr()
    return scaled


def mean(adjacency: "csr_array[Any]") -> "csr_array[Any]":
    """D^-1 A: the mean over a node's neighbours; a node without any has zero (GraphSAGE)."""
    degrees = np.maximum(adjacency.sum(axis=1), 1)
    return adjacency.multiply(1 / degrees[:, None]).tocsr()


def looped(adjacency: "csr_array[Any]") -> "csr_array[Any]":
    """A + I: the edges along which attention looks (GAT)."""
    edges: csr_array[Any] = (adjacency + _identity(adjacency.shape[0])).tocsr()
    return edges


Operator: TypeAlias = Callable[["csr_array[Any]"], "csr_array[Any]"]


@dataclass(frozen=True, eq=False)
class GraphBatches:
    """Every worker's endless batches of one graph.

    Without clusters a batch is the whole graph, in which a worker's own training nodes count. With
    clusters the nodes fall into `n_clusters` groups of near nodes; a batch is the graph induced by
    some of them (cluster sampling: Chiang et al. 2019, as in GIST), and a worker reads the clusters
    epoch after epoch in an order of its own.

    Attributes:
        graph: the nodes.
        operator: the matrix that neighbours are added up with.
        parts: which training nodes are whose, as places in `graph.train`.
        seed: of the order of clusters.
        n_clusters: groups of nodes; 1 is the whole graph.
        per_batch: clusters in a batch.
    """

    graph: GraphSet
    operator: Operator
    parts: Parts
    seed: int
    n_clusters: int = 1
    per_batch: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.per_batch <= self.n_clusters <= len(self.graph.targets):
            raise ValueError(
                f"A batch of {self.per_batch} out of {self.n_clusters} clusters of "
                f"{len(self.graph.targets)} nodes cannot be drawn. Use 1 to n_clusters a batch."
            )

    def batch(self, worker: int, step: int, /) -> tuple[Inputs, Tensor]:
        """(features, operator) of the nodes of the batch, and targets: -100 for others' nodes."""
        nodes = torch.as_tensor(self.parts[worker])
        targets = self.graph.marked(self.graph.train[nodes])
        if self.n_clusters == 1:
            return self._whole, targets
        chosen = self._chosen(worker, step)
        kept = np.sort(np.concatenate([self._clusters[c] for c in chosen]))
        return self._inputs(kept), targets[torch.as_tensor(kept)]

    def samples(self, worker: int, step: int) -> int:
        """Number of the worker's own training nodes in batch `step`: those that count."""
        if self.n_clusters == 1:
            return len(self.parts[worker])
        return sum(int(self._own[worker][c]) for c in self._chosen(worker, step))

    def stream(self) -> Iterator[Inputs]:
        """The whole graph, once."""
        yield self._whole

    def test(self) -> Pairs:
        """The whole graph, in which the test nodes count."""
        yield self._whole, self.graph.marked(self.graph.test_nodes)

    def example(self, size: int = 60) -> Inputs:
        """The inputs of a small part of the graph, for `decompose`."""
        return self._inputs(np.arange(min(size, len(self.graph.targets))))

    @cached_property
    def _whole(self) -> Inputs:
        return as_tensor(self.graph.features), as_tensor(self.operator(self.graph.adjacency))

    def _chosen(self, worker: int, step: int) -> list[int]:
        order = torch.arange(self.n_clusters)
        return in_epochs(order, self.per_batch, key(self.seed, 3), worker, step).tolist()

    @cached_property
    def _own(self) -> list[NDArray[np.int64]]:
        """Of each worker, its training nodes in every cluster."""
        cluster_of = np.empty(len(self.graph.targets), np.int64)
        for c, nodes in enumerate(self._clusters):
            cluster_of[nodes] = c
        train = self.graph.train.numpy()
        of_each = [cluster_of[train[part]] for part in self.parts]
        return [np.bincount(found, minlength=self.n_clusters) for found in of_each]

    @cached_property
    def _clusters(self) -> Hands:
        return clusters(self.graph.adjacency, self.n_clusters)

    def _inputs(self, nodes: NDArray[Any]) -> Inputs:
        inside = self.graph.adjacency[nodes][:, nodes]
        return as_tensor(self.graph.features[nodes]), as_tensor(self.operator(inside))


def clusters(adjacency: "csr_array[Any]", n_clusters: int) -> Hands:
    """Groups of near nodes, of equal sizes: pieces of the reverse Cuthill-McKee order.

    That order puts neighbours close to each other; METIS, which the papers use, finds fewer edges
    between groups, and needs a library.
    """
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    order = reverse_cuthill_mckee(adjacency, symmetric_mode=True)
    pieces = consecutive(len(order), n_clusters)
    return tuple(np.sort(order[piece]).astype(np.int64) for piece in pieces)


def as_tensor(matrix: "csr_array[Any]") -> Tensor:
    """A sparse tensor in coordinate form."""
    entries = matrix.tocoo()
    index = torch.as_tensor(np.stack([entries.row, entries.col]).astype(np.int64))
    values = torch.as_tensor(entries.data.astype(np.float32))
    return torch.sparse_coo_tensor(
        index, values, matrix.shape, is_coalesced=True, check_invariants=False
    )


@lru_cache(maxsize=2)
def planetoid(name: str) -> GraphSet:
    """Cora or Citeseer with the standard split (Yang et al. 2016); features are unit-sum rows."""
    return _graph(name, PLANETOID[name], "planetoid")


@lru_cache(maxsize=2)
def _shchur(name: str) -> GraphSet:
    return _graph(name, SHCHUR[name], "graphs")


def shchur(name: str, seed: int) -> GraphSet:
    """Amazon Computers or Coauthor Physics (Shchur et al. 2018).

    20 nodes of each class train and 30 validate, drawn by the seed; all others test.
    """
    whole = _shchur(name)
    parts: list[list[Tensor]] = [[], [], []]
    for c in range(whole.n_classes):
        nodes = torch.nonzero(whole.targets == c).flatten()
        nodes = nodes[torch.as_tensor(shuffled(len(nodes), words(key(seed, 4, c))))]
        for part, piece in zip(parts, (nodes[:20], nodes[20:50], nodes[50:]), strict=True):
            part.append(piece)
    train, validation, test = (torch.cat(part).sort().values for part in parts)
    return replace(whole, train=train, validation=validation, test_nodes=test)


def _graph(name: str, known: Known, folder: str) -> GraphSet:
    """The graph of a file, with the split that it has; features are unit-sum rows."""
    from scipy.sparse import csr_array

    path = files.found(name, [f"{name}.npz"], [folder], f"{known.nodes} nodes", WITHOUT)
    held = files.npz(path)
    _check(path, held, known)
    values = held.get("x_data", np.ones(len(held["x_indices"]))).astype(np.float32)
    features = csr_array(
        (values, held["x_indices"].astype(np.int64), held["x_indptr"]),
        (known.nodes, known.features),
    )
    sums = np.maximum(features.sum(axis=1), 1e-12)
    edges = held["adj_indices"].astype(np.int64)
    adjacency = csr_array(
        (np.ones(len(edges), np.float32), edges, held["adj_indptr"]), (known.nodes, known.nodes)
    )
    nobody = np.empty(0, np.int64)
    train, validation, test, targets = (
        torch.as_tensor(held.get(array, nobody)).long()
        for array in ("train_idx", "val_idx", "test_idx", "y")
    )
    features = features.multiply(1 / sums[:, None]).tocsr()
    return GraphSet(name, features, adjacency, targets, train, validation, test, known.classes)


def _check(path: Path, held: files.Arrays, known: Known) -> None:
    """Raise ValueError where a file is not the graph that is known by its name."""
    nodes, numbers = known.nodes, files.Numbers
    files.require_arrays(path, held, {"x_shape": numbers((2,)), "y": numbers((None,), least=-1)})
    files.require_rows(path, len(held["y"]), nodes)
    if held["x_shape"].tolist() != [nodes, known.features]:
        raise ValueError(
            f"{path} has features of shape {held['x_shape'].tolist()}, not "
            f"{[nodes, known.features]}: {files.AGAIN}"
        )
    files.require_sparse(path, held, "x_indptr", "x_indices", (nodes, known.features))
    files.require_sparse(path, held, "adj_indptr", "adj_indices", (nodes, nodes))
    parts = {f"{part}_idx": numbers((n,), nodes - 1) for part, n in known.parts.items()}
    values = (
        {"x_data": numbers(held["x_indices"].shape, fractions=True)} if "x_data" in held else {}
    )
    classes = {"y": numbers((nodes,), known.classes - 1, least=-1)}
    files.require_arrays(path, held, {**parts, **values, **classes})
    for part in parts:
        if (held["y"][held[part]] < 0).any():
            raise ValueError(f"{path}: {part!r} names nodes without a class: {files.AGAIN}")


def _identity(n: int) -> "csr_array[Any]":
    from scipy.sparse import csr_array

    return csr_array((np.ones(n, np.float32), np.arange(n), np.arange(n + 1)), (n, n))


GRAPHS: Mapping[str, Callable[[int], GraphSet]] = {
    "cora": lambda _: planetoid("cora"),
    "citeseer": lambda _: planetoid("citeseer"),
    **{name: partial(shchur, name) for name in SHCHUR},
}
