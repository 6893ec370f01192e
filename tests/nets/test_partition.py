"""Cut and merge: physically smaller, exact, complete."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from subnetwork.deals import Bernoulli, Full, Perm, RandQ
from subnetwork.nets import MLP, Layout, ModelState, NetSketch, holders, initial_state
from subnetwork.nets.architecture import runnable
from subnetwork.nets.state import ABSENT, Submodel

ARCHITECTURE = MLP(6, (8, 5), 3)
DEALS = [Full(3), Perm(3), Perm(3, (1, 2, 2)), RandQ(3, q=2), Bernoulli(3, p=0.6)]


def state(seed=0, moments=("momentum_buffer",)):
    x = initial_state(ARCHITECTURE, seed=seed, moments=moments)
    generator = torch.Generator().manual_seed(seed)
    noise = {
        moment: {n: torch.randn(p.shape, generator=generator) for n, p in tensors.items()}
        for moment, tensors in x.moments.items()
    }
    return ModelState(x.params, noise)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(deal=st.sampled_from(DEALS), seed=st.integers(0, 2**63), k=st.integers(0, 10**6))
def test_work_that_does_nothing_changes_nothing(deal, seed, k):
    x = state()
    partition = NetSketch(ARCHITECTURE.layout, deal).sample(seed, k)
    merged = holders(x, partition, [partition.select(x, i) for i in range(3)])
    assert equal(merged.params, x.params)
    assert equal(merged.moments["momentum_buffer"], x.moments["momentum_buffer"])


@given(deal=st.sampled_from(DEALS), seed=st.integers(0, 2**63))
def test_merge_is_the_mean_over_holders_written_out_with_masks(deal, seed):
    """The slow definition: 0/1 masks of the whole model's shape, entry by entry, in float64."""
    x = state()
    partition = NetSketch(ARCHITECTURE.layout, deal).sample(seed, 0)
    generator = torch.Generator().manual_seed(1)
    trained = [
        Submodel(
            {n: torch.randn(p.shape, generator=generator) for n, p in w.params.items()}, w.moments
        )
        if w is not ABSENT  # without a unit of some axis: no network
        else w
        for w in (partition.select(x, i) for i in range(3))
    ]
    merged = holders(x, partition, trained)
    for name, entry in x.params.items():
        total, count = torch.zeros(entry.shape).double(), torch.zeros(entry.shape)
        for i, z in enumerate(trained):
            axes = ARCHITECTURE.layout.dims[name]
            if z is ABSENT:
                assert min(len(hands[i]) for hands in partition.hands.values()) == 0
                continue
            units = [
                partition.hands[axis][i] if axis else np.arange(size)
                for axis, size in zip(axes, entry.shape, strict=True)
            ]
            places = np.ix_(*units)
            total[places] += z.params[name].double()
            count[places] += 1
        expected = torch.where(count > 0, total / count.clamp(min=1), entry.double())
        torch.testing.assert_close(merged.params[name].double(), expected, rtol=1e-6, atol=1e-6)


def test_a_submodel_is_physically_smaller_and_a_copy():
    x = state()
    partition = NetSketch(ARCHITECTURE.layout, Perm(2)).sample(0, 0)
    w = partition.select(x, 0)
    first, second = (len(partition.hands[axis][0]) for axis in ("hidden.0", "hidden.1"))
    assert w.params["0.weight"].shape == (first, 6)
    assert w.params["1.weight"].shape == (first,)  # batch normalisation travels with its neuron
    assert w.params["3.weight"].shape == (second, first)
    assert w.params["6.weight"].shape == (3, second)
    assert w.params["6.bias"].shape == (3,)
    before = x.params["0.weight"].clone()
    w.params["0.weight"].zero_()
    w.params["6.bias"].zero_()
    assert torch.equal(x.params["0.weight"], before)
    assert x.params["6.bias"].abs().sum() > 0


@given(seed=st.integers(0, 1000))
def test_a_subnetwork_computes_f_of_the_masked_model(seed):
    """The definition of a subnetwork, f(C_i x): the whole model with the other neurons silenced."""
    x = state(seed, moments=())
    architecture = MLP(6, (8, 5), 3, norm=False)
    x = initial_state(architecture, seed=seed)
    x = ModelState({name: p.double() for name, p in x.params.items()})
    partition = NetSketch(architecture.layout, Perm(2)).sample(seed, 0)
    inputs = torch.randn(7, 6, dtype=torch.float64)
    small = runnable(architecture, partition.select(x, 1)).double()
    for name, p in small.named_parameters():
        p.data.copy_(partition.select(x, 1).params[name])
    masked = dict(x.params)
    for name, axes in architecture.layout.dims.items():
        for dim, axis in enumerate(axes):
            if axis:
                mask = torch.zeros(masked[name].shape[dim], dtype=torch.float64)
                mask[partition.hands[axis][1]] = 1
                shape = [-1 if d == dim else 1 for d in range(masked[name].dim())]
                masked[name] = masked[name] * mask.reshape(shape)
    whole = runnable(architecture, ModelState(masked)).double()
    for name, p in whole.named_parameters():
        p.data.copy_(masked[name])
    torch.testing.assert_close(small(inputs), whole(inputs), rtol=1e-12, atol=1e-12)


def test_optimizer_moments_travel_with_their_neuron():
    x = state()
    partition = NetSketch(ARCHITECTURE.layout, Perm(2)).sample(3, 1)
    w = partition.select(x, 1)
    units = partition.hands["hidden.0"][1]
    assert torch.equal(
        w.moments["momentum_buffer"]["0.weight"], x.moments["momentum_buffer"]["0.weight"][units]
    )
    assert w.n_bytes == 2 * Submodel(w.params).n_bytes


def test_an_entry_that_nobody_holds_keeps_its_value():
    x = state()
    partition = NetSketch(ARCHITECTURE.layout, Perm(3)).sample(0, 0)
    trained = [partition.select(x, i) for i in range(3)]
    for z in trained:
        for p in z.params.values():
            p.add_(1)
    merged = holders(x, partition, trained).params["3.weight"]
    changed = merged != x.params["3.weight"]
    rows, columns = partition.hands["hidden.1"], partition.hands["hidden.0"]
    covered = torch.zeros(5, 8, dtype=torch.bool)
    for r, c in zip(rows, columns, strict=True):
        covered[np.ix_(r, c)] = True
    assert torch.equal(changed, covered)


def test_more_workers_than_units_is_refused_when_the_sketch_is_made():
    with pytest.raises(ValueError, match=r"5 units for n_workers=6\. Use at most 5 workers"):
        NetSketch(ARCHITECTURE.layout, Perm(6))


def test_a_layout_that_does_not_fit_its_model_is_refused():
    with pytest.raises(ValueError, match=r"cut along .*'width'.*has the axes"):
        Layout({"hidden": 3}, {"w": ("width",)})
    layout = Layout({"hidden": 3}, {"w": ("hidden", None)})
    with pytest.raises(ValueError, match=r"w has shape \(4, 2\), but the layout"):
        layout.check({"w": torch.zeros(4, 2)})
    with pytest.raises(ValueError, match=r"disagree on the parameters \['v', 'w'\]"):
        layout.check({"v": torch.zeros(3, 2)})


def test_no_neuron_is_initialised_twice():
    """The released IST starts every worker from copies of the same neurons."""
    x = initial_state(MLP(64, (256,), 10), seed=0)
    assert len(torch.unique(x.params["0.weight"], dim=0)) == 256
    partition = NetSketch(MLP(64, (256,), 10).layout, Perm(4)).sample(0, 0)
    rows = torch.cat([partition.select(x, i).params["0.weight"] for i in range(4)])
    assert len(torch.unique(rows, dim=0)) == 256


def test_a_module_initialises_what_is_inside_it():
    """Liao & Kyrillidis start at N(0, 1); the layer inside would draw from a narrow interval."""
    from subnetwork import decompose
    from subnetwork.nets.models import MaskedReLU
    from subnetwork.runtime.direct.start import initial_parameters

    plan = decompose(MaskedReLU(16, 400, 2), torch.randn(3, 16), verify=False)
    start = initial_state(plan, seed=0).params
    assert 0.95 < start["up.weight"].std() < 1.05
    assert set(start["signs"].unique().tolist()) == {-1.0, 1.0}
    alone = dict(initial_parameters(plan, seed=0))
    assert all(torch.equal(alone[name], p) for name, p in start.items())


def test_initialisation_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    initial_state(ARCHITECTURE, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_axes_of_one_size_are_dealt_independently():
    hands = NetSketch(MLP(4, (12, 12), 2).layout, Perm(2)).sample(0, 0).hands
    assert hands["hidden.0"][0].tolist() != hands["hidden.1"][0].tolist()


def test_initialisation_is_keyed_by_its_seed():
    assert equal(state(1).params, state(1).params)
    assert not equal(state(1).params, state(2).params)


def test_a_parameter_that_no_layer_initialises_is_named():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.empty(3))

    class Family:
        layout = Layout({"units": 3}, {"scale": ("units",)})

        def build(self, _):
            return Scaled()

    with pytest.raises(ValueError, match=r"\['scale'\] cannot be initialised: Scaled has no reset"):
        initial_state(Family(), seed=0)


def test_a_parameter_that_a_module_s_own_initialisation_passes_over_is_named():
    """A module that has `reset_parameters` answers for what is inside it, wherever x^0 is made."""
    from subnetwork.runtime.direct.start import initial_parameters

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)

        def reset_parameters(self):
            self.up.reset_parameters()
            torch.nn.init.zeros_(self.down.bias)

    class Family:
        layout = Layout(
            {"units": 3},
            {"0.up.weight": ("units", None), "0.up.bias": ("units",),
             "0.down.weight": (None, "units"), "0.down.bias": (None,)},
        )  # fmt: skip

        def build(self, _):
            return torch.nn.Sequential(Outer())

    left = r"\['0\.down\.weight'\] cannot be initialised: reset_parameters of a module around them"
    with pytest.raises(ValueError, match=left):
        initial_state(Family(), seed=0)
    with pytest.raises(ValueError, match=left):
        dict(initial_parameters(Family(), seed=0))


def test_an_empty_hand_is_no_network_and_refused_by_name():
    x = initial_state(ARCHITECTURE, seed=0)
    partition = NetSketch(ARCHITECTURE.layout, Bernoulli(2, p=0.01)).sample(0, 0)
    assert len(partition.hands["hidden.1"][0]) == 0
    assert partition.select(x, 0) is ABSENT
    narrow = {
        name: p[tuple(slice(0 if dim == "hidden.1" else None) for dim in dims)]
        for (name, p), dims in zip(x.params.items(), ARCHITECTURE.layout.dims.values(), strict=True)
    }
    with pytest.raises(ValueError, match=r"holds no unit of \['hidden.1'\] this round"):
        runnable(ARCHITECTURE, Submodel(narrow))


BLOCKS = Layout(
    {"blocks": 4, "hidden": 6},
    {"head": ("hidden",), **{f"b{j}": (None, "hidden") for j in range(4)}},
    unit_of={f"b{j}": ("blocks", j) for j in range(4)},
)


@pytest.mark.parametrize("deal", [Full(2), Perm(2), Bernoulli(2, p=0.5)], ids=str)
def test_a_block_goes_whole_to_whoever_holds_its_unit(deal):
    x = ModelState({"head": torch.randn(6), **{f"b{j}": torch.randn(3, 6) for j in range(4)}})
    partition = NetSketch(BLOCKS, deal).sample(0, 0)
    parts = [partition.select(x, i) for i in range(2)]
    for i, part in enumerate(parts):
        held = {f"b{j}" for j in partition.hands["blocks"][i]}
        assert set(part.params) == {"head", *held}
        assert BLOCKS.units_of(part.params)["blocks"].tolist() == list(partition.hands["blocks"][i])
    assert equal(holders(x, partition, parts).params, x.params)
    moved = [Submodel({n: t + 1 for n, t in part.params.items()}) for part in parts]
    merged = holders(x, partition, moved).params
    for name, mask in partition.held(x.params).items():
        torch.testing.assert_close(merged[name], x.params[name] + mask)


def test_a_layout_with_blocks_is_plain_data():
    assert Layout.from_json(BLOCKS.to_json()) == BLOCKS
    with pytest.raises(ValueError, match=r"b0 is said to belong to unit 4 of axis blocks"):
        Layout(BLOCKS.sizes, BLOCKS.dims, unit_of={"b0": ("blocks", 4)})


@dataclass(frozen=True)
class Own:
    """A deal of one's own: the same two hands in every round."""

    units: tuple[object, object]
    n_workers: int = 2

    def hands(self, _size, **_):
        return self.units


def test_hands_of_any_whole_type_and_empty_ones_are_dealt():
    layout = Layout({"units": 4}, {"w": ("units",)})
    hands = np.array([0, 3], np.int32), []
    partition = NetSketch(layout, Own(hands)).sample(0, 0)
    assert [hand.dtype for hand in partition.hands["units"]] == [np.int64, np.int64]
    x = ModelState({"w": torch.arange(4.0)})
    assert partition.select(x, 0).params["w"].tolist() == [0, 3]
    assert not partition.has_network(1)


@pytest.mark.parametrize("hand", [[-1, 2], [2, 2], [3, 1], [4], [0.0, 1.0], [True, False]])
def test_hands_that_are_no_units_are_refused(hand):
    layout = Layout({"units": 4}, {"w": ("units",)})
    with pytest.raises(ValueError, match=r"Axis units: the deal gave worker 1 in round 0 a hand"):
        NetSketch(layout, Own(([0], np.array(hand))))
    with pytest.raises(ValueError, match=r"gave 2 hands in round 0, but there are n_workers=3"):
        NetSketch(layout, Own(([0], [1]), n_workers=3))


@pytest.mark.parametrize(("path", "said"), [((1.5, 0), "seed=1.5"), ((0, 1.0), "round=1.0")])
def test_a_draw_of_no_whole_number_is_refused(path, said):
    with pytest.raises(ValueError, match=f"{said} is no whole number. Give one, such as 0"):
        NetSketch(ARCHITECTURE.layout, Full(2)).sample(*path)


def test_axes_may_have_deals_of_their_own():
    layout = ARCHITECTURE.layout
    deals = {"*.0": Full(2), "*": Perm(2)}
    mixed = NetSketch(layout, deals).sample(3, 1)
    for axis, alone in (("hidden.0", Full(2)), ("hidden.1", Perm(2))):
        expected = NetSketch(layout, alone).sample(3, 1).hands[axis]
        assert all(map(np.array_equal, mixed.hands[axis], expected))


@pytest.mark.parametrize(
    ("deals", "said"),
    [
        ({"hidden.0": Full(2)}, r"No deal is given for the axes \['hidden\.1'\].*under \"\*\""),
        ({"heads": Full(2), "*": Full(2)}, r"No axis that is cut is called 'heads'.*hidden\.0"),
        ({"*.0": Full(2), "*": Full(3)}, r"the same workers, not to \{'hidden\.0': 2, .*n_workers"),
        ({"*.0": Full(6), "*": Perm(6)}, r"Axis hidden\.1: Perm .* 5 units for n_workers=6"),
    ],
)
def test_deals_that_do_not_fit_the_axes_are_refused(deals, said):
    with pytest.raises(ValueError, match=said):
        NetSketch(ARCHITECTURE.layout, deals)
