"""Scores of units, and hands that come in few widths."""

import numpy as np
import pytest
import torch

from subnetwork import deals
from subnetwork.deals import Bernoulli, Full, Perm, RandQ, Scored, WarmUp
from subnetwork.nets import MLP, Layout, ModelState, NetSketch, changes, holders, initial_state
from subnetwork.nets.laws import deal_from, least_hand, written
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


def test_a_width_speaks_of_units_of_width_and_leaves_blocks_and_empty_hands_alone():
    dims = {"head": ("hidden",), **{f"b{j}": (None,) for j in range(6)}}
    blocks = {f"b{j}": ("blocks", j) for j in range(6)}
    layout = Layout({"blocks": 6, "hidden": 9}, dims, unit_of=blocks)
    hands = NetSketch(layout, Perm(2), width=4).sample(0, 0).hands
    assert [len(hand) for hand in hands["blocks"]] == [3, 3]
    assert [len(hand) for hand in hands["hidden"]] == [4, 4]
    deal = Bernoulli(1, p=0.1)
    k = next(k for k in range(99) if not len(deal.hands(9, seed=0, k=k, axis=1)[0]))
    mixed = {"hidden": deal, "*": Full(1)}
    assert not len(NetSketch(layout, mixed, width=4).sample(0, k).hands["hidden"][0])


EVERY = (
    *(Full(2), Perm(3), Perm(2, (1, 3)), Perm(4, (5, 2, 2, 4)), WarmUp(2, Perm(4))),
    *(deals.AtLeast(3, 2), deals.AtLeast(3, 6), deals.Lazy(3, 2), deals.Lazy(3, None)),
    *(deals.Ordered((1.0, 0.3)), deals.Rolling((0.4, 0.25)), Scored((0.5, 0.2))),
    *(RandQ(2, q=5), Bernoulli(2, p=0.5)),
)


@pytest.mark.parametrize("deal", EVERY, ids=repr)
@pytest.mark.parametrize("size", [9, 12, 14])
def test_the_smallest_hand_is_the_smallest_of_many_draws(deal, size):
    draws = [deal.hands(size, seed=0, k=k) for k in range(120)]
    seen = min(len(hand) for hands in draws for hand in hands)
    known = least_hand(deal, size)
    assert known == (None if isinstance(deal, Bernoulli) else seen)


def test_a_width_is_refused_for_hands_that_round_0_does_not_deal():
    """A warm-up deals everything at first; unequal shares come out smaller in other rounds."""
    layout = MLP(4, (14,), 2).layout
    with pytest.raises(ValueError, match=r"hand of 3 units has no multiple of width=4"):
        NetSketch(layout, WarmUp(2, Perm(4)), width=4)
    shares = Perm(2, (1, 3))
    assert {len(shares.hands(14, seed=0, k=k)[0]) for k in range(9)} == {3, 4}
    with pytest.raises(ValueError, match=r"hand of 3 units has no multiple of width=4"):
        NetSketch(layout, shares, width=4)


def test_a_hand_that_no_one_could_foresee_is_refused_in_its_round():
    layout = MLP(4, (14,), 2).layout
    sketch = NetSketch(layout, Bernoulli(2, p=0.4), width=4)
    plain = NetSketch(layout, Bernoulli(2, p=0.4))
    small = 0
    for k in range(60):
        hands = plain.sample(0, k).hands["hidden.0"]
        few = [i for i, hand in enumerate(hands) if 0 < len(hand) < 4]
        if not few:
            assert {len(hand) % 4 for hand in sketch.sample(0, k).hands["hidden.0"]} == {0}
            continue
        small += 1
        told = (
            rf"Axis hidden\.0: worker {few[0]} was dealt {len(hands[few[0]])} units in round {k},"
        )
        with pytest.raises(ValueError, match=told):
            sketch.sample(0, k)
    assert 0 < small < 60


@pytest.mark.parametrize("deal", EVERY, ids=repr)
def test_a_deal_is_plain_data_and_back(deal):
    assert deal_from(written(deal)) == deal


def test_a_sketch_is_text_and_back_to_the_bit_of_its_scores():
    layout = MLP(4, (6, 5), 2).layout
    thirds = Scored((0.5, 0.5), (tuple(i / 3 for i in range(6)), (0.1, -1e-300, 2.0, 5e-324, 0.3)))
    for deal in (thirds, {"*.1": Perm(2), "*": WarmUp(1, Full(2))}):
        sketch = NetSketch(layout, deal, width=2)
        assert NetSketch.from_json(layout, sketch.to_json()) == sketch


def test_laws_that_cannot_be_written_or_read_are_refused_in_a_line():
    class Mine:
        n_workers = 2

        def hands(self, size, *, seed, k, axis=0):
            return Perm(2).hands(size, seed=seed, k=k, axis=axis)

    layout = MLP(4, (6,), 2).layout
    with pytest.raises(ValueError, match="class Mine cannot be written down, only Full, Perm"):
        NetSketch(layout, Mine()).to_json()
    with pytest.raises(ValueError, match="Scores that are infinite cannot be written down"):
        written(Scored((0.5,), ((1.0, float("inf")),)))
    with pytest.raises(ValueError, match="no deal 'Mine'. Known are: Full"):
        deal_from({"kind": "Mine"})
    with pytest.raises(ValueError, match=r"do not fit it: .*'m'"):
        deal_from({"kind": "Full", "m": 2})
