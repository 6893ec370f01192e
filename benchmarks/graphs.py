"""Training steps of graph networks: our sparse products beside torch.sparse.mm, in one run.

    SUBNETWORK_DATA=/data python benchmarks/graphs.py

Both ways take the same steps of the same network in turn, on one core; outputs are compared first.
"""

import json
import statistics
import sys
import time
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from subnetwork.nets.data import graph
from subnetwork.nets.data.graphs import GraphSet, as_tensor, mean, symmetric
from subnetwork.nets.models.gnn import GCN, SAGE

CASES = [("citeseer", 128, 60), ("coauthor_physics", 64, 8)]  # data set, width, pairs of steps
NETWORKS = {"gcn": (GCN, symmetric), "sage": (SAGE, mean)}
DROPOUT = (0.5, 0.0)
GOALS = {("coauthor_physics", share): 2.0 for share in DROPOUT}


class ByTorch(nn.Module):
    """The same layers with torch.sparse.mm on coordinates."""

    def __init__(self, network: GCN | SAGE) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """What the network returns."""
        of = self.network
        own = of.own if isinstance(of, SAGE) else [None] * len(of.layers)
        for i, near in enumerate(of.near if isinstance(of, SAGE) else of.layers):
            x = self.dropped(x)
            y = torch.sparse.mm(a, times(x, near))
            x = y if own[i] is None else times(x, own[i]) + y
            if i < len(of.norms):
                x = F.relu(of.norms[i](x))
        return x

    def dropped(self, x: Tensor) -> Tensor:
        """Dropout of what is not zero."""
        share = self.network.dropout
        if not (share and self.training):
            return x
        if not x.is_sparse:
            return F.dropout(x, share)
        values = F.dropout(x.values(), share)
        return torch.sparse_coo_tensor(
            x.indices(), values, x.shape, is_coalesced=True, check_invariants=False
        )


def times(x: Tensor, layer: nn.Linear) -> Tensor:
    """A linear layer on sparse or dense rows."""
    y = (
        torch.sparse.mm(x, layer.weight.t().contiguous())
        if x.is_sparse
        else F.linear(x, layer.weight)
    )
    return y if layer.bias is None else y + layer.bias


def step(model: nn.Module, inputs: tuple[Tensor, Tensor], data: GraphSet, seed: int) -> float:
    """Seconds of one step of Adam on all training nodes."""
    torch.manual_seed(seed)  # the same dropout for both
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    began = time.perf_counter()
    loss = F.cross_entropy(model(*inputs)[data.train], data.labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return time.perf_counter() - began


def main() -> int:
    """Print steps a second both ways, and their ratio."""
    torch.set_num_threads(1)
    results = []
    for (name, width, pairs), kind, share in (
        (case, kind, share) for case in CASES for kind in NETWORKS for share in DROPOUT
    ):
        data, (build, operator) = graph(name), NETWORKS[kind]
        inputs = as_tensor(data.features), as_tensor(operator(data.adjacency))
        torch.manual_seed(0)
        ours = build((inputs[0].shape[1], width, data.n_classes), dropout=share)
        ways = {"ours": ours, "torch": ByTorch(ours)}
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(*inputs), ways["torch"].eval()(*inputs))
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(pairs + 1):
            for way, model in ways.items():
                spent[way].append(step(model.train(), inputs, data, i))
        a_second = {way: 1 / statistics.median(seconds[1:]) for way, seconds in spent.items()}
        ratio = a_second["ours"] / a_second["torch"]
        what = f"{name}, {kind} of {width}, dropout {share:g}"
        print(f"{what}: {a_second['torch']:.1f} -> {a_second['ours']:.1f} steps/s, x {ratio:.2f}")
        goal = GOALS.get((name, share))
        met = None if goal is None else ratio >= goal
        results.append({"name": what, "value": round(ratio, 2), "goal": goal, "met": met})
    for result in results:
        print("RESULT", json.dumps(result))
    return 0 if all(result["met"] is not False for result in results) else 1


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.exit(main())
