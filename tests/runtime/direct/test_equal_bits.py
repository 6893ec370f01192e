"""n ranks in one process, against `rounds`: the same model, to the bit, round for round."""

import numpy as np
import pytest
import torch

from subnetwork import rounds
from subnetwork.deals import Bernoulli, Full, Lazy, Ordered, Perm, RandQ, Rolling
from subnetwork.keys import key
from subnetwork.nets import Layout, ModelState, NetSketch, holders
from subnetwork.nets.state import Submodel
from subnetwork.nets.terms import Cat, Prod
from subnetwork.runtime.direct import Draws, handed_over, merged, route, taken, together
from subnetwork.runtime.direct.handover import keepers_of

N = 3
DEALS = [
    Perm(N),
    Perm(N, (1, 2, 2)),
    Lazy(N, 3),
    Lazy(N, None),
    Full(N),
    RandQ(N, q=2),
    Bernoulli(N, p=0.5),
    Ordered((1.0, 0.5, 0.25)),
    Rolling((0.5, 0.25, 0.25)),
]
LAYOUT = Layout(
    {"a": 7, "b": 5, "blocks": 5},
    {
        "up": ("a", None),
        "bias": ("a",),
        "middle": ("b", "a"),
        "conv": ("b", "a", None, None),
        "down": (None, "b"),
        "whole": (None, None),
        "scalar": (),
        "heads": (Cat((Prod(("a", 2)), 3)), None, "b"),
        "block": (None, "a"),
        "block.bias": (None,),
    },
    unit_of={"block": ("blocks", 1), "block.bias": ("blocks", 3)},
)
SHAPES = {
    "up": (7, 4),
    "bias": (7,),
    "middle": (5, 7),
    "conv": (5, 7, 2, 3),
    "down": (3, 5),
    "whole": (6, 2),
    "scalar": (),
    "heads": (17, 2, 5),
    "block": (3, 7),
    "block.bias": (4,),
}


def model(dtype=torch.float32, moments=("m",)):
    generator = torch.Generator().manual_seed(0)

    def tensors():
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in SHAPES.items()
        }

    return ModelState(tensors(), {name: tensors() for name in moments})


def local(k, worker, submodel):
    """A stand-in for training: changes every entry in a way that depends on who holds it when."""
    generator = torch.Generator().manual_seed(key(k, worker) >> 1)

    def changed(tensors):
        return {
            name: t + torch.randn(t.shape, generator=generator).to(t.dtype)
            for name, t in tensors.items()
        }

    moments = {name: changed(tensors) for name, tensors in submodel.moments.items()}
    return Submodel(changed(submodel.params), moments)


def draws(sketch, x, seed=5, start=0):
    return Draws(sketch, {name: p.to("meta") for name, p in x.params.items()}, seed, start)


def parts(d, x, k=0):
    whole = [(n, {"": p} | {m: t[n] for m, t in x.moments.items()}) for n, p in x.params.items()]
    return [taken(d, rank, k, whole) for rank in range(d.n_workers)]


def train(d, helds, wire="float32"):
    """One round of every rank's training, and the merge."""
    trained = [
        type(held)(held.k, local(held.k, i, held.submodel), held.shares, held.x)
        for i, held in enumerate(helds)
    ]
    return together([merged(d, i, held, wire) for i, held in enumerate(trained)])


def pass_on(d, helds, wire="float32"):
    return together([handed_over(d, i, held, wire) for i, held in enumerate(helds)])


def assembled(d, helds):
    """The whole model out of all parts, by the keepers' own index: no line twice, none missing."""
    k, planes = helds[0].k, ["", *helds[0].submodel.moments]
    found = {}
    for name, p in d.like.items():
        grid, now = d.grids[name], d.masks(name, k)
        for plane in planes:
            whole = torch.full((grid.n_lines, grid.length), torch.nan, dtype=p.dtype)
            times = torch.zeros(grid.n_lines)
            for rank, held in enumerate(helds):
                tensors = held.submodel.moments[plane] if plane else held.submodel.params
                rows = [u for u in range(grid.n_rows) if int(now.rows[u]) >> rank & 1]
                cols = [v for v in range(grid.n_cols) if int(now.cols[v]) >> rank & 1]
                lines = torch.tensor([u * grid.n_cols + v for u in rows for v in cols]).long()
                if name in tensors:
                    keepers = keepers_of(d, name, k, np.array(rows, int), np.array(cols, int))
                    mine = torch.as_tensor(keepers) == rank
                    whole[lines[mine]] = tensors[name].reshape(-1, grid.length)[mine]
                    times[lines[mine]] += 1
                if name in held.shares:
                    share = held.shares[name]
                    for u in range(grid.n_rows):
                        for p_ in range(share.lines.starts[u], share.lines.starts[u + 1]):
                            line = u * grid.n_cols + int(share.lines.cols[p_])
                            whole[line] = share.values[plane][p_]
                            times[line] += 1
            assert (times == 1).all(), (name, k)
            found.setdefault(plane, {})[name] = whole.view(p.shape)
    params = found.pop("")
    return ModelState(params, found)


def same(one, other):
    for name, p in other.params.items():
        assert torch.equal(one.params[name], p), name
        for moment, tensors in other.moments.items():
            assert torch.equal(one.moments[moment][name], tensors[name]), (moment, name)


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


def counted(exchanges):
    """Run exchanges in lockstep and count the bytes that leave each rank."""
    sent = [0] * len(exchanges)

    def watched(rank, exchange):
        arrived = None
        while True:
            try:
                post = next(exchange) if arrived is None else exchange.send(arrived)
            except StopIteration as end:
                return end.value
            assert not post.sizes[rank], "a rank sends to itself"
            sent[rank] += sum(post.sizes)
            arrived = yield post

    return together([watched(i, e) for i, e in enumerate(exchanges)]), sent


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


class Seldom:
    """Unit 0 is dealt in three rounds only; the others walk around."""

    n_workers = 3

    def hands(self, size, *, seed, k, axis=0):
        del seed, axis
        hands = [[1 + (k + i) % (size - 1)] for i in range(3)]
        if k in (51, 130, 249):
            hands[k % 3] = [0, *hands[k % 3]]
        return tuple(np.array(hand) for hand in hands)


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


def test_a_run_can_be_taken_up_in_any_round():
    x, sketch = model(), NetSketch(LAYOUT, Perm(N))
    work = lambda k, _, ws: [local(k, i, w) for i, w in enumerate(ws)]  # noqa: E731
    first, *_, last = rounds(x, sketch, work, holders, seed=5, n_rounds=9)
    d = draws(sketch, x, start=1)
    helds = parts(d, first.x, 1)
    for _ in range(1, 8):
        helds = pass_on(d, train(d, helds))
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
    same(assembled(d, parts(d, x)), x)
    assert route(d, "block", 0, 0).lines_sent >= 0
