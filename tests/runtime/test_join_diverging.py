"""`join` where a parameter or a state is no number any more: nothing is merged, all say so."""

import pytest
import torch
from torch import nn

from sessions_in_threads import in_threads
from subnetwork import Perm, decompose
from subnetwork.algorithm import DivergedError
from subnetwork.nets import NetSketch
from subnetwork.runtime.join import Session


@pytest.mark.parametrize("of", ["parameter", "state"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_merged_and_all_ranks_say_whose_it_is(of, value):
    """Of one rank, in its second round: the model is that of the round's start, to the bit."""
    inputs = torch.ones(5, 4)

    def side(rank, session):
        found = None
        with pytest.raises(DivergedError, match=r"In round 1 a parameter.* on rank 1\. Nothing"):
            for sub in session.rounds(3):
                found = session.model(everywhere=True).state_dict()
                optimizer = torch.optim.SGD(sub.parameters(), 0.01, momentum=0.9)
                session.carry(optimizer)
                sub(inputs).square().sum().backward()
                optimizer.step()
                if (rank, session.k) == (1, 1):
                    p = next(sub.parameters())
                    spoilt = p.data if of == "parameter" else optimizer.state[p]["momentum_buffer"]
                    spoilt.view(-1)[0] = value
        return session.k, found, session.model(everywhere=True).state_dict()

    for k, before, after in in_threads(2, side):
        assert k == 1
        assert all(torch.equal(before[name], after[name]) for name in before)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)
        self.mask = nn.Parameter(torch.tensor([0.0, -torch.inf]), requires_grad=False)

    def forward(self, x):
        return torch.exp(self.second(torch.tanh(self.first(x))) + self.mask)


@pytest.mark.parametrize("value", [-torch.inf, torch.inf, torch.nan])
def test_what_was_infinite_before_may_stay_so(value):
    """A mask; but not become another one, or none."""

    def side(rank, session):
        for sub in session.rounds(2):
            sub(torch.ones(5, 4)).square().sum().backward()
            torch.optim.SGD([p for p in sub.parameters() if p.requires_grad], 0.01).step()
            if rank:
                sub.mask.data[1] = value
        return session.model(everywhere=True).mask

    if value == -torch.inf:
        for mask in in_threads(2, side, Masked()):
            assert mask.tolist() == [0.0, -torch.inf]
        return
    with pytest.raises(DivergedError, match="In round 0 .* on rank 1"):
        in_threads(2, side, Masked())


def test_int8_does_not_scale_by_infinity():
    plan = decompose(Masked(), torch.randn(3, 4))
    with pytest.raises(ValueError, match="mask has infinite entries, and int8 .*bfloat16"):
        Session(plan, NetSketch(plan.layout, Perm(2)), 0, "int8", 0, lambda _: None)
