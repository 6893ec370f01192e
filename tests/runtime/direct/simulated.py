"""n ranks in one process: a model with every kind of cut, and the exchange in lockstep."""

import copy
from dataclasses import replace
from unittest import mock

import numpy as np
import torch

from subnetwork.deals import Bernoulli, Full, Lazy, Ordered, Perm, RandQ, Rolling
from subnetwork.keys import key
from subnetwork.nets import Layout, ModelState
from subnetwork.nets.state import Submodel
from subnetwork.nets.terms import Cat, Prod
from subnetwork.runtime.direct import (
    Draws,
    bundles,
    handed_over,
    memory,
    merged,
    taken,
    together,
)
from subnetwork.runtime.direct.held import OUTER, planes
from subnetwork.runtime.direct.outer import trained
from subnetwork.runtime.direct.routing import keepers_of
from subnetwork.runtime.direct.wire import raw

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


def alone():
    """Every tensor travels alone, however small it is."""
    return mock.patch.object(bundles, "SMALL", 0)


def train(d, helds, wire="float32", steps=None):
    """One round of every rank's training, and the merge: of all tensors alone, and in company."""
    after = [trained(held, local, i, steps) for i, held in enumerate(helds)]
    spare = copy.deepcopy(after)
    with alone():
        each = together([merged(d, i, held, wire, steps) for i, held in enumerate(spare)])
    found = together([merged(d, i, held, wire, steps) for i, held in enumerate(after)])
    for one, other in zip(found, each, strict=True):
        same_part(one, other)
    return found


def pass_on(d, helds, wire="float32"):
    """Every hand-over twice into memory of its own, of all tensors alone and in company, and over
    copies of what was merged: twice over the blocks, once over all that there is to be had."""
    spares = [copy.deepcopy(helds) for _ in range(3)]
    anew = together([handed_over(d, i, held, wire) for i, held in enumerate(helds)])
    with alone():
        found = [together([handed_over(d, i, held, wire) for i, held in enumerate(helds)])]
        exchanges = [handed_over(d, i, h, wire, in_place=True) for i, h in enumerate(spares[0])]
        found.append(together(exchanges))
    with mock.patch.object(memory, "LARGE", 1):
        reused = [replace(held, spare=leavings()) for held in spares.pop()]
        exchanges = [handed_over(d, i, h, wire, in_place=True) for i, h in enumerate(reused)]
        found.append(together(exchanges))
    exchanges = [handed_over(d, i, held, wire, in_place=True) for i, held in enumerate(spares[1])]
    for over in (*found, together(exchanges)):
        for one, other in zip(over, anew, strict=True):
            same_part(one, other)
    return over


def leavings():
    """Memory with anything in it, in pieces that some tensors fit into."""
    spare = memory.Spare()
    spare.add(torch.full((n,), torch.nan) for n in (9, 40, 40, 300, 1000))
    return spare


def same_tensors(one, other):
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        assert one[name].dtype == tensor.dtype
        assert one[name].shape == tensor.shape
        assert torch.equal(raw(one[name]), raw(tensor)), name


def same_part(one, other):
    assert one.k == other.k
    assert planes(one.submodel).keys() == planes(other.submodel).keys()
    for plane, tensors in planes(other.submodel).items():
        same_tensors(planes(one.submodel)[plane], tensors)
    assert one.x.keys() == other.x.keys()
    for plane, tensors in other.x.items():
        same_tensors(one.x[plane], tensors)
    assert one.shares.keys() == other.shares.keys()
    for name, share in other.shares.items():
        np.testing.assert_array_equal(one.shares[name].lines.words, share.lines.words)
        np.testing.assert_array_equal(one.shares[name].lines.starts, share.lines.starts)
        same_tensors(one.shares[name].values, share.values)


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
                    bits = np.unpackbits(share.lines.words.view(np.uint8), bitorder="little")
                    us, vs = bits.reshape(grid.n_rows, -1).nonzero()
                    assert (
                        np.bincount(us, minlength=grid.n_rows) == np.diff(share.lines.starts)
                    ).all()
                    waiting = torch.as_tensor(us * grid.n_cols + vs)
                    whole[waiting] = share.values[plane]
                    times[waiting] += 1
            assert (times == 1).all(), (name, k)
            found.setdefault(plane, {})[name] = whole.view(p.shape)
    params = found.pop("")
    return ModelState(params, found)


def same(one, other):
    assert one.params.keys() == other.params.keys()
    assert one.moments.keys() - {OUTER} == other.moments.keys() - {OUTER}  # told elsewhere
    for name, p in other.params.items():
        assert torch.equal(one.params[name], p), name
        for moment, tensors in other.moments.items():
            assert torch.equal(one.moments[moment][name], tensors[name]), (moment, name)


def counted(exchanges):
    """Run exchanges in lockstep and count the bytes that leave each rank."""
    sent = [0] * len(exchanges)

    def watched(rank, exchange):
        while True:
            try:
                post = next(exchange)
            except StopIteration as end:
                return end.value
            assert not post.sizes[rank], "a rank sends to itself"
            sent[rank] += post.n_bytes
            yield post

    return together([watched(i, e) for i, e in enumerate(exchanges)]), sent
