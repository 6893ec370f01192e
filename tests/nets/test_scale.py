"""The scale of an axis: no change to forward, equal to a network with scaled activations."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from subnetwork.deals import Full, Perm
from subnetwork.nets import (
    MLP,
    SGD,
    Adam,
    AdamW,
    Layout,
    LocalSteps,
    ModelState,
    NetSketch,
    Scale,
    holders,
    initial_state,
)
from subnetwork.nets.counters import COUNTER
from subnetwork.nets.scale import scaled, unscaled
from subnetwork.nets.state import copied
from subnetwork.nets.terms import Cat, Prod
from subnetwork.runtime.wire import pack

NETWORK = MLP(5, (8, 6), 3, norm=False)
OPTIMIZERS = [
    (SGD(0.05, 0.9, weight_decay=0.1), torch.optim.SGD,
     {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}),
    (Adam(0.01, weight_decay=0.1, eps=1e-3), torch.optim.Adam,
     {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
    (AdamW(0.01, weight_decay=0.1, eps=1e-3), torch.optim.AdamW,
     {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}),
]  # fmt: skip


class Rows:
    seed = 7

    def batch(self, worker, step):
        generator = torch.Generator().manual_seed(1000 * worker + step)
        inputs = torch.randn(12, 5, generator=generator, dtype=torch.float64)
        return inputs, torch.randint(3, (12,), generator=generator)


def start(local):
    x = initial_state(NETWORK, seed=0, moments=local.moments)
    generator = torch.Generator().manual_seed(1)
    moments = {
        m: {n: torch.full_like(t, 4.0) if m == COUNTER
            else torch.rand(t.shape, generator=generator) / 10 for n, t in tensors.items()}
        for m, tensors in x.moments.items()
    }  # fmt: skip
    params, moments = (
        {n: p.double() for n, p in x.params.items()},
        {m: {n: t.double() for n, t in tensors.items()} for m, tensors in moments.items()},
    )
    return ModelState(params, moments)


@pytest.mark.parametrize(("optimizer", "torchs", "options"), OPTIMIZERS, ids=["SGD", "Adam", "W"])
@pytest.mark.parametrize("clip", [None, 0.3])
@pytest.mark.parametrize("factors", [(3.0, 0.7), ("inverted", "inverted")], ids=str)
def test_scaled_parameters_with_scaled_steps_are_scaled_activations(
    optimizer, torchs, options, clip, factors
):
    """The masked model with activations times s, trained by torch with plain step sizes."""
    scale = Scale(dict(zip(("hidden.0", "hidden.1"), factors, strict=True)))
    local = LocalSteps(NETWORK, Rows(), optimizer, 4, scale=scale, clip=clip)
    x = start(local)
    w = NetSketch(NETWORK.layout, Perm(2)).sample(0, 0).select(x, 1)
    z = local(0, 1, w)
    p = {n: nn.Parameter(t.clone()) for n, t in w.params.items()}
    adam = torchs(p.values(), **options)
    for name, tensor in p.items():
        adam.state[tensor] = {
            m: torch.tensor(4.0) if m == COUNTER else w.moments[m][name].clone()
            for m in local.moments
        }
    s = [2.0, 2.0] if factors[0] == "inverted" else factors
    for step in range(4):
        inputs, targets = Rows().batch(1, step)
        h = s[0] * torch.relu(inputs @ p["0.weight"].T + p["0.bias"])
        h = s[1] * torch.relu(h @ p["2.weight"].T + p["2.bias"])
        adam.zero_grad()
        cross_entropy(h @ p["4.weight"].T + p["4.bias"], targets).backward()
        if clip:
            nn.utils.clip_grad_norm_(p.values(), clip)
        adam.step()
    for name, tensor in p.items():
        torch.testing.assert_close(z.params[name], tensor.detach(), rtol=1e-10, atol=1e-12)
        for moment in local.moments:
            own, theirs = z.moments[moment][name], adam.state[tensor][moment]
            torch.testing.assert_close(own.expand_as(tensor), theirs.to(own).expand_as(tensor))
    plain = LocalSteps(NETWORK, Rows(), optimizer, 4, clip=clip)(0, 1, w)
    assert (plain.params["2.weight"] - z.params["2.weight"]).abs().max() > 1e-4


@pytest.mark.parametrize("n", [2, 4, 3])
def test_scaling_there_and_back_is_the_identity_to_the_bit_for_powers_of_two(n):
    network = MLP(5, (16, 12), 3)
    local = LocalSteps(network, Rows(), Adam(), 1, scale=Scale({"hidden.0": "inverted"}))
    x = initial_state(network, seed=0, moments=local.moments)
    x.moments["exp_avg"]["3.weight"].normal_()
    x.moments["exp_avg_sq"]["3.weight"].uniform_()
    partition = NetSketch(network.layout, Perm(n)).sample(0, 0)
    back = []
    for i in range(n):
        w = partition.select(x, i)
        module = network.build(network.layout.units_of(w.params))
        scales = local.scale.of(network.layout, module, w)
        assert scales == {"3.weight": 16 / len(partition.hands["hidden.0"][i])}
        z = copied(w)
        scaled(z, scales)
        assert not torch.equal(pack(z), pack(w))
        unscaled(z, scales)
        back.append(z)
        if n == 3:  # s = 16/5 or 16/6: within one rounding each way
            torch.testing.assert_close(pack(z), pack(w), rtol=3e-7, atol=0)
        else:
            assert torch.equal(pack(z), pack(w))
    if n != 3:
        merged = holders(x, partition, back)
        assert all(torch.equal(merged.params[m], p) for m, p in x.params.items())


def test_only_the_consuming_side_is_scaled_whatever_the_layer():
    class Net(nn.Module):
        def __init__(self, c, h):
            super().__init__()
            self.up = nn.Conv2d(2, c, 3)
            self.norm = nn.BatchNorm2d(c)
            self.depth = nn.Conv2d(c, c, 3, groups=c)
            self.down = nn.Conv2d(c, 4, 1)
            self.back = nn.ConvTranspose2d(c, 4, 2)
            self.attention = nn.Linear(2 * h, 3)
            self.embed = nn.Embedding(7, 2 * h)

    layout = Layout(
        {"c": 6, "h": 4},
        {"up.weight": ("c", None, None, None), "up.bias": ("c",),
         "norm.weight": ("c",), "norm.bias": ("c",),
         "depth.weight": ("c", None, None, None), "depth.bias": ("c",),
         "down.weight": (None, "c", None, None), "down.bias": (None,),
         "back.weight": ("c", None, None, None), "back.bias": (None,),
         "attention.weight": (None, Prod(("h", 2))), "attention.bias": (None,),
         "embed.weight": (None, Prod(("h", 2)))},
    )  # fmt: skip
    module = Net(6, 4)
    x = ModelState({n: p.detach() for n, p in module.named_parameters()})
    w = NetSketch(layout, Full(1)).sample(0, 0).select(x, 0)
    found = Scale({"c": 2.0, "h": 3.0}).of(layout, module, w)
    assert found == {"down.weight": 2.0, "back.weight": 2.0, "attention.weight": 3.0}
    assert Scale({"c": "inverted"}).of(layout, module, w) == {}  # it holds all of them: s = 1


def test_what_cannot_be_scaled_is_refused_by_name():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 3))
            self.v = nn.Parameter(torch.ones(4, 3))

    layout = Layout({"a": 4, "b": 3, "blocks": 2}, {"w": ("a", "b"), "v": ("a", None)},
                    unit_of={"v": ("blocks", 1)})  # fmt: skip
    x = ModelState({n: p.detach() for n, p in Own().named_parameters()})
    w = NetSketch(layout, Full(1)).sample(0, 0).select(x, 0)
    with pytest.raises(ValueError, match=r"Whether w of a Own sums .* consuming=\{'w': 1\}"):
        Scale({"b": 2.0}).of(layout, Own(), w)
    assert Scale({"b": 2.0}, {"w": 1}).of(layout, Own(), w) == {"w": 2.0}
    with pytest.raises(ValueError, match="No parameter sums over the axis a"):
        Scale({"a": 2.0}, {"w": 1, "v": -1}).of(layout, Own(), w)
    with pytest.raises(ValueError, match=r"no axis of width 'blocks' to scale.*\['a', 'b'\]"):
        Scale({"blocks": 2.0}).of(layout, Own(), w)
    with pytest.raises(ValueError, match="axis a is a positive number or 'inverted', not 0"):
        Scale({"a": 0})
    with pytest.raises(ValueError, match="axis a is a positive number or 'inverted', not 'up'"):
        Scale({"a": "up"})
    dense = Layout({"a": 2}, {"weight": (None, Cat(("a", 3))), "bias": (None,)})
    linear = nn.Linear(5, 2)
    x = ModelState({n: p.detach() for n, p in linear.named_parameters()})
    w = NetSketch(dense, Full(1)).sample(0, 0).select(x, 0)
    with pytest.raises(ValueError, match=r"weight sums over several axes .* \[1\.0, 2\.0\]"):
        Scale({"a": 2.0}).of(dense, linear, w)
