"""A dead rank's part, put together by the others: to the bit, in every round, for every deal."""

import numpy as np
import pytest
from simulated import (
    DEALS,
    LAYOUT,
    N,
    draws,
    model,
    parts,
    same_part,
    train,
)

from subnetwork.deals import Full, Lazy, Perm, RandQ
from subnetwork.nets import ModelState, NetSketch, Outer
from subnetwork.runtime.direct import handed_over, together
from subnetwork.runtime.direct.held import OUTER, PARAMS, held_rows
from subnetwork.runtime.direct.links import Post
from subnetwork.runtime.direct.rebuilding import given_back, rebuilt
from subnetwork.runtime.direct.replicas import idle_lines, neighbour, replicated, unknown
from subnetwork.runtime.direct.routing import keepers_of

CASES = [(deal, "float32") for deal in DEALS]
CASES += [(deal, wire) for deal in (Perm(N), RandQ(N, q=2)) for wire in ("bfloat16", "int8")]
CASES += [(deal, "float32") for deal in (Perm(2), Lazy(5, 2), RandQ(4, q=1))]


def noting(exchange, posts):
    """The exchange; its posts are copied, as bytes, before they leave."""
    while True:
        try:
            post = next(exchange)
        except StopIteration as end:
            return end.value
        posts.append(Post([[p.clone() for p in pieces] for pieces in post.pieces], []))
        yield post


def pass_on_with_replicas(d, helds, known, replicas, wire="float32"):
    """Hand over, then send replicas; also what every rank sent in the hand-over."""
    posts = [[] for _ in helds]
    helds = together([noting(handed_over(d, i, h, wire), posts[i]) for i, h in enumerate(helds)])
    exchanges = [replicated(d, i, h, known[i], replicas[i]) for i, h in enumerate(helds)]
    bytes_of = [[] for _ in helds]
    replicas = together([noting(e, bytes_of[i]) for i, e in enumerate(exchanges)])
    sent = [post for (post,) in posts]
    return helds, replicas, sent, [post for (post,) in bytes_of]


def index_of(held):
    return {name: share.lines for name, share in held.shares.items()}


def nothing_known(d, k):
    n = d.n_workers
    return [{} for _ in range(n)], [unknown(d, k, (i - 1) % n) for i in range(n)]


def brought_back(d, lost, helds, sent, replicas, wire="float32"):
    """The lost rank's part, out of what the others have: nothing of its own goes in."""
    moments = list(helds[0].submodel.moments)
    n, k = d.n_workers, helds[0].k
    exchanges = [
        rebuilt(d, lost, k, moments, wire)
        if i == lost
        else given_back(d, i, lost, sent[i], replicas[i], moments)
        for i in range(n)
    ]
    return together(exchanges)[lost]


@pytest.mark.parametrize(("deal", "wire"), CASES, ids=repr)
def test_every_rank_of_every_round_comes_back_to_the_bit(deal, wire):
    x = model(moments=("m", "v"))
    d = draws(NetSketch(LAYOUT, deal), x)
    helds = parts(d, x)
    known, replicas = nothing_known(d, 0)
    for _ in range(6):
        after = train(d, helds, wire)
        helds, replicas, sent, _ = pass_on_with_replicas(d, after, known, replicas, wire)
        known = [index_of(held) for held in helds]
        for lost in range(d.n_workers):
            same_part(brought_back(d, lost, helds, sent, replicas, wire), helds[lost])


STEPPED = [(deal, "float32") for deal in DEALS]
STEPPED += [(RandQ(N, q=2), wire) for wire in ("bfloat16", "int8")]


@pytest.mark.parametrize(("deal", "wire"), STEPPED, ids=repr)
def test_the_momentum_of_the_merge_comes_back_to_its_keeper(deal, wire):
    x, steps = model(), Outer()
    x = ModelState(x.params, {**x.moments, OUTER: model().moments["m"]})
    d = draws(NetSketch(LAYOUT, deal), x)
    helds = parts(d, x)
    known, replicas = nothing_known(d, 0)
    for _ in range(4):
        after = train(d, helds, wire, steps)
        helds, replicas, sent, _ = pass_on_with_replicas(d, after, known, replicas, wire)
        known = [index_of(held) for held in helds]
        for replica in replicas:  # of what goes on with the same keeper, not a line more
            for name, own in replica.own.items():
                rows, cols = held_rows(d.masks(name, replica.k), replica.of)
                before, now = (keepers_of(d, name, replica.k - t, rows, cols) for t in (1, 0))
                kept = np.count_nonzero((before == replica.of) & (now == replica.of))
                assert len(own[OUTER]) == kept
        for lost in range(d.n_workers):
            same_part(brought_back(d, lost, helds, sent, replicas, wire), helds[lost])


@pytest.mark.parametrize("deal", [Perm(N), Lazy(N, 3), RandQ(N, q=2)], ids=repr)
def test_a_rank_that_came_back_has_and_gets_replicas_like_the_others(deal):
    """Its own goes on from the neighbour's; that of the one before it comes anew."""
    x = model()
    d = draws(NetSketch(LAYOUT, deal), x)
    helds = parts(d, x)
    known, replicas = nothing_known(d, 0)
    for k in range(8):
        after = train(d, helds)
        helds, replicas, sent, _ = pass_on_with_replicas(d, after, known, replicas)
        known = [index_of(held) for held in helds]
        lost = (2 * k + 1) % N
        back = brought_back(d, lost, helds, sent, replicas)
        same_part(back, helds[lost])
        helds[lost] = back
        known[lost] = index_of(helds[lost])
        replicas[lost] = unknown(d, k + 1, (lost - 1) % N)
        known[(lost - 1) % N] = {}


@pytest.mark.parametrize("deal", [*DEALS, Perm(2)], ids=repr)
def test_the_index_of_idle_lines_is_found_without_the_rank(deal):
    x = model()
    d = draws(NetSketch(LAYOUT, deal), x)
    helds = parts(d, x)
    known, replicas = nothing_known(d, 0)
    for k in range(5):
        for i, held in enumerate(helds):
            for name in d.like:
                found = idle_lines(d, name, k, i)
                assert bool(found.starts[-1]) == (name in held.shares)
                if name in held.shares:
                    np.testing.assert_array_equal(found.words, held.shares[name].lines.words)
                    np.testing.assert_array_equal(found.starts, held.shares[name].lines.starts)
        helds, replicas, _, _ = pass_on_with_replicas(d, train(d, helds), known, replicas)
        known = [index_of(held) for held in helds]


@pytest.mark.parametrize("deal", [Perm(N), Lazy(N, 3), Full(N), RandQ(N, q=2)], ids=repr)
def test_a_replica_costs_the_lines_that_a_rank_keeps_and_nothing_twice(deal):
    """Bytes: own lines, and idle ones that were not idle before; not one that is there already."""
    x = model()
    d = draws(NetSketch(LAYOUT, deal), x)
    helds = parts(d, x)
    known, replicas = nothing_known(d, 0)
    for k in range(4):
        before = helds
        helds, replicas, _, sizes = pass_on_with_replicas(d, train(d, helds), known, replicas)
        for i in range(N):
            bound = 0
            for name in d.like:
                line, grid = 2 * 4 * d.grids[name].length, d.grids[name]
                mine = own_by_hand(d, name, k, i, before[i])
                holders = d.masks(name, k + 1)
                held = holders.rows[:, None] & holders.cols
                fresh = mine & (held == 0)
                if k:
                    fresh &= ~idle_by_hand(before[i], name, grid)
                own = mine & (held >> np.uint64(i) & np.uint64(1) != 0)
                bound += line * int(own.sum() + fresh.sum())
            assert sizes[i].n_bytes == bound
            assert len(sizes[i].pieces[neighbour(i, N)]) > 0 or not bound
        known = [index_of(held) for held in helds]


def idle_by_hand(held, name, grid):
    if name not in held.shares:
        return np.zeros((grid.n_rows, grid.n_cols), bool)
    words = held.shares[name].lines.words.view(np.uint8)
    return np.unpackbits(words, axis=1, bitorder="little")[:, : grid.n_cols].astype(bool)


def own_by_hand(d, name, k, i, held):
    """Lines that rank i keeps after round k: held ones by the keepers' rule, and idle ones."""
    grid, now = d.grids[name], d.masks(name, k)
    keepers = keepers_of(d, name, k, np.arange(grid.n_rows), np.arange(grid.n_cols))
    mine = keepers.reshape(grid.n_rows, grid.n_cols) == i
    assert (mine & (now.rows[:, None] & now.cols == 0) == idle_by_hand(held, name, grid)).all()
    return mine


def test_counters_have_no_moments_in_a_replica_either():
    from subnetwork.nets.counters import COUNTER
    from subnetwork.runtime.direct import draws_of, taken, with_moments
    from subnetwork.runtime.direct.counted import is_counter

    x = model(moments=())
    d = draws_of(NetSketch(LAYOUT, Perm(N)), x.params, 5, moments=("m", COUNTER))
    whole = list(with_moments(x.params.items(), ("m", COUNTER), LAYOUT))
    helds = [taken(d, rank, 0, whole) for rank in range(N)]
    known, replicas = nothing_known(d, 0)
    for _ in range(3):
        helds, replicas, sent, _ = pass_on_with_replicas(d, train(d, helds), known, replicas)
        known = [index_of(held) for held in helds]
        for lost in range(N):
            same_part(brought_back(d, lost, helds, sent, replicas), helds[lost])
    assert any(is_counter(name) for name in replicas[0].own)
    assert all(
        set(own) == ({PARAMS} if is_counter(name) else {PARAMS, "m"})
        for name, own in replicas[0].own.items()
    )
