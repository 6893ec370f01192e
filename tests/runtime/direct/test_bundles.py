"""Which tensors travel together: all ranks say the same, whatever they hold."""

from dataclasses import replace

import pytest
import torch
from simulated import LAYOUT, SHAPES, N, alone, assembled, draws, model, parts, pass_on, same

from subnetwork.deals import Perm
from subnetwork.nets import Layout, ModelState, NetSketch
from subnetwork.nets.state import Submodel
from subnetwork.runtime.direct import bundles as travelling
from subnetwork.runtime.direct import gathered, handed_over, together
from subnetwork.runtime.direct.bundles import SMALL, bundles


def listed(d, planes, wire="float32"):
    return [
        [{tuple(m) for m in b.members} for b in of_table] for of_table in bundles(d, planes, wire)
    ]


def test_small_tensors_that_are_cut_alike_are_one_to_an_exchange():
    d = draws(NetSketch(LAYOUT, Perm(N)), model())
    found = listed(d, ("", "m"))
    assert [{("", "up"), ("m", "up"), ("", "bias"), ("m", "bias")}] in found
    both = {frozenset(name for _, name in each) for of_table in found for each in of_table}
    assert frozenset({"middle", "conv"}) in both, "lines of one and of six entries"
    assert frozenset({"block"}) in both
    assert frozenset({"block.bias"}) in both, "of another block"
    every = [m for of_table in found for each in of_table for m in each]
    assert sorted(every) == sorted((p, name) for p in ("", "m") for name in SHAPES)


def test_large_tensors_travel_alone_and_rounded_ones_with_their_like():
    d = draws(NetSketch(LAYOUT, Perm(N)), model())
    with alone():
        assert all(len(each) == 1 for of_table in listed(d, ("", "m")) for each in of_table)
    in_int8 = [each for of_table in listed(d, ("", "m"), "int8") for each in of_table]
    for plane in ("", "m"):  # entries of int8, and of bfloat16
        assert {(plane, "up"), (plane, "bias")} in in_int8
    large = Layout({"a": 4}, {"w": ("a", None), "b": ("a",)})
    x = ModelState({"w": torch.zeros(4, SMALL // 4 + 1), "b": torch.zeros(4)}, {})
    assert listed(draws(NetSketch(large, Perm(2)), x), ("",)) == [[{("", "w")}, {("", "b")}]]


def test_numbers_of_other_types_have_a_bundle_of_their_own():
    layout = Layout({"a": 4}, {"w": ("a",), "b": ("a",), "n": ("a",)})
    like = {"w": torch.zeros(4), "b": torch.zeros(4), "n": torch.zeros(4, dtype=torch.int64)}
    d = draws(NetSketch(layout, Perm(2)), ModelState(like, {}))
    assert listed(d, ("",)) == [[{("", "w"), ("", "b")}, {("", "n")}]]


def test_a_bundle_has_a_bound(monkeypatch):
    """Every rank draws the line at the same tensor: it goes by whole shapes."""
    layout = Layout({"a": 4}, dict.fromkeys("uvw", ("a", None)))
    x = ModelState({name: torch.zeros(4, 5) for name in "uvw"}, {})
    d = draws(NetSketch(layout, Perm(2)), x)
    monkeypatch.setattr(travelling, "MOST", 30)
    assert listed(d, ("",)) == [[{("", "u"), ("", "v")}, {("", "w")}]]


def test_what_a_rank_has_a_single_line_of_has_memory_of_its_own():
    """16-bit tensors of one unit a worker: a view in the middle of a bundle cannot be moved on."""
    dims = {"w": ("a", None), "b": ("a",), "v": ("a", None), "m": ("b", "a"), "n": ("b", "a")}
    shapes = {"w": (N, 8), "b": (N,), "v": (N, 8), "m": (N, N), "n": (N, N)}
    layout = Layout({"a": N, "b": N}, dims)
    x = ModelState({name: torch.randn(s).to(torch.bfloat16) for name, s in shapes.items()}, {})
    d = draws(NetSketch(layout, Perm(N)), x)
    helds = parts(d, x)
    for _ in range(3):
        helds = pass_on(d, helds)
        for held in helds:
            tensors = [*held.submodel.params.values()]
            tensors += [t for share in held.shares.values() for t in share.values.values()]
            assert all(t.storage_offset() == 0 for t in tensors)
        for name, p in x.params.items():
            found, *_ = together([gathered(d, i, held, name) for i, held in enumerate(helds)])
            assert torch.equal(found[""], p)


def test_lines_in_the_middle_of_memory_are_moved_all_the_same():
    """Local work may return views of one buffer: here of 16 bits, at odd places."""
    layout = Layout({"a": 4}, {"w": ("a", None), "v": ("a", None)})
    x = ModelState({n: torch.randn(4, 2).to(torch.bfloat16) for n in "wv"}, {})
    d = draws(NetSketch(layout, Perm(2)), x)
    helds = []
    for held in parts(d, x):
        flat = torch.cat([torch.zeros(1), *(p.flatten() for p in held.submodel.params.values())])
        w, v = flat.to(torch.bfloat16)[1:].split(4)
        helds.append(replace(held, submodel=Submodel({"w": w.view(2, 2), "v": v.view(2, 2)})))
    with alone():
        helds = together([handed_over(d, i, h, in_place=True) for i, h in enumerate(helds)])
    same(assembled(d, helds), x)


@pytest.mark.parametrize("wire", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("rank", range(N))
def test_a_bundle_is_one_piece_to_each_rank(rank, wire):
    d = draws(NetSketch(LAYOUT, Perm(N)), model())
    held = parts(d, model())[rank]
    in_company = next(handed_over(d, rank, held, wire))
    with alone():
        each = next(handed_over(d, rank, held, wire))
    assert in_company.sizes == each.sizes, "not a byte more"
    ways = sum(map(len, bundles(d, ("", "m"), wire)))  # to a table one, and of int8 two
    assert max(map(len, in_company.pieces)) <= ways
    assert max(map(len, in_company.pieces)) < max(map(len, each.pieces))
