"""A plan without values: its parts have the shapes, their values come from what is trained."""

import pytest
import torch
from zoo import ZOO, zoo

from subnetwork import Perm, decompose
from subnetwork.nets import NetSketch
from subnetwork.nets.architecture import built, load_params, skeleton, without_values
from subnetwork.nets.evaluate import called


def parts(plan, n=2):
    """The parts of two workers, with a model's values put in."""
    model, partition = plan.state(), NetSketch(plan.layout, Perm(n)).sample(0, 0)
    return [partition.select(model, i) for i in range(n)]


@pytest.mark.parametrize("name", list(ZOO))
def test_parts_of_a_hollow_plan_compute_what_those_of_the_plan_do(name):
    """Tied and recurrent parameters among them; outputs and gradients to the bit."""
    model, batch = zoo(name)
    plan = decompose(model, batch, verify=False)
    hollow = plan.hollow()
    assert hollow.layout == plan.layout
    if plan.builder.kind == "export":
        assert hollow is plan
        return
    assert all(p.is_meta for p in hollow.model.parameters())
    assert not any(p.is_meta for p in model.parameters())
    if name == "alibi":  # a buffer of single units, which numbers of units do not determine
        return
    for part in parts(plan):
        outcomes = []
        for each in (plan, hollow):
            module = built(each, part).train()
            load_params(module, part.params)
            torch.manual_seed(1)
            out = called(module, batch)
            out.float().square().mean().backward()
            outcomes.append([out, *(p.grad for p in module.parameters())])
        for one, other in zip(*outcomes, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.equal(one, other)


def test_shapes_are_those_of_the_plan_and_nothing_is_made():
    model, batch = zoo("resnet")
    plan = decompose(model, batch)
    whole, found = without_values(plan), without_values(plan.hollow())
    for name, p in whole.params.items():
        assert (p.shape, p.dtype) == (found.params[name].shape, found.params[name].dtype)
        assert found.params[name].is_meta
    bones = skeleton(plan.hollow())
    assert all(p.is_meta for p in bones.parameters())
    for (name, one), (same, other) in zip(
        model.named_buffers(), bones.named_buffers(), strict=True
    ):
        assert name == same
        assert torch.equal(one, other)


def test_what_needs_values_says_so():
    plan = decompose(*zoo("mlp")).hollow()
    for ask in (plan.state, plan.verify):
        with pytest.raises(ValueError, match="before hollow"):
            ask()
    model, _ = zoo("mlp")
    assert set(plan.state(model).params) == set(dict(model.named_parameters()))
    subs = plan.cut(model, deal=Perm(2))
    assert not any(p.is_meta for sub in subs for p in sub.parameters())


@pytest.mark.parametrize("name", ["mlp", "resnet", "nanogpt", "tied"])
def test_costs_are_told_from_shapes(name):
    plan = decompose(*zoo(name), verify=False)
    assert plan.hollow().table(2) == plan.table(2)


def test_a_model_that_nobody_can_hold_is_planned():
    with torch.device("meta"):
        model = torch.nn.Sequential(
            torch.nn.Linear(10**5, 10**6), torch.nn.ReLU(), torch.nn.Linear(10**6, 10**5)
        )
        batch = torch.empty(2, 10**5)
    plan = decompose(model, batch, verify=False)
    assert list(plan.layout.sizes.values()) == [10**6]
    assert "200,001,100,000" in plan.table(8)
