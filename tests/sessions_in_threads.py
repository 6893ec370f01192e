"""Sessions of `join` as threads of this process."""

import torch
from torch import nn

from ranks_in_threads import together
from subnetwork import Perm, decompose
from subnetwork.nets import NetSketch
from subnetwork.runtime.join import Session


def in_threads(n, side, model=None):
    """side(rank, session) of n sessions whose links are those of threads."""
    torch.manual_seed(0)
    hidden = nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()
    plan = decompose(model or nn.Sequential(*hidden, nn.Linear(8, 2)), torch.randn(3, 4))
    sketch = NetSketch(plan.layout, Perm(n))

    def run(place):
        return side(place.rank, Session(plan, sketch, 0, "float32", place.rank, place.links()))

    return together(n, run)
