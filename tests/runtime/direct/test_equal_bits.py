"""n ranks in one process, against `rounds`: the same model, to the bit, round for round."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated import (
    DEALS,
    LAYOUT,
    SHAPES,
    N,
    alone,
    assembled,
    counted,
    draws,
    local,
    model,
    parts,
    pass_on,
    same,
    train,
)

from subnetwork import rounds
from subnetwork.deals import Bernoulli, Full, Lazy, Perm, RandQ
from subnetwork.nets import Layout, ModelState, NetSketch, Outer, holders
from subnetwork.nets.state import Submodel
from subnetwork.runtime.direct import (
    Draws,
    gathered,
    handed_over,
    handover,
    merged,
    outer,
    together,
)
from subnetwork.runtime.direct.held import OUTER, held_rows
from subnetwork.runtime.direct.memory import LARGE, room
from subnetwork.runtime.direct.outer import stepped, trained
from subnetwork.runtime.direct.routing import keepers_of, senders_of
from subnetwork.runtime.direct.rows import sets_of

CASES = [(deal, torch.float32) for deal in DEALS]
CASES += [
    (deal, dtype) for deal in (Perm(N), RandQ(N, q=2)) for dtype in (torch.float64, torch.bfloat16)
]


@pytest.mark.parametrize(("deal", "dtype"), CASES, ids=repr)
def test_every_deal_equals_the_reference_bit_for_bit(deal, dtype):
    x, sketch = model(dtype), NetSketch(LAYOUT, deal)
    d = draws(sketch, x)
    helds = parts(d, x)

    def work(k, _partition, submodels):
        for held, w in zip(helds, submodels, strict=True):
            same(held.submodel, w)
        return [local(k, i, w) for i, w in enumerate(submodels)]

    for done in rounds(x, sketch, work, holders, seed=5, n_rounds=6):
        after = train(d, helds)
        same(assembled(d, after), done.x)
        helds = pass_on(d, after)
    assert [held.k for held in helds] == [6] * N


STEPS = [Outer(), Outer(1.3, 0.5), Outer(0.7, 0.0)]
STEPPED = [(deal, steps, torch.float32) for deal in DEALS for steps in STEPS]
STEPPED += [(RandQ(N, q=2), steps, torch.float64) for steps in STEPS]


@pytest.mark.parametrize(("deal", "steps", "dtype"), STEPPED, ids=repr)
def test_steps_of_the_merge_equal_the_reference_bit_for_bit(deal, steps, dtype):
    """From x^k along the mean, on every entry that somebody held, with its momentum; no other."""
    x, sketch = model(dtype), NetSketch(LAYOUT, deal)
    d = draws(sketch, x)
    zeros = {name: torch.zeros_like(p) for name, p in x.params.items()}
    buffers = {OUTER: zeros} if steps.momentum else {}
    helds = parts(d, ModelState(x.params, {**x.moments, **buffers}))
    work = lambda k, _, ws: [local(k, i, w) for i, w in enumerate(ws)]  # noqa: E731
    for done in rounds(x, sketch, work, steps, seed=5, n_rounds=6):
        after = train(d, helds, steps=steps)
        found = assembled(d, after)
        if buffers:
            assert set(found.moments) == {"m", OUTER}
            assert all(torch.equal(found.moments[OUTER][n], t) for n, t in done.x.outer.items())
        same(found, done.x)
        helds = pass_on(d, after)


def test_a_rank_trains_without_the_momentum_of_the_merge_and_lets_go_of_what_it_began_with():
    """x^k is a copy where local work may overwrite it, and is there for the merge alone."""
    x, steps = model(), Outer()
    zeros = {name: torch.zeros_like(p) for name, p in x.params.items()}
    d = draws(NetSketch(LAYOUT, Perm(N)), x)
    held = parts(d, ModelState(x.params, {**x.moments, OUTER: zeros}))[0]
    was = {name: p.clone() for name, p in held.submodel.params.items()}
    seen = []

    def overwriting(_k, _worker, submodel):
        seen.append(set(submodel.moments))
        for p in submodel.params.values():
            p.add_(1)
        return submodel

    after = trained(held, overwriting, 0, steps)
    assert seen == [{"m"}]
    assert not held.before
    assert after.before.keys() == was.keys()
    assert all(torch.equal(after.before[name], p) for name, p in was.items())
    assert not stepped(after, steps).before
    assert OUTER not in held.x


def test_a_part_and_a_merge_that_do_not_go_together_are_refused():
    x = model()
    held = parts(draws(NetSketch(LAYOUT, Perm(N)), x), x)[0]
    with pytest.raises(ValueError, match=r"has a momentum, but the part carries none\. Make draws"):
        trained(held, local, 0, Outer())
    trained(held, local, 0, Outer(momentum=0.0))
    with_one = replace(held, submodel=Submodel(x.params, {"m": {}, OUTER: {}}))
    with pytest.raises(ValueError, match="has no momentum, but the part carries one"):
        trained(with_one, local, 0)


def test_whole_numbers_and_rows_of_any_shape_are_stepped_as_by_the_coordinator(monkeypatch):
    """A few entries at a time; whole numbers take the merge's value, and no step."""
    monkeypatch.setattr(outer, "AT_ONCE", 4)
    layout = Layout({"a": 7}, {"w": ("a", None), "n": (None,), "s": ()})
    params = {"w": torch.randn(7, 3), "n": torch.arange(5), "s": torch.randn(())}
    x, steps = ModelState(params), Outer()
    zeros = {name: torch.zeros_like(p) for name, p in params.items()}
    d = draws(NetSketch(layout, Perm(N)), x)
    helds = parts(d, ModelState(params, {OUTER: zeros}))

    def work(k, _partition, ws):
        return [local(k, i, w) for i, w in enumerate(ws)]

    for done in rounds(x, NetSketch(layout, Perm(N)), work, steps, seed=5, n_rounds=4):
        helds = train(d, helds, steps=steps)
        for i, held in enumerate(helds):
            units = d.partition(done.k).hands["a"][i]
            assert torch.equal(held.submodel.params["w"], done.x.params["w"][units])
            momentum = held.submodel.moments[OUTER]
            assert torch.equal(momentum["w"], done.x.outer["w"][units])
            assert not momentum["n"].any()
        for name, p in params.items():
            found, *_ = together([gathered(d, i, held, name) for i, held in enumerate(helds)])
            assert torch.equal(found[""], done.x.params[name])
            assert torch.equal(found[OUTER], done.x.outer.get(name, torch.zeros_like(p)))
        helds = pass_on(d, helds)


def test_blocks_are_written_over_only_where_that_is_asked_for():
    """By rows, by lines of several entries, and beside idle lines; 8 units for 2 workers."""
    shapes = {"w": (8, 8), "v": (8, 3), "b": (8,)}
    layout = Layout({"a": 8, "b": 8}, {"w": ("a", "b"), "v": ("a", None), "b": ("a",)})
    x = ModelState({name: torch.randn(shape) for name, shape in shapes.items()})
    d = draws(NetSketch(layout, Perm(2)), x)
    helds = parts(d, x)
    for _ in range(6):
        before = [{n: t.clone() for n, t in held.submodel.params.items()} for held in helds]
        anew = together([handed_over(d, i, held) for i, held in enumerate(helds)])
        for held, was, other in zip(helds, before, anew, strict=True):
            for name, t in held.submodel.params.items():
                assert torch.equal(t, was[name])
                assert t.data_ptr() != other.submodel.params[name].data_ptr()
        with alone():
            after = together([handed_over(d, i, h, in_place=True) for i, h in enumerate(helds)])
        for held, other, over in zip(helds, anew, after, strict=True):
            same(over.submodel, other.submodel)
            for name, t in held.submodel.params.items():
                assert t.data_ptr() == over.submodel.params[name].data_ptr()
        helds = after


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says what is mapped")
def test_large_pieces_are_memory_that_large_pages_are_for():
    """Shared mappings have none, as most systems are set up."""
    piece = room((1, LARGE), torch.uint8)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= piece.data_ptr() < last:
            assert rights == "rw-p"
            return
    pytest.fail("not mapped")


def holders_by_hand(sketch, name, k):
    """Entry -> the workers that hold it, from index sets and dense masks alone."""
    partition = sketch.sample(5, k)
    masks = torch.zeros((N, *SHAPES[name]), dtype=torch.bool)
    for i in range(N):
        if partition.holds(name, i):
            masks[i][partition.block(name, masks[i], i)] = True
    return masks.reshape(N, -1).T


@pytest.mark.parametrize("deal", DEALS, ids=repr)
def test_payload_is_the_lower_bound_to_the_byte(deal):
    """Entries that change hands, once; shared ones to one of their holders and back out."""
    x, sketch = model(), NetSketch(LAYOUT, deal)
    d = draws(sketch, x)
    helds, n_planes, size = parts(d, x), 2, 4
    home = {
        n: torch.arange(torch.zeros(s).numel()) // d.grids[n].length % N for n, s in SHAPES.items()
    }
    for k in range(5):
        bound = 0
        for name in SHAPES:
            now, then = holders_by_hand(sketch, name, k), holders_by_hand(sketch, name, k + 1)
            several = now.sum(1) > 1
            bound += int((now.sum(1) - 1)[several].sum())  # to one of them
            stays = torch.where(several, (now & then).any(1), False)
            bound += int((then.sum(1) - stays.long())[several].sum())  # and out to the next ones
            sole = now.sum(1) == 1
            home[name] = torch.where(sole, now.long().argmax(1), home[name])
            away = then & (torch.arange(N) != home[name][:, None])
            bound += int(away[~several].sum())
            # an idle shared line stays with its keeper, which only the code knows
            idle = several & ~then.any(1)
            if idle.any():
                grid = d.grids[name]
                every = keepers_of(d, name, k, np.arange(grid.n_rows), np.arange(grid.n_cols))
                home[name][idle] = torch.as_tensor(every.astype(int)).repeat_interleave(
                    grid.length
                )[idle]
            again = several & then.any(1)
            home[name][again] = -1  # held in round k + 1: set there
        trained = [
            type(h)(h.k, local(k, i, h.submodel), h.shares, h.x) for i, h in enumerate(helds)
        ]
        helds, up = counted([merged(d, i, h) for i, h in enumerate(trained)])
        helds, down = counted([handed_over(d, i, h) for i, h in enumerate(helds)])
        assert sum(up) + sum(down) == bound * n_planes * size


@pytest.mark.parametrize("deal", DEALS, ids=repr)
def test_momentum_of_the_merge_goes_from_keeper_to_keeper_alone(deal):
    """To the byte; where all hold everything it stays where it is."""
    x, sketch, steps = model(moments=()), NetSketch(LAYOUT, deal), Outer()
    d = draws(sketch, x)
    helds = [parts(d, x), parts(d, ModelState(x.params, {OUTER: x.params}))]
    for k in range(5):
        moved = 0
        for name in SHAPES:
            grid, then = d.grids[name], d.masks(name, k + 1)
            every = np.arange(grid.n_rows), np.arange(grid.n_cols)
            before, after = (keepers_of(d, name, t, *every) for t in (k, k + 1))
            held = (then.rows[:, None] & then.cols).reshape(-1) != 0
            moved += 4 * grid.length * int(((before != after) & held).sum())
        sent = []
        for i, each in enumerate(helds):
            merge = train(d, each, steps=steps if i else None)
            helds[i], of_rank = counted([handed_over(d, r, h) for r, h in enumerate(merge)])
            sent.append(sum(of_rank))
        assert sent[1] - sent[0] == moved
        assert moved == 0 or not isinstance(deal, Full)
        for rank, held in enumerate(helds[1]):
            for name, momentum in held.submodel.moments[OUTER].items():
                lines = momentum.reshape(-1, d.grids[name].length)
                keepers = keepers_of(d, name, k + 1, *held_rows(d.masks(name, k + 1), rank))
                assert not lines[torch.as_tensor(keepers != rank)].any()


class Seldom:
    """Unit 0 is dealt in three rounds only; the others walk around."""

    n_workers = 3

    def hands(self, size, *, seed, k, axis=0):
        del seed, axis
        hands = [[1 + (k + i) % (size - 1)] for i in range(3)]
        if k in (51, 130, 249):
            hands[k % 3] = [0, *hands[k % 3]]
        return tuple(np.array(hand) for hand in hands)


def test_a_round_is_drawn_once_however_far_lines_are_looked_back_for():
    """Words of 64 rounds that are full are looked at in every later round, and stay as they are."""
    drawn = []

    class Counting(NetSketch):
        def sample(self, seed, k):
            drawn.append(k)
            return super().sample(seed, k)

    sketch = NetSketch(LAYOUT, Lazy(N, 3))
    d = draws(Counting(LAYOUT, Lazy(N, 3)), model())
    for k in range(200):
        found = [d.history("middle", k, word) for word in d.history_words(k)]
    assert sorted(drawn) == list(range(200))
    once = draws(sketch, model())
    for masks, word in zip(found, once.history_words(199), strict=True):
        expected = once.history("middle", 199, word)
        assert np.array_equal(masks.rows, expected.rows)
        assert np.array_equal(masks.cols, expected.cols)


def test_lines_that_waited_for_more_than_a_word_of_history_are_found():
    """From a start in the middle of a word; 79 and 119 rounds apart."""
    layout = Layout({"a": 4, "b": 4}, {"w": ("a", "b"), "v": ("a",)})
    sketch = NetSketch(layout, Seldom())
    x = ModelState({"w": torch.randn(4, 4), "v": torch.randn(4)})
    d = Draws(sketch, {name: p.to("meta") for name, p in x.params.items()}, 5, start=50)
    helds = parts(d, x, 50)
    work = lambda k, _, ws: [local(k, i, w) for i, w in enumerate(ws)]  # noqa: E731
    for done in rounds(x, sketch, work, holders, seed=5, n_rounds=251, start=50):
        after = train(d, helds)
        if done.k in (51, 52, 60, 129, 130, 131, 248, 249, 250):
            same(assembled(d, after), done.x)
        helds = pass_on(d, after)
    assert {held.k for held in helds} == {251}


def test_a_run_can_be_taken_up_in_any_round():
    x, sketch = model(), NetSketch(LAYOUT, Perm(N))
    work = lambda k, _, ws: [local(k, i, w) for i, w in enumerate(ws)]  # noqa: E731
    first, *_, last = rounds(x, sketch, work, holders, seed=5, n_rounds=9)
    d = draws(sketch, x, start=1)
    helds = parts(d, first.x, 1)
    for _ in range(1, 8):
        helds = pass_on(d, train(d, helds))
    assert [held.k for held in helds] == [last.k] * N
    same(assembled(d, train(d, helds)), last.x)


def test_what_the_ranks_store_together_is_the_model_and_what_they_share():
    """Nothing is kept twice but lines that several workers hold."""
    x, sketch = model(), NetSketch(LAYOUT, Perm(N))
    d = draws(sketch, x)
    helds = parts(d, x)
    for _ in range(6):
        helds = pass_on(d, train(d, helds))
        stored = sum(
            t.numel()
            for held in helds
            for t in [
                *held.submodel.tensors(),
                *(v for s in held.shares.values() for v in s.values.values()),
            ]
        )
        whole = sum(p.numel() for p in x.params.values())
        shared = sum(p.numel() for n, p in x.params.items() if n in ("whole", "scalar"))
        assert stored == 2 * (whole + (N - 1) * shared)


def test_more_workers_than_a_word_has_bits_are_refused():
    layout = Layout({"a": 70}, {"w": ("a",)})
    with pytest.raises(ValueError, match="65 workers. Use up to 64, or the coordinator"):
        Draws(NetSketch(layout, Perm(65)), {"w": torch.empty(70, device="meta")}, 0)


def test_a_parameter_that_nobody_was_given_waits_at_home():
    x, sketch = model(), NetSketch(LAYOUT, Bernoulli(N, p=0.05))
    d = draws(sketch, x)
    helds = parts(d, x)
    same(assembled(d, helds), x)
    same(assembled(d, pass_on(d, helds)), x)


WIDE = Layout(
    {"a": 130, "b": 70},
    {"w": ("b", "a"), "up": ("a", None), "down": (None, "b"), "conv": ("b", "a", None)},
)
WIDE_SHAPES = {"w": (70, 130), "up": (130, 3), "down": (3, 70), "conv": (70, 130, 2)}


@pytest.mark.parametrize("lanes", [True, False], ids=["lanes", "bits"])
@pytest.mark.parametrize("deal", [Perm(N), Lazy(N, 3), RandQ(N, q=20)], ids=repr)
def test_rows_of_several_words_equal_the_reference_bit_for_bit(deal, lanes, monkeypatch):
    """Sixteen entries at a time and one by one, whatever the processor has."""
    monkeypatch.setattr(handover, "are_quick", lambda: lanes)
    generator = torch.Generator().manual_seed(0)
    x = ModelState({n: torch.randn(s, generator=generator) for n, s in WIDE_SHAPES.items()})
    sketch = NetSketch(WIDE, deal)
    d = draws(sketch, x)
    helds = parts(d, x)
    work = lambda k, _, ws: [local(k, i, w) for i, w in enumerate(ws)]  # noqa: E731
    for done in rounds(x, sketch, work, holders, seed=5, n_rounds=5):
        after = train(d, helds)
        same(assembled(d, after), done.x)
        helds = pass_on(d, after)
    assert [held.k for held in helds] == [5] * N


@pytest.mark.parametrize("deal", [Perm(N), Lazy(N, 9)], ids=repr)
def test_senders_of_rows_are_the_keepers_of_their_lines(deal):
    """From a start in the middle of a word of history, over the edge of the next one."""
    x = ModelState({name: torch.zeros(shape) for name, shape in WIDE_SHAPES.items()})
    d = draws(NetSketch(WIDE, deal), x, start=40)
    for k in (40, 41, 63, 64, 70):
        for name in WIDE_SHAPES:
            then = d.masks(name, k + 1)
            rows, cols = held_rows(then, 1)
            senders = senders_of(d, name, k, rows, sets_of(then, N)[1])
            found = np.unpackbits(senders.view(np.uint8), axis=2, bitorder="little")[:, :, cols]
            assert (found.sum(axis=1) == 1).all()
            by_line = found.argmax(axis=1).reshape(-1)
            assert (by_line == keepers_of(d, name, k, rows, cols)).all()


def test_rounds_in_which_lines_had_two_holders_are_looked_at_line_by_line():
    x = ModelState({name: torch.zeros(shape) for name, shape in WIDE_SHAPES.items()})
    d = draws(NetSketch(WIDE, RandQ(N, q=60)), x)
    rows, _ = held_rows(d.masks("w", 1), 0)
    assert senders_of(d, "w", 0, rows, sets_of(d.masks("w", 1), N)[0]) is None
