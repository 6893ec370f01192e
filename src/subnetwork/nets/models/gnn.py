"""Graph networks on sparse tensors in plain torch: GCN, GraphSAGE, GAT.

Each is called with the features of all nodes and the sparse matrix of the graph
(`subnetwork.nets.data.graphs`), and returns logits of all nodes.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from subnetwork.nets.models.mlp import between
from subnetwork.nets.models.sparse import Matrix


def times(x: Tensor | Matrix, layer: nn.Module) -> Tensor:
    """The linear layer on sparse or dense rows."""
    assert isinstance(layer, nn.Linear)
    w = layer.weight
    y = F.linear(x, w) if isinstance(x, Tensor) else x.times(w.t())
    return y if layer.bias is None else y + layer.bias


def dropped(x: Tensor, share: float, training: bool) -> Tensor | Matrix:
    """Dropout on sparse or dense rows: of what is not zero."""
    if not x.is_sparse:
        return F.dropout(x, share, training)
    return Matrix.of(x).dropped(share, training)


class GCN(nn.Module):
    """Graph convolutions (Kipf & Welling 2017): A relu(norm(A X W1 + b1)) W2 + b2, any depth."""

    def __init__(self, widths: tuple[int, ...], norm: str = "none", dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList(_Glorot(below, above) for below, above in pairwise(widths))
        self.norms = nn.ModuleList(nn.Sequential(*between(w, norm)) for w in widths[1:-1])

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """Logits (N, C) of features (N, F) under the matrix (N, N)."""
        sums = Matrix.of(a)
        for i, layer in enumerate(self.layers):
            x = sums.times(times(dropped(x, self.dropout, self.training), layer))
            if i < len(self.norms):
                x = F.relu(self.norms[i](x))
        return x


class SAGE(nn.Module):
    """GraphSAGE with the mean (Hamilton et al. 2017): X W + (A X) V, normalised, any depth."""

    def __init__(self, widths: tuple[int, ...], norm: str = "none", dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.own = nn.ModuleList(_Glorot(below, above) for below, above in pairwise(widths))
        self.near = nn.ModuleList(
            _Glorot(below, above, bias=False) for below, above in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.Sequential(*between(w, norm)) for w in widths[1:-1])

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """Logits (N, C) of features (N, F) under the matrix (N, N)."""
        mean = Matrix.of(a)
        for i, (own, near) in enumerate(zip(self.own, self.near, strict=True)):
            rows = dropped(x, self.dropout, self.training)
            x = times(rows, own) + mean.times(times(rows, near))
            if i < len(self.norms):
                x = F.relu(self.norms[i](x))
        return x


class GAT(nn.Module):
    """Graph attention (Velickovic et al. 2018): a layer of several heads, then one of a single."""

    def __init__(self, inputs: int, hidden: int, outputs: int, heads: int, dropout: float) -> None:
        super().__init__()
        if hidden % heads:
            raise ValueError(
                f"hidden={hidden} does not come apart into heads={heads}. Use a multiple of it."
            )
        self.dropout = dropout
        self.first = GATLayer(inputs, heads, hidden // heads)
        self.last = GATLayer(hidden, 1, outputs)

    def forward(self, x: Tensor, a: Tensor) -> Tensor:
        """Logits (N, C) of features (N, F); the matrix says which nodes see which."""
        edges = a.indices()
        x = F.elu(self.first(dropped(x, self.dropout, self.training), edges))
        out: Tensor = self.last(dropped(x, self.dropout, self.training), edges)
        return out


class GATLayer(nn.Module):
    """Heads of one width, each with attention of its own over a node's neighbours."""

    def __init__(self, inputs: int, heads: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.up = _Glorot(inputs, heads * width, bias=False)
        self.target, self.source, self.bias = (
            nn.Parameter(torch.empty(heads, width)) for _ in range(3)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight and the attention vectors; the bias is zero."""
        self.up.reset_parameters()
        nn.init.xavier_uniform_(self.target)
        nn.init.xavier_uniform_(self.source)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor | Matrix, edges: Tensor) -> Tensor:
        """(N, heads * width) of (N, F), along edges (2, E) from row 1 to row 0."""
        h = times(x, self.up).view(x.shape[0], -1, self.width)  # (N, heads, width)
        to, of = (h * self.target).sum(-1), (h * self.source).sum(-1)  # (N, heads)
        logits = F.leaky_relu(to.index_select(0, edges[0]) + of.index_select(0, edges[1]), 0.2)
        weights = (logits - logits.detach().amax(0)).exp()  # (E, heads)
        index = edges[0][:, None].expand_as(weights)
        total = torch.zeros_like(to).scatter_add(0, index, weights)
        shares = weights / total.index_select(0, edges[0])
        seen = shares[:, :, None] * h.index_select(0, edges[1])
        out = torch.zeros_like(h).scatter_add(0, edges[0][:, None, None].expand_as(seen), seen)
        return (out + self.bias).flatten(1)


class _Glorot(nn.Linear):
    """A linear layer that starts as graph networks' do (Glorot & Bengio 2010)."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
