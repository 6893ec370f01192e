"""A run with its data and its network: what every method of one seed shares."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from subnetwork import splits
from subnetwork.keys import DATA, INIT
from subnetwork.methods.training import Training
from subnetwork.nets import (
    MLP,
    Architecture,
    Batches,
    DataSet,
    ModelState,
    decompose,
    initial_state,
)
from subnetwork.nets.data import GraphBatches, GraphSet, Inputs, graph, load
from subnetwork.nets.data.graphs import GRAPHS
from subnetwork.nets.evaluate import Scores, scores
from subnetwork.nets.losses import Loss
from subnetwork.nets.models import Network, Sizes, network
from subnetwork.splits import Parts

ENOUGH = 4096  # rows give batch statistics to a percent; every layer takes a pass over them
ENOUGH_PICTURES = 1024  # whose many places count; in one batch, they take one pass

AnyData: TypeAlias = DataSet | GraphSet
AnyBatches: TypeAlias = Batches | GraphBatches
OPTIONS: Mapping[str, Mapping[str, Any]] = {"resist": {"width": (), "depth": True}}
"""Methods that cut something else than width: what they hand to `decompose`."""


@dataclass(frozen=True)
class Task:
    """A run with its data and its network: what every method of one seed shares."""

    run: Training
    data: AnyData
    architecture: Architecture
    batches: AnyBatches
    loss: Loss

    def samples(self, worker: int, steps: range) -> int:
        """Rows of data (of a graph: training nodes) that a worker reads in these global steps."""
        return sum(self.batches.samples(worker, step) for step in steps)

    def start(self, moments: tuple[str, ...] = ()) -> ModelState:
        """x^0, the same for all methods of one seed."""
        return initial_state(self.architecture, seed=self.run.stream(INIT), moments=moments)

    def stream(self) -> Iterator[Inputs]:
        """Training inputs for batch statistics: all, or evenly spaced ones of a large set."""
        if not isinstance(self.batches, Batches):
            return self.batches.stream()
        enough = ENOUGH_PICTURES if self._pictures else ENOUGH
        size = 2 * enough if self._pictures else 1024
        return self.batches.stream(size, every=max(1, self.batches.n_rows // enough))

    def tested(self) -> Iterable[tuple[Inputs, Tensor]]:
        """The test rows (or those that validate) and their targets, in batches."""
        if isinstance(self.batches, GraphBatches):
            return self.batches.test()
        assert isinstance(self.data, DataSet)
        return self.data.test(128 if self._pictures else 1024)  # their activations fit caches

    @property
    def _pictures(self) -> bool:
        """Whether the network reads rows as pictures, which it normalises place by place."""
        return isinstance(self.data, DataSet) and self.data.train_inputs.ndim == 4

    def scores(self, model: nn.Module) -> Scores:
        """Accuracy and loss of the merged model on the test rows (or those that validate)."""
        return scores(model, self.tested(), self.loss)


def task(run: Training) -> Task:
    """Load the data, build the network and cut it.

    Raises:
        ValueError: unknown names, sizes that do not fit, a split that leaves a worker without rows.
    """
    data = (graph if run.data in GRAPHS else load)(run.data, run.stream(DATA))
    data = data.validating(run.stream(DATA)) if run.measure == "validation" else data
    sizes = Sizes(run.hidden, run.width, run.blocks, run.heads, run.dropout, run.norm)
    with torch.device("meta") if _from_shapes(run) else nullcontext():
        net = network(run.model, sizes, data, seed=run.stream(INIT))
    if isinstance(data, DataSet) and net.flat:
        data = data.flat()
    parts = _parts(run, data)
    batches = _feed(run, data, net, parts)
    architecture = _architecture(run, data, net, batches)
    return Task(run, data, architecture, batches, net.loss)


def _feed(run: Training, data: AnyData, net: Network, parts: Parts) -> AnyBatches:
    seed = run.stream(DATA)
    if isinstance(data, GraphSet):
        assert net.operator is not None
        return GraphBatches(data, net.operator, parts, seed, run.clusters, run.clusters_per_batch)
    even = run.split == "iid"  # keeps its own, and refuses a batch that is larger than a shard
    return Batches(
        data.train_inputs,
        data.train_targets,
        run.workers,
        run.batch_size,
        seed,
        None if even else parts,
        data.prepare,
        run.least_rows,
    )


def _architecture(run: Training, data: AnyData, net: Network, batches: AnyBatches) -> Architecture:
    options = OPTIONS.get(run.method, {})
    if run.axes and "width" in options:
        raise ValueError(
            f"{run.method} deals whole blocks and cuts no axis of width, not {list(run.axes)}. "
            "Leave --axes out, or use --method ist."
        )
    if _is_plain(run):
        assert isinstance(data, DataSet)
        inputs = data.train_inputs.shape[1]
        return MLP(inputs, tuple(run.hidden), data.n_classes, run.norm == "batch")
    example = batches.example() if isinstance(batches, GraphBatches) else net.example
    cut = {"width": run.axes or None, **options}
    if not _from_shapes(run):
        return decompose(net.model, example, inexact=net.inexact, **cut).hollow()
    example = tree_map(lambda x: x.to("meta"), example)
    return decompose(net.model, example, inexact=net.inexact, verify=False, **cut)


def _from_shapes(run: Training) -> bool:
    """Whether the network is cut without a single value: no worker ever makes a whole one.

    Tests prove that the plans are those of networks with values, which are proved. A graph's sparse
    matrix has no shapes alone, and whether a block can be left out is seen by its values.
    """
    return run.data not in GRAPHS and run.method not in OPTIONS


def _is_plain(run: Training) -> bool:
    """Whether the network is `MLP`, which is cut without a whole one to trace."""
    plain = run.norm != "layer" and not run.dropout and not run.axes
    return run.model == "mlp" and plain and run.method not in OPTIONS


def _parts(run: Training, data: AnyData) -> Parts:
    """The training rows (of a graph: places among its training nodes) of each worker."""
    n_rows, n, seed = len(data.rows), run.workers, run.stream(DATA)
    match run.split:
        case "shared":
            return [torch.arange(n_rows).numpy()] * n
        case "iid":
            return splits.iid(n_rows, n, seed=seed)
        case "consecutive":
            return splits.consecutive(n_rows, n)
        case "client":
            return _by_client(run, data)
    if data.labels is None:
        raise ValueError(
            f"The rows of {data.name} have no single label to split by. Use --split iid or "
            "consecutive."
        )
    labels = data.labels.numpy().astype(float)
    if run.split == "label":
        return splits.by_label(labels, n)
    return splits.dirichlet(labels, n, alpha=run.alpha, seed=seed)


def _by_client(run: Training, data: AnyData) -> Parts:
    if data.clients is None:
        raise ValueError(
            f"The rows of {data.name} do not say whose they are. Use spoken_digits, or --split iid."
        )
    parts = splits.by_client(data.clients.tolist())
    if len(parts) != run.workers:
        raise ValueError(
            f"{data.name} has {len(parts)} clients for --workers {run.workers}. Use "
            f"--workers {len(parts)}."
        )
    return parts
