"""Flat buffers: equal to the slow path to the bit, packed without a copy, re-used if asked."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subnetwork.deals import Bernoulli, Full, Perm, RandQ
from subnetwork.nets import MLP, Layout, ModelState, NetSketch, holders, initial_state
from subnetwork.nets.buffers import Buffers
from subnetwork.nets.counters import COUNTER, counter_shape, no_moments, per_unit, spread
from subnetwork.nets.entries import Entries
from subnetwork.nets.merges import holders_in_place
from subnetwork.nets.partition import block_of
from subnetwork.nets.state import Submodel
from subnetwork.nets.terms import Cat, Prod, extent
from subnetwork.runtime.wire import Header, Verb, pack, unpack

LAYOUT = Layout(
    {"heads": 6, "hidden": 9, "blocks": 5},
    {
        "qkv": (Cat((Prod(("heads", 2)),) * 3), None),
        "out": (None, Prod(("heads", 2))),
        "square": ("hidden", "heads"),
        "conv": (None, "hidden", None, "heads"),
        "bias": ("hidden",),
        "mixed": (Cat(("hidden", 4)),),
        "head": (None, None),
        "scalar": (),
        "b0": ("hidden", None),
        "b1": (None, None),
        "b2": (None, "heads"),
        "b3": (None,),
        "b4": ("heads",),
    },
    unit_of={f"b{j}": ("blocks", j) for j in range(5)},
)
SIZES = {"qkv": (36, 5), "out": (5, 12), "square": (9, 6), "conv": (4, 9, 3, 6), "bias": (9,),
         "mixed": (13,), "head": (4, 5), "scalar": (), "b0": (9, 2),
         "b1": (3, 2), "b2": (2, 6), "b3": (4,), "b4": (6,)}  # fmt: skip
DEALS = [Full(1), Full(3), Perm(3), Perm(3, (1, 2, 2)), RandQ(3, q=2), Bernoulli(3, p=0.6)]


def state(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    params = {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in SIZES.items()}
    moment = {n: torch.randn(s, generator=generator, dtype=dtype) for n, s in SIZES.items()}
    counters = no_moments(LAYOUT, params, [COUNTER])[COUNTER]
    for counter in counters.values():
        counter.copy_(torch.randint(9, counter.shape, generator=generator))
    return ModelState(params, {"exp_avg": moment, COUNTER: counters})


def slow_select(partition, x, worker):
    """Index by index, tensor by tensor, as the first version did it."""

    def cut(tensors, dims):
        return {
            n: t[block_of(LAYOUT, dims[n], t, partition.units(worker))].clone()
            for n, t in tensors.items()
            if partition.holds(n, worker)
        }

    per_counter = {
        n: tuple(None if d is None else per_unit(d) for d in ds) for n, ds in LAYOUT.dims.items()
    }
    moments = {
        m: cut(t, per_counter if m == COUNTER else LAYOUT.dims) for m, t in x.moments.items()
    }
    return Submodel(cut(x.params, LAYOUT.dims), moments)


def slow_merge(partition, whole, parts, dims):
    """The mean over holders with masks of the whole shape."""
    merged = {}
    for name, entry in whole.items():
        sole, change = entry.clone(), torch.zeros_like(entry)
        count = torch.zeros_like(entry)
        for i in range(partition.n_workers):
            if partition.holds(name, i):
                block = block_of(LAYOUT, dims[name], entry, partition.units(i))
                sole[block] = parts[i][name]
                change[block] += parts[i][name] - entry[block]
                count[block] += 1
        merged[name] = torch.where(count > 1, entry + change / count.clamp(min=1), sole)
    return merged


def same(a, b):
    bits = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}
    return a.keys() == b.keys() and all(
        torch.equal(a[n].view(bits[a[n].dtype]), b[n].view(bits[b[n].dtype])) for n in a
    )


def trained(w, seed):
    generator = torch.Generator().manual_seed(seed)
    moved = [t + torch.randn(t.shape, generator=generator).to(t) for t in w.tensors()]
    return unpack(torch.cat([t.reshape(-1) for t in moved]), w, Header(Verb.DONE))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(deal=st.sampled_from(DEALS), seed=st.integers(0, 2**63), buffered=st.booleans())
def test_cut_and_merge_equal_the_slow_path_to_the_bit(dtype, deal, seed, buffered):
    x = state(dtype)
    partition = NetSketch(LAYOUT, deal, Buffers() if buffered else None).sample(seed, 0)
    parts = [partition.select(x, i) for i in range(partition.n_workers)]
    for i, part in enumerate(parts):
        slow = slow_select(partition, x, i)
        assert same(part.params, slow.params)
        assert all(same(part.moments[m], slow.moments[m]) for m in x.moments)
    back = [trained(part, i) for i, part in enumerate(parts)]
    expected = slow_merge(partition, x.params, [z.params for z in back], LAYOUT.dims)
    merged = holders(x, partition, back)
    assert same(merged.params, expected)
    assert same(x.params, state(dtype).params)  # a merge returns a new model
    in_place = holders_in_place(x, partition, back)
    assert in_place.params["square"] is x.params["square"]
    assert same(in_place.params, expected)
    assert all(same(in_place.moments[m], merged.moments[m]) for m in x.moments)


def test_signed_zeros_are_merged_as_the_slow_path_merges_them():
    layout = Layout({"a": 2}, {"w": (None,)})
    partition = NetSketch(layout, Full(2)).sample(0, 0)
    x = {"w": torch.tensor([0.0, -0.0, 0.0, -0.0])}
    parts = [{"w": torch.tensor([-0.0, -0.0, 0.0, 0.0])}] * 2
    [slow] = [torch.zeros(4)]
    change = (slow + (parts[0]["w"] - x["w"])) + (parts[1]["w"] - x["w"])
    assert same(partition.merge(x, parts), {"w": x["w"] + change / 2})


@pytest.mark.parametrize("deal", DEALS, ids=str)
def test_a_submodel_is_one_buffer_and_packing_it_copies_nothing(deal):
    x = state()
    partition = NetSketch(LAYOUT, deal).sample(1, 0)
    w = partition.select(x, 0)
    flat = pack(w)
    assert flat.data_ptr() == next(w.tensors()).data_ptr()
    assert torch.equal(flat, torch.cat([t.reshape(-1) for t in w.tensors()]))
    again = unpack(flat, w, Header(Verb.DONE, loss=0.5))
    assert pack(again).data_ptr() == flat.data_ptr()
    flat.fill_(3)
    assert all((t == 3).all() for t in again.tensors())
    assert same(x.params, state().params)  # a copy: writing to it leaves x alone


def test_a_submodel_that_is_no_single_buffer_is_packed_by_copying():
    a, b = torch.arange(4.0), torch.arange(3.0)
    apart = Submodel({"a": a, "b": b})
    assert apart.flat() is None
    assert pack(apart).tolist() == [0, 1, 2, 3, 0, 1, 2]
    both = torch.arange(7.0)
    assert Submodel({"b": both[4:], "a": both[:4]}).flat() is None  # in another order
    assert Submodel({"a": both[:3], "b": both[4:]}).flat() is None  # with a gap
    assert Submodel({"a": both[:6].view(2, 3).T}).flat() is None  # not row-major
    assert Submodel({}).flat() is None


def test_rounds_that_are_kept_stay_as_they_were_unless_buffers_were_asked_for():
    x, layout = initial_state(MLP(4, (9, 6), 2), seed=0), MLP(4, (9, 6), 2).layout
    kept, stands = NetSketch(layout, Perm(3)), NetSketch(layout, Perm(3), Buffers())
    first, standing = kept.sample(0, 0).select(x, 0), stands.sample(0, 0).select(x, 0)
    copy = pack(first).clone()
    assert torch.equal(pack(standing), copy)
    kept.sample(0, 1).select(x, 0)
    second = stands.sample(0, 1).select(x, 0)
    assert torch.equal(pack(first), copy)
    assert not torch.equal(pack(standing), copy)
    assert pack(second).data_ptr() == pack(standing).data_ptr()
    other = stands.sample(0, 1).select(x, 1)  # each worker has a buffer of its own
    assert torch.equal(pack(second), pack(kept.sample(0, 1).select(x, 0)))
    assert torch.equal(pack(other), pack(kept.sample(0, 1).select(x, 1)))


def test_indices_are_computed_once_a_round():
    x = state()
    partition = NetSketch(LAYOUT, Perm(3)).sample(0, 0)
    first = partition.entries("square", x.params["square"], 1)
    assert partition.entries("square", x.moments["exp_avg"]["square"].to("meta"), 1) is first


@pytest.mark.parametrize("shape", [(), (7,), (600, 700), (4, 90, 3, 60), (2, 3, 5)])
@given(seed=st.integers(0, 10**6))
def test_gathering_and_scattering_are_indexing(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    index = tuple(
        None
        if torch.rand((), generator=generator) < 0.4
        else torch.rand(n, generator=generator).lt(0.5).nonzero().view(-1)
        for n in shape
    )
    entries, x = Entries(shape, index), torch.randn(shape, generator=generator)
    block = x[entries.key]
    assert entries.shape == block.shape
    assert entries.numel == block.numel()
    assert torch.equal(entries.gather(x, torch.empty(entries.shape)), block)
    assert torch.equal(x.reshape(-1)[entries.flat()], block.reshape(-1))
    new = torch.randn(entries.shape, generator=generator)
    expected = x.clone()
    expected[entries.key] = new
    assert torch.equal(entries.scatter(x.clone(), new), expected)
    if len(shape) == 2:
        turned = x.T.contiguous().T  # the user's parameter need not be row-major
        assert torch.equal(entries.gather(turned, torch.empty(entries.shape)), block)
        assert torch.equal(entries.scatter(turned, new), expected)


def test_a_counter_broadcasts_to_its_parameter_unit_by_unit():
    x = state()
    assert counter_shape(LAYOUT, "qkv") == (18, 1)
    assert counter_shape(LAYOUT, "square") == (9, 6)
    assert counter_shape(LAYOUT, "conv") == (1, 9, 1, 6)
    assert counter_shape(LAYOUT, "mixed") == (10,)
    assert counter_shape(LAYOUT, "head") == (1, 1)
    for name, dims in LAYOUT.dims.items():
        for d, dim in enumerate(dims):
            index = spread(dim, LAYOUT.sizes)
            if index is not None:
                assert len(index) == extent(dim, LAYOUT.sizes)
                assert set(index.tolist()) == set(range(counter_shape(LAYOUT, name)[d]))
    assert x.moments[COUNTER]["scalar"].shape == ()
