"""The patched layers of a part by themselves: attention with masks, groups, evaluation."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn
from zoo import zoo

from subnetwork import Perm, decompose
from subnetwork.nets.builders.attention import forward_of_some_heads
from subnetwork.nets.builders.blocks import buffers_of
from subnetwork.nets.builders.reload import reload


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("masks", ["none", "causal", "boolean", "padding", "both"])
def test_attention_of_all_heads_is_that_of_torch(batch_first, weights, masks):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(24, 4, batch_first=batch_first).double()
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    x = x if batch_first else x.transpose(0, 1)
    causal = torch.triu(torch.full((5, 5), -torch.inf, dtype=torch.float64), 1)
    padding = torch.tensor([[False] * 5, [False, False, False, True, True]])
    given = {
        "none": {},
        "causal": {"attn_mask": causal},
        "boolean": {"attn_mask": causal < 0},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal < 0, "key_padding_mask": padding},
    }[masks]
    expected = layer(x, x, x, need_weights=weights, **given)
    found = forward_of_some_heads(layer, x, x, x, need_weights=weights, **given)
    torch.testing.assert_close(found[0], expected[0])
    assert (found[1] is None) == (expected[1] is None)
    if weights:
        torch.testing.assert_close(found[1], expected[1])


def test_a_copied_encoder_evaluates_as_it_trains():
    """torch's fast path for evaluation would take all heads for granted."""
    model, x = zoo("encoder")
    plan = decompose(model, x)
    sub = plan.cut(model, deal=Perm(2))[0]
    for layer in sub.e.layers:
        layer.dropout.p = layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
    with torch.no_grad():
        torch.testing.assert_close(sub.eval()(x), sub.train()(x))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("copied", [deepcopy, lambda part: pickle.loads(pickle.dumps(part))])
def test_some_heads_of_an_attention_layer_are_copied_and_pickled(copied):
    x = torch.randn(2, 5, 4)
    model = nn.Sequential(nn.Linear(4, 8), Attending(), nn.Linear(8, 3))
    plan = decompose(model, x, builder="copy")
    part = plan.cut(model, deal=Perm(2))[0]
    twin = copied(part)
    assert torch.equal(twin(x), part(x))
    with torch.no_grad():
        twin[1].attention.in_proj_weight.zero_()
    assert not torch.equal(twin(x), part(x))  # it computes with its own


def test_layers_of_a_part_say_their_sizes():
    model, x = zoo("resnext")
    sub = decompose(model, x).cut(model, deal=Perm(2))[0]
    assert sub[1].g.groups == 2
    assert (sub[1].g.in_channels, sub[1].g.out_channels) == (12, 12)
    model, x = zoo("group_norm")
    sub = decompose(model, x).cut(model, deal=Perm(2))[0]
    assert (sub[1].num_groups, sub[1].num_channels) == (2, 8)
    model, x = zoo("lstm")
    sub = decompose(model, x).cut(model, deal=Perm(2))[0]
    assert (sub.rnn.input_size, sub.rnn.hidden_size) == (5, 8)


@pytest.mark.parametrize("name", ["resnet", "nanogpt", "lstm", "alibi", "tied"])
def test_a_part_computes_with_another_rounds_values_once_they_are_loaded(name):
    """Copies and graphs, tied weights, recurrent layers, buffers of single units."""
    model, x = zoo(name)
    plan = decompose(model, x)
    first, second = (plan.cut(model, deal=Perm(2), round=k)[0] for k in (0, 1))
    flat = torch.cat([p.detach().flatten() for p in second.parameters()])
    pieces = flat.split([p.numel() for p in second.parameters()])
    views = {
        n: piece.view(p.shape)
        for (n, p), piece in zip(second.named_parameters(), pieces, strict=True)
    }
    objects = [id(p) for p in first.parameters()]
    reload(first, {**views, **buffers_of(model, plan.layout, second.held_units)})
    assert objects == [id(p) for p in first.parameters()]
    torch.testing.assert_close(first.train()(x), second.train()(x), rtol=0, atol=0)
    flat.zero_()  # no copies: the module computes with the flat buffer
    assert all(not p.any() for p in first.parameters())


def test_what_does_not_fit_is_not_loaded():
    model, x = zoo("swiglu")
    part = decompose(model, x).cut(model, deal=Perm(2))[0]
    before = {n: p.detach().clone() for n, p in part.named_parameters()}
    given = {n: torch.zeros_like(p) for n, p in before.items()}
    with pytest.raises(ValueError, match=r"disagree on \['i\.bias'\]"):
        reload(part, {n: t for n, t in given.items() if n != "i.bias"})
    with pytest.raises(ValueError, match=r"disagree on \['more'\]"):
        reload(part, {**given, "more": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"i\.bias is \(8,\) .*given is \(9,\)"):
        reload(part, {**given, "i.bias": torch.zeros(9)})
    with pytest.raises(ValueError, match=r"torch\.float32 .*torch\.float64"):
        reload(part, {n: t.double() for n, t in given.items()})
    assert all(torch.equal(p, before[n]) for n, p in part.named_parameters())


@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # of torch.compile
def test_parts_of_another_type_and_compiled_ones_are_merged_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    plan = decompose(model, torch.randn(4, 6))
    parts = plan.cut(model, deal=Perm(2))
    with torch.no_grad():
        for part in parts:
            for p in part.parameters():
                p.copy_(p.bfloat16() + 1)
    expected = plan.merge(deepcopy(model), parts)
    for changed in ([p.bfloat16() for p in deepcopy(parts)], [torch.compile(p) for p in parts]):
        found = plan.merge(deepcopy(model), changed)
        for name, p in found.named_parameters():
            torch.testing.assert_close(
                p, dict(expected.named_parameters())[name], rtol=0.01, atol=0
            )
    del parts[1][0].weight
    with pytest.raises(ValueError, match=r"a part without 0\.weight, which it holds"):
        plan.merge(model, parts)
