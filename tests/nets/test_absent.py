"""Every merge, with workers missing, against the definition written out entry by entry."""

import pytest
import torch

from subnetwork.deals import Bernoulli, Full, Perm
from subnetwork.nets import (
    ABSENT,
    MLP,
    NetSketch,
    Outer,
    StepOnGradients,
    Submodel,
    holders,
    initial_state,
)

NETWORK = MLP(3, (8, 6), 2)
DEALS = [Perm(3), Full(3), Bernoulli(3, 0.7)]


def a_round(deal, missing):
    x = initial_state(NETWORK, seed=1, moments=("m",))
    partition = NetSketch(NETWORK.layout, deal).sample(5, 2)
    words = torch.Generator().manual_seed(3)

    def noisy(tensors):
        return {n: t + torch.randn(t.shape, generator=words) for n, t in tensors.items()}

    parts = [partition.select(x, i) for i in range(3)]
    trained = [Submodel(noisy(w.params), {"m": noisy(w.moments["m"])}, 0.5, 1) for w in parts]
    return x, partition, [ABSENT if i in missing else z for i, z in enumerate(trained)]


def by_entry(partition, whole, parts):
    """Mean of what came back for an entry, and whether any came."""
    means, came = {}, {}
    for name, entry in whole.items():
        total, count = torch.zeros(entry.shape, dtype=torch.float64), torch.zeros(entry.shape)
        for i, part in enumerate(parts):
            if part:
                total[partition.block(name, entry, i)] += part[name].double()
                count[partition.block(name, entry, i)] += 1
        means[name] = torch.where(count > 0, total / count.clamp(min=1), entry.double())
        came[name] = count > 0
    return means, came


@pytest.mark.parametrize("missing", [{0}, {1, 2}, {0, 1, 2}])
@pytest.mark.parametrize("deal", DEALS, ids=str)
def test_holders_average_over_those_who_came_back(deal, missing):
    x, partition, trained = a_round(deal, missing)
    merged = holders(x, partition, trained)
    for got, whole, parts in (
        (merged.params, x.params, [z.params for z in trained]),
        (merged.moments["m"], x.moments["m"], [z.moments.get("m", {}) for z in trained]),
    ):
        means, came = by_entry(partition, whole, parts)
        for name, value in got.items():
            torch.testing.assert_close(value.double(), means[name], rtol=1e-6, atol=1e-6)
            assert torch.equal(value[~came[name]], whole[name][~came[name]])


@pytest.mark.parametrize("missing", [{0}, {1, 2}, {0, 1, 2}])
@pytest.mark.parametrize("deal", DEALS, ids=str)
def test_an_outer_step_and_its_momentum_touch_only_what_came_back(deal, missing):
    x, partition, trained = a_round(deal, missing)
    x = Outer(0.7, 0.9)(x, partition, a_round(deal, set())[2])  # a round with everyone: momentum
    after = Outer(0.7, 0.9)(x, partition, trained)
    means, came = by_entry(partition, x.params, [z.params for z in trained])
    for name, p in x.params.items():
        gradient = p.double() - means[name]
        momentum = 0.9 * x.outer[name].double() + gradient
        step = torch.where(came[name], p - 0.7 * (gradient + 0.9 * momentum), p.double())
        kept = torch.where(came[name], momentum, x.outer[name].double())
        torch.testing.assert_close(after.params[name].double(), step, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(after.outer[name].double(), kept, rtol=1e-5, atol=1e-5)
        assert torch.equal(after.params[name][~came[name]], p[~came[name]])


@pytest.mark.parametrize("missing", [{0}, {1, 2}, {0, 1, 2}])
def test_a_gradient_step_averages_over_those_who_came_back(missing):
    x, partition, trained = a_round(Full(3), missing)
    after = StepOnGradients(0.1)(x, partition, trained)
    zeros = {name: torch.zeros_like(p) for name, p in x.params.items()}
    means, _ = by_entry(partition, zeros, [z.params for z in trained])
    for name, p in x.params.items():
        wanted = p.double() - 0.1 * means[name]
        torch.testing.assert_close(after.params[name].double(), wanted, rtol=1e-6, atol=1e-6)
