"""Networks that are cut from their shapes alone: as if they had been made, and proved."""

from dataclasses import replace

import pytest
import torch

import small_sets
from subnetwork.keys import INIT
from subnetwork.methods import Training
from subnetwork.methods.rows import task
from subnetwork.nets import decompose, initial_state
from subnetwork.nets.architecture import runnable
from subnetwork.nets.models import Sizes, network
from subnetwork.nets.plan import Plan

DIGITS = Training(hidden=(12, 9), workers=2, batch_size=8)
TEXT = replace(DIGITS, data="tinyshakespeare", model="gpt", width=8, heads=2, blocks=2)
PICTURES = replace(DIGITS, data="cifar10", model="resnet", width=4, blocks=2)
CASES = {
    "dropout": replace(DIGITS, dropout=0.5),
    "layer norm": replace(DIGITS, norm="layer"),
    "axes": replace(DIGITS, axes=("0.*",)),
    "no norm": replace(DIGITS, norm="none", axes=("*",)),
    "as wide as the outputs": replace(DIGITS, hidden=(64, 10), dropout=0.1),
    "as wide as the batch": replace(DIGITS, hidden=(4, 4), dropout=0.1),
    "relu": replace(DIGITS, model="relu", hidden=(12,)),
    "relu of few": replace(DIGITS, model="relu", hidden=(2,)),
    "gpt": TEXT,
    "gpt of one head": replace(TEXT, heads=1),
    "gpt of heads of one": replace(TEXT, heads=8),
    "gpt as wide as the text is long": replace(TEXT, heads=8, blocks=1),
    "gpt with dropout": replace(TEXT, dropout=0.1),
    "heads alone": replace(TEXT, axes=("*.heads",)),
    "heads and hidden units": replace(TEXT, axes=("*.heads", "*.hidden")),
    "resnet": PICTURES,
    "resnet of one block": replace(PICTURES, blocks=1),
    "resnet as wide as pictures": replace(PICTURES, width=8),
    "channels inside blocks": replace(PICTURES, axes=("blocks.*",)),
}


@pytest.fixture(autouse=True)
def few_data(monkeypatch):
    """In the place of sets that are read from files."""
    small_sets.given(monkeypatch)


@pytest.mark.parametrize("name", list(CASES))
def test_the_plan_is_the_one_that_is_proved(name):
    """Layout, blocks and builder; nobody ever makes the whole network."""
    run = CASES[name]
    t = task(run)
    plan = t.architecture
    assert isinstance(plan, Plan)
    assert all(p.is_meta for p in plan.model.parameters())
    sizes = Sizes(run.hidden, run.width, run.blocks, run.heads, run.dropout, run.norm)
    net = network(run.model, sizes, t.data, seed=run.stream(INIT))
    proved = decompose(net.model, net.example, inexact=net.inexact, width=run.axes or None)
    assert proved.layout.to_json() == plan.layout.to_json()
    assert proved.builder.kind == plan.builder.kind == "copy"
    assert (proved.whole, proved.fixed, proved.kept) == (plan.whole, plan.fixed, plan.kept)
    x, like = t.start().params, initial_state(proved, seed=run.stream(INIT)).params
    assert list(x) == list(like)
    assert all(torch.equal(p, like[name]) for name, p in x.items())
    buffers = dict(runnable(plan, t.start()).named_buffers())
    assert all(torch.equal(buffers[name], b) for name, b in net.model.named_buffers())


@pytest.mark.parametrize(
    "run", [replace(TEXT, method="resist", blocks=4), replace(DIGITS, data="cora", model="gcn")]
)
def test_networks_that_are_cut_with_values_let_go_of_them(run):
    plan = task(run).architecture
    assert plan.evidence is not None
    assert all(p.is_meta for p in plan.model.parameters())
