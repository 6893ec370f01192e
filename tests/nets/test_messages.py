"""What `decompose` says of a model, a batch, a pattern or a layout that it cannot take."""

import json
import random
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subnetwork import Perm, decompose
from subnetwork.nets import plan_from
from subnetwork.nets.layout import Layout

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers, with something between them."""

    def __init__(self, between=F.relu):
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 8), nn.Linear(8, 3), between

    def forward(self, x):
        return self.b(self.between(self.a(x)))


class Dropped(nn.Module):
    """Leaves a layer out at random, by Python or by torch, and has dropout before."""

    def __init__(self, toss):
        super().__init__()
        self.a, self.b, self.c, self.toss = *map(nn.Linear, (4, 8, 8), (8, 8, 3)), toss

    def forward(self, x):
        h = F.dropout(F.relu(self.a(x)), 0.5, self.training)
        return self.c(F.relu(self.b(h)) if self.toss() else h)


@pytest.mark.parametrize("toss", [lambda: random.random() < 0.5, lambda: torch.rand(()) < 0.5])
def test_a_table_takes_the_path_that_was_cut(toss):
    plan = decompose(Dropped(toss), X)
    states = random.getstate(), torch.get_rng_state()
    first = plan.table(2)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    for seed in range(8):
        random.seed(seed)
        torch.manual_seed(seed)
        assert plan.table(2) == first
    random.setstate(states[0])


@pytest.mark.parametrize("n", [0, -1])
def test_a_table_of_no_workers_is_refused(n):
    with pytest.raises(ValueError, match=rf"n_workers={n}, .* 1 or more\.$"):
        decompose(Net(), X).table(n)


def test_one_pattern_may_be_given_as_it_is():
    class Block(Net):
        def __init__(self):
            super().__init__()
            self.b = nn.Linear(8, 4)

        def forward(self, x):
            return x + super().forward(x)

    model = nn.Sequential(nn.Linear(4, 4), Block(), Block(), nn.Linear(4, 3))
    plan = decompose(model, X, width="1.*", depth="2")
    assert list(plan.layout.sizes) == ["1.hidden", "blocks"]
    assert [block.path for block in plan.blocks] == ["2"]
    assert decompose(model, X, width=iter(["2.*"])).layout.sizes == {"2.hidden": 8}
    with pytest.raises(ValueError, match=r"No axis of the model is called '\*\.heads'"):
        decompose(model, X, width="*.heads")


def test_a_lazy_layer_is_to_be_run_first():
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))
    layout = decompose(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), X).layout
    for cut in (lambda: decompose(model, X), lambda: plan_from(layout, model, X)):
        with pytest.raises(ValueError, match=r"^0\.weight has no shape yet: .* Run model\(batch\)"):
            cut()
    model(X)
    assert decompose(model, X).layout.sizes == {"0.hidden": 8}


def test_an_attribute_that_cannot_be_copied_is_named():
    model = nn.Sequential(nn.Linear(4, 8), Net())
    model.fine, model[1].held = {"of": model[1]}, [threading.Lock()]
    with pytest.raises(ValueError, match=r"^The attribute 1\.held of the model cannot be copied"):
        decompose(model, X)


def test_a_list_that_is_one_argument_is_told_how_to_be_given():
    class Sums(Net):
        def forward(self, xs):
            return super().forward(xs[0] + xs[1])

    with pytest.raises(ValueError, match=r"write \(\[\.\.\.\],\) where a list is one"):
        decompose(Sums(), [X, X])
    assert decompose(Sums(), ([X, X],)).layout.sizes == {"a.hidden": 8}


@pytest.mark.parametrize(
    ("between", "op"),
    [
        (lambda h: h + torch.randn_like(h), "randn_like"),
        (lambda h: h + torch.randn(h.shape), "randn"),
        (lambda h: h * (torch.rand(h.shape[-1]) > 0.5), "rand"),
        (lambda h: h + torch.empty_like(h).normal_(), "normal"),
        (lambda h: h * torch.bernoulli(torch.full_like(h, 0.5)), "bernoulli"),
        (lambda h: F.rrelu(h, training=True), "rrelu_with_noise"),
        (lambda h: torch.distributions.Normal(h, 1.0).rsample(), "normal"),
    ],
)
def test_units_with_noise_of_their_own_are_flagged_as_such(between, op):
    model = Net(between)
    with pytest.raises(ValueError, match=rf"a\.hidden\(8\): given noise of its own by {op}, which"):
        decompose(model, X)
    plan = decompose(model, X, inexact=True)
    assert not plan.exact
    assert plan.cut(model, deal=Perm(2))[0](X).shape == (6, 3)


@pytest.mark.parametrize("drop", [F.dropout, F.alpha_dropout, F.feature_alpha_dropout])
def test_dropout_is_no_reason_against_a_cut(drop):
    assert decompose(Net(lambda h: drop(F.relu(h), 0.3, True)), X).exact


WRONG = [
    ({"sizes": [1]}, "sizes"),
    ({"sizes": {"hidden": "8"}}, "sizes"),
    ({"sizes": {"hidden": True}}, "sizes"),
    ({"sizes": {"hidden": -1}}, "sizes"),
    ({"dims": [1]}, "dims"),
    ({"dims": {"w": None}}, "dims"),
    ({"dims": {"w": "hidden"}}, "dims"),
    ({"dims": {"w": [True]}}, "dims of w"),
    ({"dims": {"w": [{"cat": 3}]}}, "dims of w"),
    ({"buffers": None}, "buffers"),
    ({"unit_of": {"w": 3}}, "unit_of"),
    ({"unit_of": {"w": ["hidden", 0, 1]}}, "unit_of"),
    ({"unit_of": {"w": [["hidden"], 0]}}, "unit_of"),
    ({"unit_names": {"hidden": "abcdefgh"}}, "unit_names"),
]


@pytest.mark.parametrize(("wrong", "field"), WRONG, ids=str)
def test_a_wrong_type_in_a_layout_is_refused_by_its_field(wrong, field):
    good = {"sizes": {"hidden": 8}, "dims": {"w": ["hidden", None]}}
    assert Layout.from_json(json.dumps(good)).sizes == {"hidden": 8}
    with pytest.raises(ValueError, match=rf"^{field}\b") as found:
        Layout.from_json(json.dumps({**good, **wrong}))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("text", ["3", "null", '["sizes", "dims"]'])
def test_a_layout_that_is_no_object_is_refused(text):
    with pytest.raises(ValueError, match="which is no object"):
        Layout.from_json(text)
