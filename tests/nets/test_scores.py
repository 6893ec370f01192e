"""Scores of units, and hands that come in few widths."""

import numpy as np
import pytest
import torch

from subnetwork.deals import Perm, RandQ, Scored
from subnetwork.nets import MLP, Layout, ModelState, NetSketch, changes, holders, initial_state
from subnetwork.nets.terms import Cat, Prod

LAYOUT = Layout(
    {"heads": 3, "hidden": 4, "blocks": 2},
    {"qkv": (Cat((Prod(("heads", 2)),) * 2), None), "mixed": (Cat(("hidden", 3)), "hidden"),
     "bias": ("hidden",), "head": (None,), "b0": (None, "heads"), "b1": (None,)},
    unit_of={"b0": ("blocks", 0), "b1": ("blocks", 1)},
)  # fmt: skip
SHAPES = {"qkv": (12, 2), "mixed": (7, 4), "bias": (4,), "head": (5,), "b0": (2, 3), "b1": (4,)}


def test_a_unit_is_scored_by_all_entries_that_belong_to_it():
    """Written out with masks: an entry belongs to a unit if silencing the unit takes it away."""
    generator = torch.Generator().manual_seed(0)
    start = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    now = {n: torch.randn(s, generator=generator) for n, s in SHAPES.items()}
    gap = {n: (now[n] - start[n]).abs().double() for n in now}
    heads, hidden, blocks = changes(LAYOUT, now, start)
    for u in range(3):
        rows = [2 * u, 2 * u + 1, 6 + 2 * u, 7 + 2 * u]
        assert heads[u] == pytest.approx(float(gap["qkv"][rows].sum() + gap["b0"][:, u].sum()))
    for u in range(4):  # the entry where a unit meets itself counts as its row and as its column
        own = gap["mixed"][u].sum() + gap["mixed"][:, u].sum() + gap["bias"][u]
        assert hidden[u] == pytest.approx(float(own))
    assert blocks == pytest.approx([float(gap["b0"].sum()), float(gap["b1"].sum())])


def test_scores_steer_the_next_rounds():
    network = MLP(4, (6, 5), 2)
    x = initial_state(network, seed=0)
    moved = ModelState({n: p.clone() for n, p in x.params.items()})
    moved.params["0.weight"][[1, 4]] += 1
    deal = Scored((0.3, 0.5), changes(network.layout, moved.params, x.params))
    hands = NetSketch(network.layout, deal).sample(0, 0).hands
    assert hands["hidden.0"][0].tolist() == [1, 4]
    with pytest.raises(ValueError, match=r"Axis hidden\.0: Scored has 5 scores for axis number 0"):
        NetSketch(network.layout, Scored((0.3,), deal.scores[::-1]))


@pytest.mark.parametrize("deal", [Perm(3), Perm(2, (1, 3)), RandQ(2, q=7)], ids=str)
def test_hands_come_in_few_widths_and_the_rest_sits_out(deal):
    layout = MLP(4, (26, 18), 2).layout
    plain, few = NetSketch(layout, deal), NetSketch(layout, deal, width=4)
    x = initial_state(MLP(4, (26, 18), 2), seed=0)
    seen, shapes = set(), set()
    for k in range(40):
        whole, cut = plain.sample(0, k), few.sample(0, k)
        for axis in layout.sizes:
            for all_, kept in zip(whole.hands[axis], cut.hands[axis], strict=True):
                assert len(kept) == len(all_) // 4 * 4
                assert set(kept) <= set(all_)
                assert (np.diff(kept) > 0).all()
        seen |= set(cut.hands["hidden.0"][0].tolist())
        shapes |= {cut.select(x, 0).params["3.weight"].shape}
        assert cut.hands["hidden.0"][0].tolist() == few.sample(0, k).hands["hidden.0"][0].tolist()
    assert seen == set(range(26))  # nobody sits out for ever
    assert len(shapes) == 1
    merged = holders(x, cut, [cut.select(x, i) for i in range(deal.n_workers)])
    assert all(torch.equal(merged.params[n], p) for n, p in x.params.items())


def test_a_width_that_leaves_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"hand of 2 units has no multiple of width=4. Use width=2"
    ):
        NetSketch(MLP(4, (6,), 2).layout, Perm(3), width=4)
    with pytest.raises(ValueError, match="width=0 units; use 1 or more"):
        NetSketch(MLP(4, (6,), 2).layout, Perm(3), width=0)
