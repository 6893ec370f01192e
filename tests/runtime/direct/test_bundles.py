"""Which tensors travel together: all ranks say the same, whatever they hold."""

import pytest
import torch
from simulated import LAYOUT, SHAPES, N, alone, draws, model, parts

from subnetwork.deals import Perm
from subnetwork.nets import Layout, ModelState, NetSketch
from subnetwork.runtime.direct import handed_over
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


def test_large_tensors_and_those_with_scales_travel_alone():
    d = draws(NetSketch(LAYOUT, Perm(N)), model())
    with alone():
        assert all(len(each) == 1 for of_table in listed(d, ("", "m")) for each in of_table)
    in_int8 = [each for of_table in listed(d, ("", "m"), "int8") for each in of_table]
    assert all(len(each) == 1 or {plane for plane, _ in each} == {"m"} for each in in_int8)
    assert {("m", "up"), ("m", "bias")} in in_int8
    large = Layout({"a": 4}, {"w": ("a", None), "b": ("a",)})
    x = ModelState({"w": torch.zeros(4, SMALL // 4 + 1), "b": torch.zeros(4)}, {})
    assert listed(draws(NetSketch(large, Perm(2)), x), ("",)) == [[{("", "w")}, {("", "b")}]]


def test_numbers_of_other_types_have_a_bundle_of_their_own():
    layout = Layout({"a": 4}, {"w": ("a",), "b": ("a",), "n": ("a",)})
    like = {"w": torch.zeros(4), "b": torch.zeros(4), "n": torch.zeros(4, dtype=torch.int64)}
    d = draws(NetSketch(layout, Perm(2)), ModelState(like, {}))
    assert listed(d, ("",)) == [[{("", "w"), ("", "b")}, {("", "n")}]]


@pytest.mark.parametrize("rank", range(N))
def test_a_bundle_is_one_piece_to_each_rank(rank):
    d = draws(NetSketch(LAYOUT, Perm(N)), model())
    held = parts(d, model())[rank]
    in_company = next(handed_over(d, rank, held))
    with alone():
        each = next(handed_over(d, rank, held))
    assert in_company.sizes == each.sizes, "not a byte more"
    tables = len(bundles(d, ("", "m"), "float32"))
    assert max(map(len, in_company.pieces)) <= tables < max(map(len, each.pieces))
