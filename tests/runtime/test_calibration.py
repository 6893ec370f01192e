"""What is measured of a model and a machine for the cost model, and under which name."""

import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from subnetwork import Perm, decompose
from subnetwork.deals import Lazy
from subnetwork.nets import SGD, Adam, Outer
from subnetwork.nets.partition import NetSketch
from subnetwork.runtime import calibration
from subnetwork.runtime.calibration import (
    STEPS,
    TURNS,
    _direct,
    _handling,
    _in_turns,
    _pace,
    calibrate,
    loopback,
)
from subnetwork.runtime.direct import draws_of, handed_over, merged, over, taken, with_moments
from subnetwork.runtime.direct.outer import carried_moments, trained
from subnetwork.runtime.reducing import Reduced


def narrow():
    """A plan of a small network."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 2))
    return decompose(model, torch.ones(8, 64))


def test_rounds_read_on_from_batch_to_batch():
    """Rows that were read just before are in a cache, as those of training are not."""
    asked = Counter()

    class Counting:
        seed = 0

        def batch(self, worker, step):
            asked[worker, step] += 1
            return (torch.ones(8, 64),), torch.zeros(8)

    calibrate(narrow(), 2, budget=0.0, optimizer=SGD(1e-6), batches=Counting())
    assert set(asked.values()) == {1}
    a_turn = 1 + 2 * (1 + STEPS)  # one by itself; rounds of one and of several steps
    assert sorted(asked) == [(0, step) for step in range((2 + TURNS) * a_turn)]


def test_the_first_turn_is_left_out():
    """Whatever its things take once."""
    spans = (0.05, 0.0, 0.0, 0.0)
    left, told = list(spans), []

    def once():
        until = time.thread_time() + left.pop(0)
        while time.thread_time() < until:
            pass

    found = _in_turns({"once": once, "handling": lambda: None}, 0.0, told.append)
    assert list(map(len, found.values())) == [TURNS, TURNS]
    assert max(found["once"]) < 0.04
    assert told == ["once", None] * (1 + TURNS)


def test_a_coordinator_merges_into_what_it_has_merged_before():
    """So that a merge that steps has its momentum, and does not begin each time."""
    plan, merged, drawn, outer = narrow(), [], [], Outer()
    x, sketch = plan.state(), NetSketch(plan.layout, Perm(2))

    def sample(seed, k):
        drawn.append(k)
        return sketch.sample(seed, k)

    def merge(x, partition, back):
        merged.append((x, len(back)))
        return outer(x, partition, back)

    handle = _handling(x, SimpleNamespace(sample=sample), merge)
    handle()
    handle()
    assert drawn == [0, 1]
    assert [n for _, n in merged] == [2, 2]
    assert merged[0][0] is x
    assert not x.outer
    assert merged[1][0].outer


class Sent:
    """A group that delivers nothing, and counts what it is to send."""

    def __init__(self):
        self.n = 0

    def recv(self, _tensors, _peer, _tag):
        return self

    def send(self, _tensors, _peer, _tag):
        self.n += 1
        return self

    def wait(self, _seconds):
        return True


@pytest.mark.parametrize("wire", ["float32", "int8"])
@pytest.mark.parametrize("steps", [None, Outer()], ids=["mean", "outer"])
@pytest.mark.parametrize("deal", [Perm(3), Lazy(3, 4)], ids=["perm", "lazy"])
@pytest.mark.parametrize("width", [256, 1024])
def test_messages_are_those_that_a_rank_sends(width, deal, steps, wire):
    """Large pieces are messages of their own."""
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    plan = decompose(model, torch.ones(2, width), verify=False)
    x, sketch = plan.state(), NetSketch(plan.layout, deal)
    moments = carried_moments((), steps)
    draws = draws_of(sketch, x.params, 0, moments=moments)
    held = taken(draws, 0, 0, with_moments(x.params.items(), moments, plan.layout))
    group, sent, counted = Sent(), [], []
    links = over(group, 0)

    def alone(exchange):
        try:
            while True:
                links(next(exchange))
        except StopIteration as end:
            return end.value

    handle = _direct(x, sketch, wire, steps, counted)
    for _ in range(3):
        before, held = group.n, trained(held, lambda _k, _i, w: w, 0, steps)
        held = alone(merged(draws, 0, held, wire, steps))
        held = alone(handed_over(draws, 0, held, wire, in_place=True))
        sent.append(group.n - before)
        handle()
    assert counted == sent
    if (wire, steps, deal) == ("float32", None, Perm(3)):  # 2 others, and 2 waits
        assert min(sent) > 4 if width == 1024 else set(sent) == {4}


def test_messages_of_a_calibration_are_the_mean_of_its_rounds(monkeypatch):
    """Which differ: pieces are larger in some."""

    def counting(_x, _sketch, _wire, _steps, sent):
        return lambda: sent.append(3 + len(sent))

    monkeypatch.setattr(calibration, "_direct", counting)
    found = calibrate(narrow(), 2, budget=0.0)
    assert found.messages == 3 + (1 + TURNS) / 2


def test_what_ddp_adds_is_what_its_steps_take_beyond_those_of_a_worker_and_an_all_reduce():
    names = ("handling", "averaging", "batch", "direct", "outer", "buckets")
    spans = {name: [1.0, 1.0, 1.0] for name in names}
    for name in ("whole", "part"):
        spans |= {f"{name} 1": [12.0] * 3, f"{name} {STEPS}": [12.0 + 8 * (STEPS - 1)] * 3}
    pace = _pace(spans, Reduced(0.25, 0.5, 7.0, 0.75), 8.0)
    assert (pace.buckets, pace.reducing, pace.message, pace.ddp) == (5.0, 0.25, 0.5, True)
    assert pace.waiting == 0.75
    assert (pace.step_whole, pace.around_whole) == (7.0, 4.0)
    alone = _pace(spans, Reduced(0.25, 0.5), 8.0)
    assert (alone.buckets, alone.ddp) == (1.0, False)  # the copying
    assert _pace(spans, None, 8.0).reducing == 0.0


def test_calibration_measures_what_it_says_and_leaves_no_trace():
    model = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 10))
    plan = decompose(model, torch.randn(32, 256))
    before = [p.clone() for p in model.parameters()]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    pace = calibrate(plan, 4, budget=0.3, optimizer=Adam(1e-6))
    assert min(pace.step_whole, pace.step_part, pace.handling, pace.averaging) > 0
    assert pace.direct is not None
    assert min(pace.batch, pace.direct, pace.outer, pace.reducing) > 0
    assert pace.ddp  # its buckets are a difference, 0 where others disturb it
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert torch.equal(state, torch.get_rng_state())
    assert threads == torch.get_num_threads()


def test_the_loopback_is_a_fast_link():
    link = loopback(0.05)
    assert link.bandwidth > 1e8
    assert 0 < link.latency < 0.01
