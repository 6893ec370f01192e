"""Every kind of model: parts run, are the model at masked parameters, and merge to the bit."""

import pytest
import torch
from oracle import assert_same_function, call, doubled, masks, without_dropout
from zoo import ZOO, zoo

from subnetwork import Full, Perm, RandQ, decompose

EXPORTED = {"lenet", "vit", "nanogpt"}  # sizes stand in forward or in attributes
AXES = {
    "mlp": "0.hidden(16) 3.hidden(24)",
    "lenet": "conv1.channels(6) conv2.hidden(16) fc1.hidden(30) fc2.hidden(20)",
    "resnext": "0.channels(16) 1.groups(4) 2.groups(4)",
    "group_norm": "0.groups(4) 3.groups(8)",
    "sage": "l1.hidden(16)",
    "vit": "blocks.0.attn.heads(4) blocks.0.mlp.hidden(48) "
    "blocks.1.attn.heads(4) blocks.1.mlp.hidden(48)",
    "nanogpt": "blocks.0.heads(4) blocks.0.hidden(96) blocks.1.heads(4) blocks.1.hidden(96)",
    "swiglu": "i.hidden(16) up.hidden(20) down.hidden(16)",
    "llama": "layers.0.heads(4) layers.0.hidden(40) layers.1.heads(4) layers.1.hidden(40) "
    "layers.2.heads(4) layers.2.hidden(40)",
    "mixer": "stream(16) t1.hidden(14) c1.hidden(20)",
    "lstm": "emb.hidden(10) rnn.hidden(16)",
    "bags": "mean.hidden(10)",
    "encoder": "e.layers.0.self_attn.heads(4) e.layers.0.hidden(32) "
    "e.layers.1.self_attn.heads(4) e.layers.1.hidden(32)",
    "tied": "w.hidden(16)",
    "plain_tensor": "b.hidden(8)",
}


@pytest.fixture(scope="module", params=ZOO)
def planned(request):
    model, batch = zoo(request.param)
    return request.param, model, decompose(model, batch)


def test_the_axes_and_the_builder_are_these(planned):
    name, _, plan = planned
    assert plan.exact
    assert plan.evidence.untold == ()
    assert plan.builder.kind == ("export" if name in EXPORTED else "copy")
    found = " ".join(f"{axis}({n})" for axis, n in plan.layout.sizes.items())
    assert found == AXES.get(name, found)


def test_parts_are_smaller_run_and_keep_the_names(planned):
    _, model, plan = planned
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = sum(p.numel() for p in model.parameters())
    for sub in plan.cut(model, deal=Perm(2), seed=3, round=1):
        assert sum(p.numel() for p in sub.parameters()) < whole
        assert [n for n, _ in sub.named_parameters()] == [n for n, _ in model.named_parameters()]
        out = call(sub.train(), plan.inputs)
        out.float().square().mean().backward()
        assert all(p.grad is not None for p in sub.parameters())
        for p in sub.parameters():
            p.data.add_(1)  # parts are copies
    for name, value in model.state_dict().items():
        assert value.is_sparse or torch.equal(value, before[name])


@pytest.fixture(scope="module", params=ZOO)
def in_float64(request):
    model, batch = zoo(request.param)
    model = without_dropout(model).double().train()
    return model, decompose(model, doubled(batch), verify=False)


@pytest.mark.parametrize("deal", [Perm(2), Perm(3), RandQ(1, q=2)], ids=["half", "third", "two"])
def test_outputs_and_gradients_are_those_of_the_masked_model(in_float64, deal):
    model, plan = in_float64
    for sub in plan.cut(model, deal=deal, seed=5):
        assert_same_function(plan, model, sub)


def test_merging_what_was_cut_gives_the_model_back_to_the_bit(planned):
    _, model, plan = planned
    before = {name: p.clone() for name, p in model.named_parameters()}
    for deal in (Perm(2), Perm(3), Full(2)):
        plan.merge(model, plan.cut(model, deal=deal, seed=1))
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_merging_writes_exactly_what_the_parts_hold(planned):
    name, _, plan = planned
    model, _ = zoo(name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    subs = plan.cut(model, deal=Perm(2), seed=2)
    held = [masks(plan, sub) for sub in subs]
    for i, sub in enumerate(subs):
        for p in sub.parameters():
            p.data.add_(i + 1)
    plan.merge(model, subs)
    for n, p in model.named_parameters():
        first, second = held[0][n], held[1][n]
        expected = before[n] + first * 1.0 + second * 2.0 - (first & second) * 1.5
        torch.testing.assert_close(p.detach(), expected)


def test_tied_weights_stay_tied():
    model, batch = zoo("nanogpt")
    plan = decompose(model, batch, width=["*.hidden"], verify=False)
    assert plan.builder.kind == "copy"
    graphs = decompose(model, batch, builder="export", verify=False)
    for sub in (*plan.cut(model, deal=Perm(2)), *graphs.cut(model, deal=Perm(2))):
        whole = dict(sub.named_parameters(remove_duplicate=False))
        assert whole["head.weight"] is whole["wte.weight"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_model_that_can_be_exported_is_exact_as_a_graph(name):
    model, batch = zoo(name)
    if name in ("sparse_gcn", "branching"):
        with pytest.raises(ValueError, match=r"torch\.export refuses it"):
            decompose(model, batch, builder="export")
        return
    plan = decompose(model, batch, builder="export", verify=False)
    assert plan.layout.sizes == decompose(model, batch, verify=False).layout.sizes
    assert plan.verify(gradients=True).evidence.gradients < 1e-9
