"""The patched layers of a part by themselves: attention with masks, groups, evaluation."""

import pytest
import torch
from torch import nn
from zoo import zoo

from subnetwork import Perm, decompose
from subnetwork.nets.builders.attention import forward_of_some_heads


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
