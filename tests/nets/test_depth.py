"""Depth: which blocks are found, and that a part without some is the model with them at zero."""

import copy

import numpy as np
import pytest
import torch
from oracle import assert_same_function, doubled, without_dropout
from torch import nn
from torch.nn import functional as F
from zoo import zoo
from zoo_sequences import NanoGPT

from subnetwork import Bernoulli, Full, Perm, decompose, rounds
from subnetwork.deals import AtLeast, WarmUp
from subnetwork.nets import SGD, Batches, Layout, LocalSteps, NetSketch, holders, plan_from
from subnetwork.nets.architecture import runnable
from subnetwork.nets.table import cost
from subnetwork.runtime.here import here

FOUND = {
    "resnet": ("layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"),
    "pre_activation": ("1.0", "1.1", "1.2", "2.1", "2.2", "2.3"),
    "mobilenet": ("3", "5"),
    "resnext": ("2",),  # the first block's input is not behind a ReLU
    "vit": ("blocks.0", "blocks.1"),
    "nanogpt": ("blocks.0", "blocks.1"),
    "llama": ("layers.0", "layers.1", "layers.2"),
}
EXPORTED = {"vit", "nanogpt"}  # where heads stand in an attribute; a copy has to do for the others
SHAPE, IDENTITY = "its output has another shape than its input", "not the identity when"


class Residual(nn.Module):
    def __init__(self, d=8):
        super().__init__()
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x):
        return x + self.down(F.relu(self.up(x)))


def parts_of(plan, model, held):
    """The parts of workers that hold these blocks and every unit of width."""
    everything = plan.layout.all_units
    return [
        plan.builder.build(model, {**everything, "blocks": torch.tensor(units, dtype=torch.int64)})
        for units in held
    ]


@pytest.fixture(scope="module", params=FOUND)
def planned(request):
    model, batch = zoo(request.param)
    model = without_dropout(model).double().train()
    return request.param, model, decompose(model, doubled(batch), depth=True)


def test_the_blocks_are_these(planned):
    name, _, plan = planned
    assert plan.exact
    assert plan.builder.kind == ("export" if name in EXPORTED else "copy")
    assert plan.layout.unit_names == {"blocks": FOUND[name]}
    assert f"blocks({len(FOUND[name])})  left out whole: {FOUND[name][0]}" in str(plan)


@pytest.mark.parametrize(
    "deal",
    [
        {"blocks": AtLeast(2), "*": Perm(2)},
        {"blocks": Bernoulli(2, p=0.2), "*": Full(2)},
        {"blocks": AtLeast(3), "*": Perm(3)},
    ],
    ids=["half", "few blocks", "third"],
)
def test_a_part_is_the_masked_model_with_the_blocks_that_it_lacks_at_zero(planned, deal):
    _, model, plan = planned
    for sub in plan.cut(model, deal=deal, seed=7):
        held = [plan.blocks[u].path for u in sub.held_units["blocks"]]
        lacking = tuple(f"{b.path}." for b in plan.blocks if b.path not in held)
        names = [name for name, _ in model.named_parameters() if not name.startswith(lacking)]
        assert [name for name, _ in sub.named_parameters()] == names
        assert not any(name.startswith(lacking) for name in sub.state_dict())
        assert_same_function(plan, model, sub)


def test_merging_gives_the_model_back_to_the_bit_and_writes_what_was_held(planned):
    _, model, plan = planned
    model = copy.deepcopy(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    deal = {"blocks": AtLeast(3, least=1), "*": Full(3)}
    plan.merge(model, plan.cut(model, deal=deal, seed=1))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    subs = plan.cut(model, deal={"blocks": Bernoulli(2, p=0.5), "*": Full(2)}, seed=4)
    for sub in subs:
        for p in sub.parameters():
            p.data.add_(1)
    plan.merge(model, subs)
    held = set().union(*([name for name, _ in sub.named_parameters()] for sub in subs))
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] + (name in held))


@pytest.mark.parametrize(
    "name", ["mobilenet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet", "vit"))]
)
def test_an_exported_graph_leaves_blocks_out_as_well(name):
    model, x = zoo(name)
    plan = decompose(model, x, depth=True, builder="export", verify=False)
    assert plan.layout.unit_names["blocks"] == FOUND[name]
    assert plan.verify(gradients=True).evidence.gradients < 1e-9
    (none,) = parts_of(plan, model, [[]])
    inside = tuple(f"{path}." for path in FOUND[name])
    assert not any(n.startswith(inside) for n, _ in none.named_parameters())
    assert not any(n.startswith(inside) for n, _ in none.named_buffers())
    targets = [str(node.target) for node in none.graph.nodes if node.op == "get_attr"]
    assert not any(target.startswith(inside) for target in targets)


@pytest.mark.parametrize("held", [[0], [2], []], ids=["the last two", "the first two", "all"])
def test_an_exported_graph_leads_around_neighbours_that_are_left_out(held):
    """Where one block's input is another one's output, and both are gone."""
    torch.manual_seed(0)
    model, x = nn.Sequential(*(Residual() for _ in range(3)), nn.Linear(8, 2)), torch.randn(5, 8)
    plan = decompose(model, x, width=(), depth=True, builder="export", verify=False)
    (part,) = parts_of(plan, model, [held])
    short = nn.Sequential(*(model[i] for i in held), model[3])
    assert torch.equal(part(x), short(x))


@pytest.mark.parametrize("builder", ["copy", "export"])
def test_a_block_that_is_left_out_costs_nothing(builder):
    """FLOPs, activations and outputs are those of a network that never had the block."""
    model, x = zoo("nanogpt")
    plan = decompose(model, x, width=(), depth=True, builder=builder, verify=False)
    (part,) = parts_of(plan, model, [[1]])
    shallow = NanoGPT(n_blocks=1)
    names = {n: n.replace("blocks.0", "blocks.1") for n in shallow.state_dict()}
    shallow.load_state_dict({n: model.state_dict()[names[n]] for n in names})
    assert torch.equal(part.train()(x), shallow(x))
    if builder == "copy":
        assert cost(part, plan.inputs) == cost(shallow, plan.inputs)
    assert cost(part, plan.inputs).flops == cost(shallow, plan.inputs).flops


def test_a_copied_part_evaluates_deep_copies_and_reloads():
    model, x = zoo("llama")
    plan = decompose(model, x, depth=True, verify=False)
    part = plan.cut(model, deal={"blocks": AtLeast(2), "*": Full(2)})[0]
    again = copy.deepcopy(part)
    assert torch.equal(again.eval()(x), part.eval()(x))
    again.load_state_dict(part.state_dict())
    assert len(part.layers) == 3


def test_blocks_that_cannot_be_left_out_are_named_with_the_reason():
    model, x = zoo("encoder")
    plan = decompose(model, x, depth=True)
    assert not plan.blocks
    assert all(IDENTITY in plan.kept[f"e.layers.{i}"] for i in range(2))
    assert "block e.layers.0  in every part: not the identity when its parameters" in str(plan)
    model, x = zoo("resnet")
    plan = decompose(model, x, depth=True, verify=False)
    assert plan.kept == {f"layer{i}.0": SHAPE for i in (2, 3, 4)}
    with pytest.raises(ValueError, match=r"nothing .*\(block e\.layers\.0: not the identity"):
        decompose(*zoo("encoder"), width=(), depth=True)


class WithMean(Residual):
    def forward(self, x):
        return super().forward(x), x.mean()


class Reused(nn.Module):
    """One block runs twice, one shares a tensor with the head, one returns two tensors."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([*(Residual() for _ in range(3)), WithMean()])
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.blocks[2].up.weight

    def forward(self, x):
        x = self.blocks[1](self.blocks[0](self.blocks[0](x)))
        x, mean = self.blocks[3](self.blocks[2](x))
        return self.head(x) + mean


def test_a_block_that_others_need_stays():
    plan = decompose(Reused(), torch.randn(5, 8), width=(), depth=True)
    assert plan.layout.unit_names == {"blocks": ("blocks.1",)}
    assert plan.kept["blocks.0"] == "it runs more than once"
    assert plan.kept["blocks.2"] == "it shares a parameter with head.weight"
    assert plan.kept["blocks.3"] == "it returns 2 tensors"


class OnTheBranch(Residual):
    def forward(self, x):
        return x + F.dropout(self.down(F.relu(self.up(x))), 0.5, self.training)


class OnTheStream(Residual):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.5, self.training)


class DroppedWhole(Residual):
    """Stochastic depth."""

    def forward(self, x):
        kept = torch.rand(len(x), 1) < 0.5
        return x + kept * self.down(F.relu(self.up(x)))


def test_noise_on_the_stream_is_part_of_what_a_block_does():
    """The model without the block would draw none; noise on the branch goes with the branch."""
    blocks = [OnTheBranch(), OnTheStream(), DroppedWhole(), OnTheStream(), Residual()]
    model = nn.Sequential(nn.Linear(4, 8), *blocks, nn.Linear(8, 2))
    plan = decompose(model, torch.randn(5, 4), width=(), depth=True)
    assert plan.layout.unit_names == {"blocks": ("1", "3", "5")}
    why = "it adds noise to what it hands on, such as dropout on the stream"
    assert plan.kept == {"2": why, "4": why}
    with pytest.raises(ValueError, match=rf"\(1: {why}"):
        decompose(nn.Sequential(nn.Linear(4, 8), OnTheStream()), torch.randn(5, 4), depth=["1"])


class Chance(nn.Module):
    """The block clips what it hands on, and its input is not always positive."""

    def __init__(self):
        super().__init__()
        self.i, self.block, self.o = nn.Linear(4, 8), Residual(), nn.Linear(8, 2)
        nn.init.constant_(self.i.bias, 5.0)
        self.clip = self.block.register_forward_hook(lambda _m, _x, y: F.relu(y))

    def forward(self, x):
        return self.o(self.block(self.i(x)))


def test_a_hook_that_changes_what_a_block_returns_is_seen_by_the_proof():
    """The block by itself is the identity at zero; with its hook the model is not the same."""
    model = Chance()
    plan = decompose(model, torch.randn(64, 4) * 4, width=(), depth=True)
    (part,) = parts_of(plan, model, [[]])
    whole = copy.deepcopy(model)
    for p in whole.block.parameters():
        p.data.zero_()
    x = torch.randn(64, 4) * 4
    torch.testing.assert_close(part(x), whole(x))


def test_depth_takes_patterns_and_width_can_stay_whole():
    model, x = zoo("resnet")
    plan = decompose(model, x, width=(), depth=["layer[34].*"], verify=False)
    assert plan.layout.sizes == {"blocks": 2}
    assert plan.layout.unit_names == {"blocks": ("layer3.1", "layer4.1")}
    outer = decompose(model, x, width=(), depth=["layer1"], verify=False)
    assert outer.layout.unit_names == {"blocks": ("layer1",)}
    with pytest.raises(ValueError, match=r"called 'layer2\.0' \(layer2\.0: its output has another"):
        decompose(model, x, depth=["layer2.0"])
    with pytest.raises(ValueError, match=r"Name an axis in width=, or leave out blocks with depth"):
        decompose(model, x, width=())


def test_fewer_blocks_than_workers_are_shared_on_request():
    model, x = zoo("vit")
    plan = decompose(model, x, width=(), depth=True, verify=False)
    with pytest.raises(ValueError, match=r"Axis blocks: .*2 units for n_workers=3.*AtLeast"):
        plan.cut(model, deal=Perm(3))
    subs = plan.cut(model, deal=AtLeast(3, least=1))
    assert sorted(len(sub.held_units["blocks"]) for sub in subs) == [1, 1, 1]


def test_the_layout_with_blocks_can_be_written_by_hand():
    model, x = zoo("resnet")
    plan = decompose(model, x, width=(), depth=["layer[12].*"], verify=False)
    text = plan.layout.to_json()
    again = plan_from(Layout.from_json(text), model, x)
    assert again.layout == plan.layout
    assert again.blocks == plan.blocks
    with pytest.raises(ValueError, match=r"blocks of \['blocks'\].*unit_names"):
        plan_from(
            Layout(plan.layout.sizes, plan.layout.dims, unit_of=plan.layout.unit_of), model, x
        )
    with pytest.raises(ValueError, match=r"3 units of axis blocks, but names 1 .*Name every one"):
        Layout.from_json(text.replace('"layer1.0",', "").replace('"layer1.1",', ""))
    with pytest.raises(ValueError, match=r"called 'layer2\.0' \(layer2\.0: its output"):
        plan_from(Layout.from_json(text.replace('"layer2.1"', '"layer2.0"')), model, x)


@pytest.mark.parametrize("name", ["resnet", "pre_activation", "llama"])
def test_the_table_counts_what_the_largest_part_really_has(name):
    model, x = zoo(name)
    plan = decompose(model, x, width=(), depth=True, verify=False)
    n = len(plan.blocks)
    pairs = [[i, j] for i in range(n) for j in range(i)] if n > 3 else [[0, 1], [0, 2], [1, 2]]
    real = [cost(part, plan.inputs) for part in parts_of(plan, model, pairs)]
    lines = plan.table(-(-n // 2)).splitlines()[1:]
    told = [int(line.split()[-2].replace(",", "")) for line in lines]
    assert told[0] == max(c.parameters for c in real)
    assert told[1] == max(c.flops for c in real)
    assert told[2] == max(c.activations for c in real)
    assert told[3] == max(c.payload for c in real)


def test_the_engine_trains_blocks_after_a_warm_up_and_the_loss_goes_down():
    """ResIST's round: a minimum depth, warm-up with the whole model, other rounds by blocks."""
    model, x = zoo("pre_activation")
    plan = decompose(model, x, width=(), depth=True, verify=False)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 3, 8, 8, generator=generator)
    targets = inputs.flatten(1).topk(10).indices[:, 0] % 10
    work = here(LocalSteps(plan, Batches(inputs, targets, 2, 8, 0), SGD(0.05, momentum=0.5), 4))
    x0 = plan.state(moments=("momentum_buffer",))
    deal = WarmUp(2, AtLeast(2, least=4))
    bytes_down = []
    for round in rounds(x0, NetSketch(plan.layout, deal), work, holders, seed=0, n_rounds=6):
        bytes_down.append([w.n_bytes for w in round.submodels])
    assert bytes_down[0] == bytes_down[1] == [max(map(max, bytes_down))] * 2
    assert np.array(bytes_down[2:]).max() < bytes_down[0][0]

    def loss(state):
        return F.cross_entropy(runnable(plan, state).train()(inputs), targets).item()

    assert loss(round.x) < loss(x0)
    assert all(not torch.equal(p, x0.params[n]) for n, p in round.x.params.items())
