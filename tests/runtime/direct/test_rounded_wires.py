"""Rounded wires: the same rounding, written out slowly on whole tensors; their bytes."""

import numpy as np
import pytest
import simulated
import torch
from simulated import LAYOUT, N, draws, local, model, parts

from subnetwork.deals import Bernoulli, Full, Perm, RandQ
from subnetwork.nets import ModelState, NetSketch, Outer
from subnetwork.nets.state import Submodel
from subnetwork.runtime.direct import Draws, handed_over, merged, together
from subnetwork.runtime.direct.bundles import bundles
from subnetwork.runtime.direct.counted import (
    COUNTER,
    counters_like,
    packed,
    unpacked,
    with_counters,
)
from subnetwork.runtime.direct.held import OUTER
from subnetwork.runtime.direct.routing import keepers_of
from subnetwork.runtime.direct.wire import BLOCK


def rounded(wire, values, sent, grid):
    """What `sent` lines of (lines, length) become when one worker sends them."""
    if wire == "bfloat16":
        return torch.where(sent[:, None], values.bfloat16().to(values.dtype), values)
    result = values.clone()
    rows = torch.arange(grid.n_lines) // grid.n_cols
    groups = rows // max(1, BLOCK // (grid.n_cols * grid.length))
    for group in groups.unique():
        which = sent & (groups == group)
        if which.any():
            scale = values[which].abs().max() / 127
            codes = (values[which] / scale).round() if scale else values[which] * 0
            result[which] = codes * scale
    return result


def of_workers(masks):
    """(workers, lines): whether they hold them."""
    lines = [[int(u & v) >> i & 1 for u in masks.rows for v in masks.cols] for i in range(N)]
    return torch.as_tensor(lines).bool()


def keeper_of_all(d, name, k):
    grid = d.grids[name]
    found = keepers_of(d, name, k, np.arange(grid.n_rows), np.arange(grid.n_cols))
    return torch.as_tensor(found.astype(int))


def mean_of(how, old, values, now, keeper, grid):
    """The mean over holders, with changes rounded on their way to the keeper."""
    new, total, several = old.clone(), torch.zeros_like(old), now.sum(0) > 1
    for i, z in enumerate(values):
        if not now[i].any():
            continue
        change = torch.zeros_like(old)
        value = z.reshape(-1, grid.length)
        new[now[i] & ~several] = value[~several[now[i]]]
        change[now[i]] = value - old[now[i]]
        sent = now[i] & several & (keeper != i)
        kept = now[i] & several & (keeper == i)
        total += torch.where((sent | kept)[:, None], rounded(how, change, sent, grid), 0)
    new[several] = old[several] + total[several] / now.sum(0)[several][:, None]
    return new


def passed_on(how, new, leaves, keeper, grid):
    """Lines that leave their keepers, rounded."""
    for i in range(N):
        new = rounded(how, new, leaves & (keeper == i), grid)
    return new


def one_round(wire, d, x, k, steps=None):
    """Train, merge and hand over round k of the whole model, with the wire's rounding.

    The momentum of a merge that steps is a plane of which no mean is taken, and which is rounded
    where it goes to another keeper.
    """
    partition = d.partition(k)
    inner = ModelState(x.params, {m: t for m, t in x.moments.items() if m != OUTER})
    trained = [local(k, i, partition.select(inner, i)) for i in range(N)]
    after = {plane: {} for plane in ("", *x.moments)}
    for name, p in x.params.items():
        grid, keeper = d.grids[name], keeper_of_all(d, name, k)
        now, then = of_workers(d.masks(name, k)), of_workers(d.masks(name, k + 1))
        leaves = (then & (torch.arange(N)[:, None] != keeper)).any(0)
        for plane in ("", *inner.moments):
            how = "bfloat16" if plane and wire == "int8" else wire
            old = (x.moments[plane][name] if plane else p).reshape(grid.n_lines, grid.length)
            values = [(z.moments[plane] if plane else z.params).get(name) for z in trained]
            new = mean_of(how, old, values, now, keeper, grid)
            if steps and not plane:
                momentum = x.moments[OUTER][name].reshape(grid.n_lines, -1)
                to, buffer = steps.step({"": old}, {"": new}, {"": momentum})
                held, away = now.any(0)[:, None], keeper_of_all(d, name, k + 1) != keeper
                new, momentum = (
                    torch.where(held, to[""], new),
                    torch.where(held, buffer[""], momentum),
                )
                short = "bfloat16" if wire == "int8" else wire
                momentum = passed_on(short, momentum, then.any(0) & away, keeper, grid)
                after[OUTER][name] = momentum.view(p.shape)
            after[plane][name] = passed_on(how, new, leaves, keeper, grid).view(p.shape)
    return ModelState(after.pop(""), after)


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
@pytest.mark.parametrize("deal", [Perm(N), Full(N), RandQ(N, q=2), Bernoulli(N, p=0.5)], ids=repr)
def test_momentum_of_the_merge_is_rounded_where_it_goes_to_another_keeper(deal, wire):
    x, sketch, steps = model(), NetSketch(LAYOUT, deal), Outer()
    x = ModelState(x.params, {**x.moments, OUTER: model().moments["m"]})
    d = draws(sketch, x)
    helds = parts(d, x)
    for k in range(4):
        helds = simulated.pass_on(d, simulated.train(d, helds, wire, steps), wire)
        x = one_round(wire, d, x, k, steps)
        simulated.same(simulated.assembled(d, helds), x)


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
@pytest.mark.parametrize("deal", [Perm(N), Full(N), RandQ(N, q=2), Bernoulli(N, p=0.5)], ids=repr)
def test_all_ranks_agree_on_rounded_values_bit_for_bit(deal, wire):
    x, sketch = model(), NetSketch(LAYOUT, deal)
    d = draws(sketch, x)
    helds = parts(d, x)
    for k in range(4):
        for i, held in enumerate(helds):
            simulated.same(held.submodel, d.partition(k).select(x, i))
        helds = simulated.pass_on(d, simulated.train(d, helds, wire), wire)
        x = one_round(wire, d, x, k)
        simulated.same(simulated.assembled(d, helds), x)


@pytest.mark.parametrize("deal", [Perm(N), Full(N), RandQ(N, q=2)], ids=repr)
def test_in_company_every_tensor_has_scales_of_its_own(deal):
    """For one row, for as many as have 256 entries, or for all of them."""
    shapes = {"w": (50, 300), "v": (50, 8), "b": (50,)}
    layout = type(LAYOUT)({"a": 50}, {"w": ("a", None), "v": ("a", None), "b": ("a",)})
    sizes = {"w": 1.0, "v": 1e-4, "b": 1e4}
    x = ModelState({name: sizes[name] * torch.randn(shape) for name, shape in shapes.items()})
    d = draws(NetSketch(layout, deal), x)
    assert [len(of_table) for of_table in bundles(d, ("",), "int8")] == [1]
    helds = parts(d, x)
    for k in range(3):
        helds = simulated.pass_on(d, simulated.train(d, helds, "int8"), "int8")
        x = one_round("int8", d, x, k)
        simulated.same(simulated.assembled(d, helds), x)


def test_bytes_of_the_wires():
    """Half, and about a quarter; int8 pays four bytes for every row, here of 300 entries."""
    x = ModelState({"w": torch.randn(64, 300)})
    layout = type(LAYOUT)({"a": 64}, {"w": ("a", None)})
    d = draws(NetSketch(layout, Perm(4)), x)
    total = {}
    for wire in ("float32", "bfloat16", "int8"):
        helds = parts(d, x)
        _, sent = simulated.counted([handed_over(d, i, held, wire) for i, held in enumerate(helds)])
        total[wire] = sum(sent)
    assert total["bfloat16"] * 2 == total["float32"]
    rows = total["float32"] // 1200
    assert total["int8"] == rows * (300 + 4)


def test_what_is_no_number_stays_none():
    """A rank that sends NaN or infinity does not turn it into a number on the way."""
    layout = type(LAYOUT)({"a": 8}, {"w": ("a", None)})
    for bad in (float("nan"), float("inf")):
        x = ModelState({"w": torch.full((8, 300), bad)})
        d = draws(NetSketch(layout, Perm(2)), x)
        for wire in ("bfloat16", "int8"):
            helds = simulated.pass_on(d, simulated.train(d, parts(d, x), wire), wire)
            assert not simulated.assembled(d, helds).params["w"].isfinite().any()


def test_counters_travel_exactly_and_know_who_was_trained():
    """One a unit, or a pair of units; on any wire a counter is the number of rounds held."""
    sketch = NetSketch(with_counters(LAYOUT), Perm(N))
    x = model(moments=())
    whole = ModelState({**x.params, **counters_like(LAYOUT, x.params)})
    d = Draws(sketch, {name: p.to("meta") for name, p in whole.params.items()}, 5)
    helds = parts(d, whole)
    times = {name: torch.zeros(p.shape) for name, p in x.params.items()}

    def trained(k, i, submodel):
        z = local(k, i, Submodel(unpacked(submodel).params))
        counts = {n: c + 1 for n, c in unpacked(submodel).moments[COUNTER].items()}
        return packed(Submodel(z.params, {COUNTER: counts}))

    for k in range(5):
        for i in range(N):
            for name, count in times.items():
                if d.partition(k).holds(name, i):
                    count[d.partition(k).block(name, count, i)] += 1
        helds = [
            type(h)(h.k, trained(k, i, h.submodel), h.shares, h.x) for i, h in enumerate(helds)
        ]
        helds = together([merged(d, i, h, "int8") for i, h in enumerate(helds)])
        helds = simulated.pass_on(d, helds, "int8")
    found = simulated.assembled(d, helds).params
    for name in ("up", "bias", "middle", "conv", "down"):
        held = times[name]
        assert torch.equal(found[f"{name}::step"].expand(held.shape).contiguous(), held), name
    assert float(found["scalar::step"]) == 5
