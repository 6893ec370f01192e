"""Merges of whatever a model has: complex and whole numbers, booleans, infinities."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from ranks_in_threads import together
from subnetwork.deals import Full, RandQ
from subnetwork.nets import Adam, Layout, ModelState, NetSketch, holders
from subnetwork.nets.counters import COUNTER, no_moments
from subnetwork.nets.merges import Outer, StepOnGradients
from subnetwork.nets.optimizers import FIRST, SECOND
from subnetwork.nets.state import Submodel
from subnetwork.nets.stepping import Stepping
from subnetwork.runtime.direct import Draws, carried, merged, taken, whole_parameters

LAYOUT = Layout({"units": 6}, {"cut": ("units", None), "whole": (None,)})
NUMBERS = {
    "int64": torch.tensor([2**24 + 1, -(2**53) - 1, 7, 0]),
    "int32": torch.tensor([2**24 + 1, -(2**31), 7, 0], dtype=torch.int32),
    "uint8": torch.tensor([255, 1, 0, 128], dtype=torch.uint8),
    "bool": torch.tensor([True, False, True, True]),
    "complex64": torch.tensor([1 / 3 + 1j, -2j, 0.1, 5 - 0.7j]),
    "complex128": torch.tensor([1 / 3 + 1j, -2j, 0.1, 5 - 0.7j], dtype=torch.complex128),
    "infinite": torch.tensor([torch.inf, -torch.inf, 1 / 3, 0.1]),
}


def model(numbers):
    return {"cut": numbers.repeat(6, 1), "whole": numbers.clone()}


def with_others(x):
    """Values unlike those of x, of its dtype."""
    return ~x if x.dtype == torch.bool else x + 3


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("deal", [Full(3), RandQ(3, q=4)], ids=str)
def test_an_entry_that_no_holder_changed_stays_bit_for_bit(kind, deal):
    """Beside one that a holder did change."""
    x = ModelState(model(NUMBERS[kind]))
    partition = NetSketch(LAYOUT, deal).sample(0, 0)
    parts = [partition.select(x, i) for i in range(3)]
    assert all(torch.equal(p, x.params[n]) for n, p in holders(x, partition, parts).params.items())
    parts[1].params["whole"][2:3] = with_others(parts[1].params["whole"][2:3])
    after = holders(x, partition, parts).params["whole"]
    assert torch.equal(after[[0, 1, 3]], x.params["whole"][[0, 1, 3]])
    assert after[2] != x.params["whole"][2]


@pytest.mark.parametrize("kind", ["int64", "uint8", "bool"])
def test_whole_numbers_take_the_value_of_the_last_holder_that_changed_them(kind):
    x = ModelState(model(NUMBERS[kind]))
    partition = NetSketch(LAYOUT, Full(3)).sample(0, 0)
    parts = [partition.select(x, i) for i in range(3)]
    values = {0: NUMBERS[kind][3], 1: with_others(NUMBERS[kind][1])}
    for i, value in values.items():
        parts[i].params["whole"][1] = value
        parts[i].params["cut"][2, 1] = value
    after = holders(x, partition, parts).params
    assert after["whole"][1] == after["cut"][2, 1] == values[1]
    after["cut"][2, 1] = x.params["cut"][2, 1]
    assert torch.equal(after["cut"], x.params["cut"])


@pytest.mark.parametrize("deal", [Full(3), RandQ(3, q=4)], ids=str)
def test_a_complex_mean_is_that_of_two_reals(deal):
    generator = torch.Generator().manual_seed(0)
    x = {"cut": torch.randn(6, 4, 2, generator=generator), "whole": torch.randn(4, 2)}
    layout = Layout({"units": 6}, {"cut": ("units", None, None), "whole": (None, None)})
    reals = NetSketch(layout, deal).sample(0, 0)
    pairs = NetSketch(LAYOUT, deal).sample(0, 0)
    parts = [reals.select(ModelState(x), i) for i in range(3)]
    moved = [{n: p + torch.randn_like(p) for n, p in part.params.items()} for part in parts]
    as_complex = [{n: torch.view_as_complex(p) for n, p in part.items()} for part in moved]
    two = reals.merge(x, moved)
    one = pairs.merge({n: torch.view_as_complex(p) for n, p in x.items()}, as_complex)
    assert all(torch.equal(torch.view_as_real(one[n]), two[n]) for n in x)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("deal", [Full(3), RandQ(3, q=4)], ids=str)
def test_direct_hand_over_merges_every_number_alike(kind, deal):
    """Two of the three ranks change some entries; to the bit what one process merges."""
    x, sketch = model(NUMBERS[kind]), NetSketch(LAYOUT, deal)
    draws = Draws(sketch, {n: p.to("meta") for n, p in x.items()}, 0)

    def trained(part, rank):
        params = {n: p.clone() for n, p in part.params.items()}
        for p in params.values():
            if rank:
                p[..., 1 + rank] = with_others(p[..., 1 + rank])
                p[..., 3] = with_others(p[..., 3])
        return replace(part, params=params)

    def side(place):
        held = taken(draws, place.rank, 0, ((n, {"": p}) for n, p in x.items()))
        held = replace(held, submodel=trained(held.submodel, place.rank))
        links = place.links()
        held = carried(merged(draws, place.rank, held), links).result
        return dict(whole_parameters(held, draws, place.rank, links))

    partition = sketch.sample(0, 0)
    parts = [trained(partition.select(ModelState(x), i), i) for i in range(3)]
    expected = partition.merge(x, [part.params for part in parts])
    found = together(3, side)[0]
    for name, value in expected.items():
        assert torch.equal(found[name][""], value), name
        assert not torch.equal(value, x[name])


@pytest.mark.parametrize("merge", [Outer(), StepOnGradients(0.1)], ids=["outer", "gradients"])
@pytest.mark.parametrize("kind", ["int64", "bool"])
def test_outer_steps_leave_whole_numbers(kind, merge):
    x = ModelState({**model(NUMBERS[kind]), "real": torch.ones(4)})
    layout = Layout(LAYOUT.sizes, {**LAYOUT.dims, "real": (None,)})
    partition = NetSketch(layout, Full(2)).sample(0, 0)
    parts = [partition.select(x, i) for i in range(2)]
    if isinstance(merge, StepOnGradients):
        parts = [Submodel({n: torch.zeros_like(p) for n, p in z.params.items()}) for z in parts]
    for part in parts:
        part.params["real"] += 1
    after = merge(x, partition, parts).params
    assert torch.equal(after["cut"], x.params["cut"])
    assert torch.equal(after["whole"], x.params["whole"])
    assert not torch.equal(after["real"], x.params["real"])


@pytest.mark.parametrize("counts", [(4, 4, 4), (0, 4, 11)], ids=["even", "uneven"])
def test_adam_steps_a_complex_parameter_as_torch_does(counts):
    generator = torch.Generator().manual_seed(0)
    layout = Layout({"units": 3}, {"w": ("units", None)})
    w, m = (torch.randn(3, 2, dtype=torch.cfloat, generator=generator) for _ in range(2))
    v = torch.view_as_complex(torch.rand(3, 2, 2, generator=generator))
    counter = no_moments(layout, {"w": w}, [COUNTER])[COUNTER]["w"]
    assert counter.dtype == torch.float32
    counter += torch.tensor(counts)[:, None]
    p = nn.Parameter(w.clone())
    moments = {FIRST: {"w": m.clone()}, SECOND: {"w": v.clone()}, COUNTER: {"w": counter}}
    stepping = Stepping(Adam(0.1, weight_decay=0.01), {"w": p}, moments, layout, {})
    gradient = torch.randn(3, 2, dtype=torch.cfloat, generator=generator)
    p.grad = gradient.clone()
    stepping.step()
    for unit, count in enumerate(counts):
        own = nn.Parameter(w[unit].clone())
        adam = torch.optim.Adam([own], 0.1, weight_decay=0.01)
        kept = {FIRST: m[unit].clone(), SECOND: v[unit].clone()}
        adam.state[own] = {"step": torch.tensor(float(count)), **kept}
        own.grad = gradient[unit].clone()
        adam.step()
        assert torch.equal(p[unit], own)
        assert torch.equal(moments[SECOND]["w"][unit], kept[SECOND])


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float64, torch.cdouble])
def test_steps_are_counted_in_real_numbers(dtype):
    counter = no_moments(LAYOUT, {"cut": torch.zeros(6, 4, dtype=dtype)}, [COUNTER])[COUNTER]["cut"]
    wide = dtype in (torch.float64, torch.cdouble)
    assert counter.dtype == (torch.float64 if wide else torch.float32)
