"""The cost model's formulas against hand counts, messages counted one by one, and exact draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from subnetwork import Perm, decompose
from subnetwork.deals import Lazy
from subnetwork.nets import SGD, Adam, Outer
from subnetwork.nets.counters import COUNTER
from subnetwork.nets.partition import NetSketch
from subnetwork.runtime.costs import (
    METHODS,
    Network,
    Pace,
    Setting,
    Sizes,
    break_even,
    moved,
    predict,
    stored,
)
from subnetwork.runtime.direct import (
    draws_of,
    handed_over,
    merged,
    taken,
    together,
    with_moments,
)
from subnetwork.runtime.direct.outer import carried_moments, trained
from subnetwork.runtime.sizing import sizes

BY = ("direct", "coordinator")
SIZES = Sizes(1000, (10, 100, 40), activations_whole=64, activations_part=16, moments=1, lines=640)
PACE = Pace(step_whole=8.0, step_part=1.0, handling=4.0, averaging=0.5)
LINK = Network(8e3, 0.25, share=1.0)  # 1000 bytes a second


def test_what_no_number_can_say_is_refused():
    """Endless rounds cannot be compared: their ratio is no number."""
    for bandwidth in (1e-300, 0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"is no network\. Use 1 or more"):
            Network(bandwidth)
    for latency in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"is no latency\. Use 0 to 86400 seconds"):
            Network(1.0, latency)
    times = break_even(predict(SIZES, PACE, Network(1.0, 86_400.0), Setting(4, 2)))[1]
    assert 0 < times < math.inf
    with pytest.raises(ValueError, match=r"takes more seconds than .* more cores than 1e-310"):
        predict(SIZES, PACE, LINK, Setting(4, 2, cores=1e-310))


def test_a_round_of_each_method_by_hand():
    """n = 4, tau = 2; seconds and bytes worked out on paper."""
    costs = predict(SIZES, PACE, LINK, Setting(4, 2))
    direct, star = costs["IST, direct"], costs["IST, coordinator"]
    local, ddp = costs["Local SGD"], costs["DDP"]
    # 3/4 of 140 cut entries once; 2 * 3/4 of 10 shared ones: 420 + 60 bytes, and their moment
    assert direct.bytes_up == direct.bytes_down == 2 * (4 * 105 + 4 * 15)
    # two waits: changes of shared entries for their keepers; all that is handed over
    assert direct.exchange == pytest.approx(0.960 + 2 * 0.25)
    assert (direct.compute, direct.handling) == (2.0, 1.0)
    # 150 entries with a moment, down and up for each of 3 others over the coordinator's link: 6
    # times where all are sent at once, 4 where they are sent in turn
    assert star.bytes_up == star.bytes_down == 1200
    assert star.exchange == pytest.approx(5 * 1.2 + 2 * 0.25)
    two = METHODS["IST, coordinator"](SIZES, PACE, LINK, Setting(2, 2))
    assert two.exchange == pytest.approx(2 * 1.2 + 2 * 0.25)  # there is one other, and no turns
    # 2 * 3/4 of 1000 entries, in 6 steps of the ring
    assert local.bytes_up == 6000
    assert local.exchange == pytest.approx(6 + 6 * 0.25)
    assert local.seconds == pytest.approx(16 + 7.5 + 0.5)
    # a gradient is one bucket: nothing is hidden
    assert (ddp.bytes_up, ddp.exchange) == (12000, pytest.approx(15))
    # parameters, gradients, one moment: 12 bytes an entry; a flat buffer
    assert star.memory == 12 * 150 + 16 + 1200
    assert local.memory == 12 * 1000 + 64 + 4000
    assert costs["DiLoCo"].memory == local.memory + 8000
    # a part and its moment, its 10 shared entries again, 40 x 3 idle ones, a bit a line; 960 bytes
    # each way, and who of 4 sends which line
    assert direct.memory == 8 * (150 + 10 + 120) + 640 / 8 + 2 * 960 + 4 * 80
    # replicas: 1/4 of what all hold and of the 100, all of the 40; kept: these and what was sent
    lasting = predict(SIZES, PACE, LINK, Setting(4, 2, replicas=1))["IST, direct"]
    assert lasting.bytes_up == direct.bytes_up + 8 * (2.5 + 25 + 10 + 30)
    assert lasting.exchange == pytest.approx(0.960 + 0.540 + (2 + 3) * 0.25)
    assert lasting.memory == direct.memory + 8 * 120 + 960 + 8 * 37.5
    assert costs["DiLoCo"].seconds == local.seconds


def test_a_merge_that_steps_sends_its_momentum_and_remembers_where_it_began():
    """n = 4, float32: a moment of its own, and another for the merge."""
    setting = Setting(4, 2, outer=True)
    pace = replace(PACE, outer=2.0)
    direct, star = (predict(SIZES, pace, LINK, setting)[f"IST, {by}"] for by in BY)
    # of the 10 that all hold the momentum stays with its keeper
    assert direct.bytes_up == 3 * (4 * 105 + 4 * 15) - 4 * 15
    kept = 8 * (150 + 10 + 120) + 4 * (150 + 120) + 640 / 8
    before = 4 * 150  # x^k, until the merge
    assert direct.memory == kept + before + 2 * direct.bytes_up + 4 * 80
    roomy = replace(SIZES, activations_part=5000)
    training = METHODS["IST, direct"](roomy, PACE, LINK, setting)
    assert training.memory == kept + before + 5000 + 4 * 150
    assert star == predict(SIZES, pace, LINK, Setting(4, 2))["IST, coordinator"]  # h has the step


@pytest.mark.parametrize(
    ("more", "beside"),
    [
        ({}, 2 * 960 + 4 * 80),  # leaves, arrives, senders
        ({"activations_part": 5000}, 4 * 150 + 5000),
        ({"largest": 800}, 8 * 800),  # drawn whole, with its moment
        ({"largest": 320}, 2 * 960 + 4 * 80 + 8 * 320 / 4),  # its block a second time
    ],
)
def test_a_rank_needs_memory_for_the_largest_of_what_comes_one_after_another(more, beside):
    setting = Setting(4, 2)
    found = METHODS["IST, direct"](replace(SIZES, **more), PACE, LINK, setting).memory
    assert found == stored(SIZES, 4) + beside


def test_batches_rounds_and_hand_over_are_part_of_a_round():
    """n = 4 workers on 2 cores, tau = 2: every second of computing counts twice."""
    pace = Pace(8.0, 1.0, 4.0, 0.5, batch=0.25, around_whole=3.0, around_part=1.5, direct=0.5)
    costs = predict(SIZES, replace(pace, outer=2.0), LINK, Setting(4, 2, cores=2))
    assert costs["IST, direct"].compute == 2 * (2 * (1.0 + 0.25) + 1.5)
    assert costs["IST, direct"].handling == 2 * 0.5
    # 4 s each; the others of the coordinator begin after 2.5 parts of 1.2 s and a wait
    assert costs["IST, coordinator"].compute == pytest.approx((4 * 4.0 - 3.25) / 2)
    assert costs["IST, direct"].compute == 4 * 4.0 / 2
    assert costs["Local SGD"].compute == 2 * (2 * (8.0 + 0.25) + 3.0)
    assert costs["Local SGD"].handling == 2 * 0.5
    assert costs["DiLoCo"].handling == 2 * (0.5 + 2.0)
    assert costs["DDP"].compute == 2 * 2 * (8.0 + 0.25)


@pytest.mark.parametrize(
    ("bandwidth", "cores", "seconds"),
    [
        (math.inf, 2, 8.0),  # all begin at once: 4 workers of 4 s on 2 cores
        (1.0, 2, 6.0),  # worker 0 is done when the others begin: 3 on 2 cores
        (1.0, 3, 4.0),
        (1.0, None, 4.0),
        (1.0, 8, 4.0),  # nobody is faster than alone
    ],
)
def test_a_coordinator_trains_while_the_others_get_their_parts(bandwidth, cores, seconds):
    pace = Pace(8.0, 1.0, 4.0, 0.5, batch=0.25, around_part=1.5)
    link = Network(bandwidth, 0.0)
    costs = predict(SIZES, pace, link, Setting(4, 2, cores=cores))
    assert costs["IST, coordinator"].compute == pytest.approx(seconds)


def test_a_message_takes_a_processor_whatever_is_in_it():
    """n = 4 on 2 cores: 3 others, in a merge where entries are shared and in a hand-over."""
    setting = Setting(4, 2, cores=2)
    before, after = (
        predict(SIZES, pace, LINK, setting) for pace in (PACE, replace(PACE, message=0.125))
    )
    lasting = Setting(4, 2, cores=2, replicas=1)
    counted = METHODS["IST, direct"](SIZES, replace(PACE, message=0.125, messages=9), LINK, setting)
    assert counted.handling == METHODS["IST, direct"](SIZES, PACE, LINK, setting).handling + 9 / 4
    with_replicas = METHODS["IST, direct"](SIZES, replace(PACE, message=0.125), LINK, lasting)
    none_shared = replace(SIZES, part=(0, *SIZES.part[1:]))
    alone = METHODS["IST, direct"](none_shared, replace(PACE, message=0.125), LINK, setting)
    more = {name: after[name].handling - before[name].handling for name in before}
    assert more["IST, direct"] == 2 * 2 * 3 * 0.125
    assert alone.handling - before["IST, direct"].handling == 2 * 3 * 0.125
    assert with_replicas.handling == after["IST, direct"].handling + 2 * (1 + 2 * 3) * 0.125
    assert more["IST, coordinator"] == 3 * 0.125
    assert more["Local SGD"] == more["DDP"] == 0


def test_copying_counts_where_it_is_slower_than_the_link():
    slow, fast = Network(8.0, 0.5, 1.0, copying=0.25), Network(80.0, 0.5, 1.0, copying=0.25)
    assert slow.seconds(10, 2, crowding=2.0) == 10 + 1
    assert fast.seconds(10, 2, crowding=2.0) == 5 + 1


def test_an_all_reduce_takes_at_least_what_the_processor_does():
    """n = 4 on 2 cores; 6000 bytes each way, at 2^-10 seconds each where processors do them."""
    pace, setting = replace(PACE, reducing=2**-10), Setting(4, 2, cores=2)
    slow, fast = Network(8.0, 0.25, 1.0), Network(8e6, 0.25, 1.0)
    before, after = (predict(SIZES, of, slow, setting) for of in (PACE, pace))
    assert before == after
    busy = 2 * 6000 * 2**-10
    costs = predict(SIZES, pace, fast, setting)
    assert costs["Local SGD"].exchange == costs["DiLoCo"].exchange == busy + 6 * 0.25
    assert costs["DDP"].exchange == 2 * (busy + 6 * 0.25)
    for name in ("IST, direct", "IST, coordinator"):  # they reduce nothing
        assert costs[name] == predict(SIZES, PACE, fast, setting)[name]
    # ranks wait for each other, on links that cost nothing too
    waits = replace(pace, waiting=2**-9)
    assert predict(SIZES, waits, slow, setting) == before
    assert predict(SIZES, waits, fast, setting)["Local SGD"].exchange == 2 * busy + 6 * 0.25
    # what TCP copies is part of it: the larger of both counts
    tcp = replace(fast, copying=2**-9)
    assert predict(SIZES, pace, tcp, setting)["Local SGD"].exchange == 2 * busy + 6 * 0.25
    tcp = replace(fast, copying=2**-11)
    assert predict(SIZES, pace, tcp, setting)["Local SGD"].exchange == busy + 6 * 0.25


def test_ddp_copies_gradients_into_buckets_and_back_in_every_step():
    pace = replace(PACE, buckets=0.5)
    costs = predict(SIZES, pace, LINK, Setting(4, 3, cores=2))
    assert costs["DDP"].handling == 3 * 0.5 * 2
    assert {name for name, cost in costs.items() if cost.handling == 3 * 0.5 * 2} == {"DDP"}


def ring(n, size):
    """Entries that each rank sends in a ring all-reduce, and the steps it waits, played through."""
    chunks = np.array_split(np.arange(size), n)
    data = [np.full(size, float(rank)) for rank in range(n)]
    sent, steps = [0] * n, 0
    for phase in range(2):
        for step in range(n - 1):
            moving = []
            for rank in range(n):
                chunk = chunks[(rank + phase - step) % n]
                moving.append((rank, (rank + 1) % n, chunk, data[rank][chunk].copy()))
            for rank, to, chunk, values in moving:
                data[to][chunk] = values if phase else data[to][chunk] + values
                sent[rank] += len(chunk)
            steps += 1
    assert all((d == sum(range(n))).all() for d in data)
    return sent, steps


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_all_reduce_costs_what_a_ring_sends(n):
    sent, steps = ring(n, 24 * n)
    whole = Sizes(24 * n, (0, 24))
    cost = METHODS["Local SGD"](whole, PACE, Network(math.inf, 1.0), Setting(n, 1))
    assert cost.bytes_up == 4 * sent[0]
    assert cost.exchange == steps


def test_a_tree_moves_whole_buffers_level_by_level():
    """Up and down log2(8) = 3 levels, 1000 float32 entries over each."""
    cost = METHODS["Local SGD"](SIZES, PACE, LINK, Setting(8, 1, reduce="tree"))
    assert cost.exchange == pytest.approx(6 * (4.0 + 0.25))
    assert cost.bytes_up == 8000


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("period", [1, 2, 5, None])
def test_the_share_that_moves_is_that_of_the_deals(n, period):
    """Against rounds that are drawn, with the last holder of every entry of a matrix kept."""
    deal, d = Lazy(n, period), 32

    def owners(k, axis):
        owner = np.empty(d, int)
        for worker, hand in enumerate(deal.hands(d, seed=3, k=k, axis=axis)):
            owner[hand] = worker
        return owner

    rows, columns = owners(0, 0), owners(0, 1)
    last = np.full((d, d), -1)
    first_axis, second_axis = [], []
    for k in range(400):
        new_rows, new_columns = owners(k, 0), owners(k, 1)
        first_axis.append((new_rows != rows).mean())
        rows, columns = new_rows, new_columns
        held = rows[:, None] == columns[None]
        holder = np.broadcast_to(rows[:, None], (d, d))
        if k > 10 * (period or 1):
            second_axis.append((last != holder)[held].mean())
        last[held] = holder[held]
    assert np.mean(first_axis) == pytest.approx(moved(n, period, 1), abs=0.01)
    expected, measured = moved(n, period, 2), np.mean(second_axis)
    if period in (1, None):
        assert measured == pytest.approx(expected, abs=0.01)
    else:
        assert 0.6 * expected < measured < expected


def test_wire_and_cores_scale_what_they_should():
    full = predict(SIZES, PACE, LINK, Setting(4, 2))
    half = predict(SIZES, PACE, LINK, Setting(4, 2, wire="bfloat16", cores=2))
    for name in ("IST, direct", "Local SGD"):
        assert half[name].bytes_up == full[name].bytes_up / 2
    assert half["IST, coordinator"].bytes_up == full["IST, coordinator"].bytes_up  # has no wires
    for name in ("IST, direct", "Local SGD"):
        assert half[name].compute == 2 * full[name].compute
    # worker 0 is done when the others begin: three share two cores
    assert half["IST, coordinator"].compute == 1.5 * full["IST, coordinator"].compute
    assert half["DDP"].bytes_up == full["DDP"].bytes_up
    assert predict(SIZES, PACE, LINK, Setting(4, 2, cores=8)) == full


def test_the_backward_pass_hides_all_buckets_of_ddp_but_the_last():
    large = Sizes(4 * 25 * 2**20 // 4, (0, 1))  # 100 MiB: four buckets
    fast = Network(8e9, share=1.0)
    whole = 1.5 * 4 * large.whole / 1e9
    slow_steps, quick_steps = Pace(9.0, 1.0), Pace(0.03, 0.01)
    assert METHODS["DDP"](large, slow_steps, fast, Setting(4, 1)).exchange == pytest.approx(
        whole / 4
    )
    assert METHODS["DDP"](large, quick_steps, fast, Setting(4, 1)).exchange == pytest.approx(
        whole - 0.02
    )


def test_what_processors_do_for_an_all_reduce_hides_behind_nothing():
    """100 MiB in four buckets: 1.5 of it a nanosecond a byte, half of that is the processor's."""
    large, link = Sizes(4 * 25 * 2**20 // 4, (0, 1)), Network(8e9, share=1.0)
    whole = 1.5 * 4 * large.whole / 1e9
    pace = Pace(9.0, 1.0, reducing=0.5e-9)
    found = METHODS["DDP"](large, pace, link, Setting(4, 1)).exchange
    assert found == pytest.approx(whole - 3 / 4 * whole / 2)
    waits = replace(pace, waiting=2e-9)  # a core that waits may train
    found = METHODS["DDP"](large, waits, link, Setting(4, 1)).exchange
    assert found == pytest.approx(2 * whole - 3 / 4 * 3 / 2 * whole)
    pace = replace(pace, reducing=3e-9)
    found = METHODS["DDP"](large, pace, link, Setting(4, 1)).exchange
    assert found == pytest.approx(3 * whole)


def test_ist_does_not_pay_where_links_are_free_and_parts_as_slow_as_the_model():
    costs = predict(SIZES, Pace(1.0, 0.9, 4.0), Network(math.inf), Setting(2, 10))
    best, times = break_even(costs)
    assert best in ("Local SGD", "DiLoCo", "DDP")
    assert times == pytest.approx(10 / (9 + 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wire": "int4"}, "no wire 'int4'. Known are: float32, bfloat16, int8"),
        ({"reduce": "star"}, "no all-reduce 'star'"),
        ({"n_workers": 1}, "two workers or more"),
        ({"n_steps": 0}, "one local step or more"),
        ({"period": 0}, "period=0"),
        ({"cores": 0.0}, "cores=0.0"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Setting(**({"n_workers": 4, "n_steps": 2} | arguments))


def mlp():
    return nn.Sequential(
        nn.Linear(6, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def test_ddp_reduces_what_is_trained():
    costs = predict(replace(SIZES, trained=400), PACE, LINK, Setting(4, 2))
    assert costs["DDP"].bytes_up == 2 * 2 * 3 / 4 * 1600
    assert costs["Local SGD"].bytes_up == 6000
    model = mlp()
    model[0].requires_grad_(False)
    frozen = sum(p.numel() for p in model[0].parameters())
    found = sizes(decompose(model, torch.randn(5, 6), verify=False), 2)
    assert found.trained == found.whole - frozen


def test_sizes_are_those_that_the_deal_cuts():
    plan = decompose(mlp(), torch.randn(5, 6))
    found = sizes(plan, 4, moments=2)
    part = plan.cut(plan.model, deal=Perm(4))[0]
    assert found.held == sum(p.numel() for p in part.parameters())
    assert found.whole == sum(p.numel() for p in plan.model.parameters())
    # 3 output biases are shared; 3 x 2 between the two hidden layers are cut on both sides
    assert found.part == (3, 3 * 6 + 3 * 3 + 2 + 3 * 2, 3 * 2)
    by_hand = NetSketch(plan.layout, Perm(4)).sample(0, 0).select(plan.state(), 1)
    assert 4 * found.held == by_hand.n_bytes


def counted(exchange, sent):
    """The same side of an exchange; bytes that it sends are noted."""
    try:
        post = next(exchange)
        while True:
            sent.append(post.n_bytes)
            yield post
            post = next(exchange)
    except StopIteration as end:
        return end.value


@pytest.mark.parametrize("wire", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.1)])
@pytest.mark.parametrize("width", [["1.*"], None])
@pytest.mark.parametrize("steps", [None, Outer()], ids=["mean", "outer"])
def test_the_bytes_of_a_hand_over_are_those_that_ranks_send(steps, width, optimizer, wire):
    """A merge and a hand-over of 4 ranks: moments and counts with their parameters.

    With a layer that all hold, and with matrices cut on both sides, whose counts are one for each
    pair of units. Owners are random: 8 % are allowed. int8 has a scale for what a worker sends of a
    row, which is little where rows are as short as here and cut: 35 %.
    """
    layers = (nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 64))
    plan = decompose(nn.Sequential(nn.Linear(16, 32), *layers), torch.randn(4, 16), width=width)
    moments = carried_moments(optimizer.moments, steps)
    x, sketch = plan.state(moments=optimizer.moments), NetSketch(plan.layout, Perm(4))
    draws = [draws_of(sketch, x.params, 0, moments=moments) for _ in range(4)]
    found = sizes(plan, 4, moments=len(set(optimizer.moments) - {COUNTER}))
    whole = [with_moments(x.params.items(), moments, plan.layout) for _ in range(4)]
    held = [taken(draws[i], i, 0, whole[i]) for i in range(4)]
    remembered = sum(of.n_bytes for of in held) / 4  # with a number a row, of which there are few
    assert remembered == pytest.approx(stored(found, 4, outer=bool(steps)), rel=0.06)
    sent = []
    held = [trained(of, lambda _k, _i, w: w, i, steps) for i, of in enumerate(held)]
    sides = [counted(merged(draws[i], i, held[i], wire, steps), sent) for i in range(4)]
    held = together(sides)
    together([counted(handed_over(draws[i], i, held[i], wire), sent) for i in range(4)])
    assert bool(found.counters) == (COUNTER in optimizer.moments)
    setting = Setting(4, 2, wire=wire, outer=bool(steps))
    told = METHODS["IST, direct"](found, PACE, LINK, setting).bytes_up
    waits = METHODS["IST, direct"](found, PACE, Network(math.inf, 1.0), Setting(4, 2)).exchange
    assert len(sent) == 4 * waits
    short = wire == "int8" and width is None
    assert sum(sent) / 4 == pytest.approx(told, rel=0.35 if short else 0.08)


def test_more_workers_than_units_are_refused_with_the_most_that_go():
    plan = decompose(mlp(), torch.randn(5, 6))
    with pytest.raises(ValueError, match="8 units for n_workers=9.* Use at most 8 workers"):
        sizes(plan, 9)
