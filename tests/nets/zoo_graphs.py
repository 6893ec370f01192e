"""Models of graphs: dense, sparse, by edges."""

import torch
import torch.nn.functional as F
from torch import nn


def neighbours(n=20):
    generator = torch.Generator().manual_seed(0)
    a = (torch.rand(n, n, generator=generator) < 0.2).float() + torch.eye(n)
    return a / a.sum(1, keepdim=True)


class GCN(nn.Module):
    def __init__(self, a, d=10, h=16, c=4):
        super().__init__()
        self.register_buffer("a", a)
        self.l1, self.l2, self.l3 = nn.Linear(d, h), nn.Linear(h, h), nn.Linear(h, c)

    def forward(self, x):
        return self.a @ self.l3(F.relu(self.a @ self.l2(F.relu(self.a @ self.l1(x)))))


class SparseGCN(GCN):
    def forward(self, x):
        for layer in (self.l1, self.l2):
            x = F.relu(torch.sparse.mm(self.a, layer(x)))
        return torch.sparse.mm(self.a, self.l3(x))


class EdgeGCN(nn.Module):
    """Message passing by an edge list, as graph libraries do it."""

    def __init__(self, d=10, h=16, c=4):
        super().__init__()
        self.l1, self.l2 = nn.Linear(d, h), nn.Linear(h, c)

    def forward(self, x, edges):
        for layer in (self.l1, self.l2):
            y = layer(x)
            index = edges[1][:, None].expand(-1, y.shape[1])
            x = F.relu(torch.zeros_like(y).scatter_add(0, index, y.index_select(0, edges[0])))
        return x


class SAGE(nn.Module):
    """GIST's network: a node beside its neighbours' mean, normalised over the features."""

    def __init__(self, a, d=10, h=16, c=4):
        super().__init__()
        self.register_buffer("a", a)
        self.l1, self.l2, self.l3 = nn.Linear(2 * d, h), nn.Linear(2 * h, h), nn.Linear(2 * h, c)
        self.norm = nn.LayerNorm(h)

    def forward(self, x):
        x = F.relu(self.l1(torch.cat([x, self.a @ x], 1)))
        x = self.norm(F.relu(self.l2(torch.cat([x, self.a @ x], 1))))
        return self.l3(torch.cat([x, self.a @ x], 1))
