"""Models that are odd: tied and repeated weights, control flow, constants of several kinds."""

import torch
import torch.nn.functional as F
from torch import nn


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder transposed, with a layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(16, 10) * 0.3), nn.Parameter(torch.zeros(10))
        self.m = nn.Linear(16, 16)

    def forward(self, x):
        h = F.relu(F.linear(x, self.w))
        h = h + F.relu(self.m(h))
        h = h + F.relu(self.m(h))
        return h @ self.w + self.b


class Branching(nn.Module):
    """Control flow on a value: no graph of it can be exported."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x):
        h = torch.sigmoid(self.a(x))
        if x.sum().item() > 1e6:
            h = -h
        return self.b(h)


class PlainTensor(nn.Module):
    """A constant that is an attribute, neither a parameter nor a buffer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)
        self.slopes = torch.linspace(0.5, 1, 12)

    def forward(self, x):
        return self.c(F.relu(self.b(self.slopes * F.relu(self.a(x)))))


class Alibi(nn.Module):
    """A buffer with one entry a unit: it has to be cut with its neurons."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)
        self.register_buffer("slopes", torch.linspace(0.5, 1, 12))

    def forward(self, x):
        return self.b(self.slopes * torch.sigmoid(self.a(x)))
