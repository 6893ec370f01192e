"""Models of others that once were cut wrongly, or were broken by being looked at."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subnetwork import Full, Perm, decompose
from subnetwork.nets import plan_from


class Attention(nn.Module):
    """Heads in an attribute: parts are exported graphs."""

    def __init__(self):
        super().__init__()
        self.nh, self.qkv, self.o = 4, nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        rows = x.shape[0]
        q, k, v = (
            t.view(rows, -1, self.nh, t.shape[-1] // self.nh).transpose(1, 2)
            for t in self.qkv(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).reshape(rows, -1, 16))


class Folded(Attention):
    """Takes one row only: more are one long row."""

    def forward(self, x):
        return super().forward(x.view(1, 5, 16))


def test_an_exported_part_takes_any_number_of_rows_after_an_example_of_one():
    model = Attention()
    part = decompose(model, torch.randn(1, 5, 16), builder="export").cut(model, deal=Full(1))[0]
    for rows in (1, 3):
        x = torch.randn(rows, 5, 16)
        torch.testing.assert_close(part(x), model(x))


@pytest.mark.parametrize("compiled", [False, True])
def test_sizes_that_the_graph_cannot_take_are_refused(compiled):
    model = Folded()
    plan = decompose(model, torch.randn(1, 5, 16), builder="export")
    part = plan.cut(model, deal=Perm(2))[0]
    run = torch.compile(part, backend="eager") if compiled else part
    assert run(torch.randn(1, 5, 16)).shape == (1, 5, 16)
    with pytest.raises(ValueError, match=r"size 1 at dim 0, not 3: .* two rows or more"):
        run(torch.randn(3, 5, 16))


def test_inputs_that_the_graph_takes_for_equally_long_are_refused_where_they_are_not():
    class Two(Attention):
        def forward(self, x, y):
            return super().forward(x + y)

    model = Two()
    plan = decompose(model, (torch.randn(1, 5, 16), torch.randn(1, 5, 16)), builder="export")
    part = plan.cut(model, deal=Full(1))[0]
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(part(x, x), model(x, x))
    with pytest.raises(ValueError, match="at dim 0, not 1"):
        part(x, x[:1])


@functools.lru_cache
def causal(n):
    return torch.full((n, n), -1e4).triu(1)


class Cached(nn.Module):
    """Has a mask from a cache that it shares with every other model."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        weights = (x @ x.transpose(1, 2) + causal(x.shape[1])).softmax(-1)
        return self.b(F.relu(self.a(weights @ x)))


def test_caches_outside_the_model_hold_real_tensors():
    causal.cache_clear()
    model, x = Cached(), torch.randn(2, 5, 6)
    before = torch.get_rng_state()
    plan = decompose(model, x)
    assert torch.equal(before, torch.get_rng_state())
    assert type(causal(5)) is torch.Tensor
    assert causal(5).device.type == "cpu"
    assert model(x).shape == x.shape
    assert set(plan.layout.sizes.values()) == {8}


def test_so_they_do_where_only_the_export_asks():
    @functools.lru_cache
    def scale(n):
        return torch.full((n,), 2.0)

    class Scaled(Attention):
        def forward(self, x):
            return super().forward(x * scale(self.qkv.in_features))

    model, x = Scaled(), torch.randn(2, 5, 16)
    layout = decompose(model, x, builder="export").layout
    scale.cache_clear()
    plan = plan_from(layout, model, x, builder="export")
    assert type(scale(16)) is torch.Tensor
    assert model(x).shape == plan.cut(model, deal=Perm(2))[0](x).shape
