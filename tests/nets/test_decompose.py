"""What `decompose` says and refuses, and that the engine takes a plan as it takes an MLP."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo import zoo

from subnetwork import Full, Perm, decompose, rounds
from subnetwork.nets import (
    SGD,
    Batches,
    Layout,
    LocalSteps,
    ModelState,
    NetSketch,
    holders,
    initial_state,
    plan_from,
)
from subnetwork.nets.builders.copy import Copy
from subnetwork.nets.terms import Cat, Prod
from subnetwork.nets.trace import pointwise, rule
from subnetwork.runtime.here import here


class Odd(nn.Module):
    """An operation that the tracer has no rule for, between two layers."""

    def __init__(self, odd=torch.special.bessel_j0):
        super().__init__()
        self.a, self.b, self.c, self.odd = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3), odd

    def forward(self, x):
        return self.c(F.relu(self.b(self.odd(self.a(x)))))


def renorm(x):
    return torch.renorm(x, 2, 0, 1.0)


def test_a_model_with_nothing_to_cut_is_refused_with_its_reasons():
    with pytest.raises(ValueError, match=r"Linear has nothing that can be cut .*Give it a hidden"):
        decompose(nn.Linear(4, 3), torch.randn(2, 4))
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"0\.hidden\(8\): normalised over.*inexact=True"):
        decompose(normed, torch.randn(3, 4))


def test_flagged_axes_are_cut_on_request_and_the_plan_says_that_it_is_not_exact():
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    plan = decompose(normed, torch.randn(3, 4), inexact=True)
    assert not plan.exact
    assert "not exact" in str(plan)
    assert plan.cut(normed, deal=Perm(2))[0][1].normalized_shape == (4,)


def test_an_unknown_operation_freezes_what_it_touches_and_a_rule_frees_it():
    model, x = Odd(renorm), torch.randn(5, 6)
    plan = decompose(model, x)
    assert list(plan.layout.sizes) == ["b.hidden"]
    message = 'op renorm is not understood: its axes stay whole; teach it with rule("renorm", ...)'
    assert message in plan.notes
    assert {"a.weight[0]", "a.bias[0]", "b.weight[1]"} <= set(plan.fixed[message])
    taught = decompose(
        model, x, rules=[rule("renorm")(lambda call: [call.of("self")])], verify=False
    )
    assert list(taught.layout.sizes) == ["a.hidden", "b.hidden"]


def test_a_rule_that_is_wrong_does_not_pass():
    x = torch.randn(5, 6)
    whatever = rule("cumsum", "_softmax", "renorm")(lambda call: [call.of("self")])
    plan = decompose(Odd(lambda y: y.cumsum(1)), x, rules=[whatever])
    assert "permuting its units changes the model" in plan.whole["a.hidden"]
    plan = decompose(Odd(lambda y: y.softmax(1)), x, rules=[whatever])
    assert "differ from f(C x)" in plan.whole["a.hidden"]
    assert list(plan.layout.sizes) == ["b.hidden"]
    upside_down = rule("renorm")(lambda call: [call.of("self")[::-1]])
    plan = decompose(Odd(renorm), x, rules=[upside_down])
    assert any("the rule gives other sizes" in note for note in plan.notes)


def test_both_halves_of_a_flagged_dim_are_flagged():
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(6, 24), nn.LayerNorm(24), nn.Linear(24, 3)

        def forward(self, x):
            y = self.norm(self.a(x)).view(-1, 4, 6)
            return self.b(y.transpose(1, 2).reshape(-1, 24))

    with pytest.raises(
        ValueError, match=r"nothing .*\(4\): normalised over; .*\(6\): normalised over"
    ):
        decompose(Viewed(), torch.randn(5, 6))


def test_what_is_traced_is_what_trains():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.scale = (
                nn.Linear(6, 12),
                nn.Linear(12, 3),
                nn.Parameter(torch.ones(12)),
            )

        def forward(self, x):
            h = F.relu(self.a(x))
            return self.b(h * self.scale if self.training else h)

    plan = decompose(Scaled().eval(), torch.randn(5, 6))
    assert plan.layout.dims["scale"] == ("a.hidden",)


def test_a_layer_that_starts_at_zero_hides_nothing():
    wrong = rule("_softmax")(lambda call: [call.of("self")])
    model = Odd(lambda y: y.softmax(1))
    nn.init.zeros_(model.c.weight)
    plan = decompose(model, torch.randn(5, 6), rules=[wrong])
    assert "differ from f(C x)" in plan.whole["a.hidden"]


def test_a_model_that_does_not_run_in_float64_is_measured_in_float32():
    class Single(nn.Module):
        def forward(self, x):
            if x.dtype == torch.float64:
                raise RuntimeError("no kernel for float64")
            return x

    plan = decompose(nn.Sequential(nn.Linear(4, 8), Single(), nn.Linear(8, 2)), torch.randn(3, 4))
    assert plan.evidence.dtype == torch.float32
    assert "in float32" in str(plan)


def test_a_rule_can_speak_for_a_whole_layer():
    class Secret(nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.detach().numpy()).renorm(2, 0, 1e9)

    model = nn.Sequential(nn.Linear(6, 12), Secret(), nn.Linear(12, 3))
    x = torch.randn(5, 6)
    with pytest.raises(ValueError, match="nothing that can be cut"):
        decompose(model, x)
    plan = decompose(model, x, rules=[rule("Secret")(pointwise)])
    assert list(plan.layout.sizes) == ["0.hidden"]


def test_operations_that_torch_tags_as_pointwise_need_no_rule():
    assert list(decompose(Odd(), torch.randn(5, 6)).layout.sizes) == ["a.hidden", "b.hidden"]


def test_a_tensor_that_is_a_plain_attribute_is_named_with_what_to_do():
    model, x = zoo("plain_tensor")
    plan = decompose(model, x)
    assert any(
        "slopes, a plain attribute: register it with register_buffer" in w for w in plan.fixed
    )
    slopes = model.slopes
    del model.slopes
    model.register_buffer("slopes", slopes)
    assert list(decompose(model, x).layout.sizes) == ["a.hidden", "b.hidden"]


def test_a_forward_that_reads_values_is_copied_and_the_plan_says_why():
    model, x = zoo("branching")
    plan = decompose(model, x)
    assert plan.builder.kind == "copy"
    assert any("item() cannot be called on meta" in note for note in plan.notes)
    with pytest.raises(
        ValueError, match=r"torch\.export refuses it: .*Leave builder='export' out: a patched copy"
    ):
        decompose(model, x, builder="export")


def test_sizes_that_are_written_down_beside_values_that_are_read_are_told_what_to_do():
    """A copy cannot know the size, and no graph can be exported."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 12), nn.Linear(12, 3)

        def forward(self, x):
            h = torch.relu(self.a(x)).view(-1, 12)
            return self.b(-h if x.sum().item() > 1e6 else h)

    told = r"nothing .*a\.hidden\(12\): copy: .*refuses it.*sizes from tensors .*no values \(\.item"
    with pytest.raises(ValueError, match=told):
        decompose(Both(), torch.randn(7, 6))


def test_more_workers_than_heads_is_refused_by_the_axis():
    model, x = zoo("encoder")
    plan = decompose(model, x)
    expected = r"Axis e\.layers\.0\.self_attn\.heads.* 4 units for n_workers=6.* at most 4 workers"
    with pytest.raises(ValueError, match=expected):
        plan.cut(model, deal=Perm(6))
    with pytest.raises(ValueError, match=expected):
        plan.table(6)
    assert len(decompose(model, x, width=["*.hidden"]).cut(model, deal=Perm(6))) == 6


def test_width_names_axes_by_patterns():
    model, x = zoo("vit")
    plan = decompose(model, x, width=["*.mlp.hidden"])
    assert list(plan.layout.sizes) == ["blocks.0.mlp.hidden", "blocks.1.mlp.hidden"]
    assert plan.whole["blocks.0.attn.heads"] == "not named in width"
    with pytest.raises(
        ValueError, match=r"No axis of the model is called '\*\.head'\. Its axes are"
    ):
        decompose(model, x, width=["*.head"])
    with pytest.raises(
        ValueError, match=r"names stream\(24\), which is normalised over: .*inexact"
    ):
        decompose(model, x, width=["stream"])


def test_a_layer_that_the_batch_does_not_reach_stays_whole():
    """It may be needed on another branch, where its sizes have to fit."""

    class Exit(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.early = nn.Linear(6, 12), nn.Linear(12, 3), nn.Linear(6, 3)

        def forward(self, x, early=False):
            return self.early(x) if early else self.b(F.relu(self.a(x)))

    model = Exit()
    plan = decompose(model, torch.randn(5, 6))
    assert list(plan.layout.sizes) == ["a.hidden"]
    assert plan.fixed["not used on the example batch"][0] == "early.weight[0]"
    assert plan.cut(model, deal=Perm(2))[0](torch.randn(5, 6), early=True).shape == (5, 3)


def test_a_batch_that_the_model_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"cannot be traced on the example batch: RuntimeError"):
        decompose(nn.Linear(4, 3), torch.randn(2, 5))


def test_a_model_whose_outputs_cannot_be_seen_is_refused():
    """Nothing would be frozen and nothing compared: every plan would pass."""

    class Late(nn.Sequential):
        def forward(self, x):
            out = super().forward(x)
            return lambda: out

    model = Late(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"returned a function in which no .* return a tensor"):
        decompose(model, torch.randn(3, 4))


def test_arguments_by_name_and_several_arguments():
    model, (x, edges) = zoo("edge_gcn")
    for builder in ("copy", "export"):
        plan = decompose(model, {"edges": edges, "x": x}, builder=builder)
        assert list(plan.layout.sizes) == ["l1.hidden"]
        assert plan.cut(model, deal=Perm(2))[0](x=x, edges=edges).shape == (20, 4)


def test_an_exported_part_takes_other_batch_sizes_and_refuses_to_evaluate():
    model, x = zoo("nanogpt")
    plan = decompose(model, x)
    sub = plan.cut(model, deal=Perm(2))[0]
    assert sub(torch.randint(0, 30, (5, 7))).shape == (5, 7, 50)
    with pytest.raises(RuntimeError, match=r"training mode only\. Evaluate the merged model"):
        sub.eval()


def test_the_layout_is_plain_data_and_can_be_written_by_hand():
    model, x = zoo("vit")
    plan = decompose(model, x)
    assert Layout.from_json(plan.layout.to_json()) == plan.layout
    heads = Prod(("blocks.0.attn.heads", 6))
    assert plan.layout.dims["blocks.0.attn.proj.weight"] == (None, heads)
    by_hand = json.loads(plan.layout.to_json())
    del by_hand["sizes"]["blocks.1.attn.heads"]
    for name, dims in by_hand["dims"].items():
        if name.startswith("blocks.1.attn"):
            by_hand["dims"][name] = [None] * len(dims)
    edited = Layout.from_json(json.dumps(by_hand))
    with pytest.raises(ValueError, match=r"lacks dims\. It says the size"):
        Layout.from_json('{"sizes": {"h": 3}}')
    assert plan_from(edited, model, x).layout == edited


def test_a_layout_that_is_wrong_is_refused_by_what_is_measured():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    dims = {
        "0.weight": ("h", None), "0.bias": ("h",), "2.weight": ("h", "h"), "2.bias": ("h",),
        "4.weight": (None, "h"), "4.bias": (None,),
    }  # fmt: skip
    x = torch.randn(3, 4)
    assert plan_from(Layout({"h": 8}, dims), model, x).exact
    with pytest.raises(ValueError, match="permuting its units changes the model"):
        plan_from(Layout({"h": 8}, {**dims, "2.weight": ("h", None)}), model, x)
    with pytest.raises(ValueError, match=r"2\.bias has shape \(8,\)"):
        plan_from(Layout({"h": 8}, {**dims, "2.bias": (Cat(("h", "h")),)}), model, x)


@pytest.mark.parametrize("name", ["vit", "llama", "densenet", "lstm", "shuffle"])
def test_sizes_follow_from_the_shapes_of_a_part(name):
    model, x = zoo(name)
    plan = decompose(model, x)
    partition = NetSketch(plan.layout, Perm(3)).sample(0, 0)
    for i in range(3):
        part = partition.select(plan.state(), i)
        expected = {axis: len(hands[i]) for axis, hands in partition.hands.items()}
        assert plan.layout.sizes_of(part.params) == expected


def test_axes_that_only_occur_multiplied_are_refused():
    layout = Layout({"a": 2, "b": 3}, {"w": (Prod(("a", "b")),)})
    with pytest.raises(ValueError, match=r"\['a', 'b'\] do not follow .* Cut only one"):
        layout.sizes_of({"w": torch.zeros(6)})


@pytest.mark.parametrize("name", ["lenet", "vit"])
def test_the_engine_trains_a_plan_and_the_loss_goes_down(name):
    model, x = zoo(name)
    plan = decompose(model, x)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, *x.shape[1:], generator=generator)
    targets = inputs.flatten(1).topk(10).indices[:, 0] % 10
    batches = Batches(inputs, targets, 2, 8, 0)
    work = here(LocalSteps(plan, batches, SGD(0.05, momentum=0.5), 4))
    x0 = plan.state(moments=("momentum_buffer",))
    sketch = NetSketch(plan.layout, Perm(2))
    *_, last = rounds(x0, sketch, work, holders, seed=0, n_rounds=6)
    plan.layout.check(last.x.params)

    def loss(state: ModelState):
        out = torch.func.functional_call(model.eval(), dict(state.params), (inputs,))
        return float(F.cross_entropy(out, targets))

    assert loss(last.x) < loss(x0)
    assert all(not torch.equal(p, x0.params[n]) for n, p in last.x.params.items())
    if isinstance(plan.builder, Copy):  # the layers of a graph do not initialise themselves
        assert initial_state(plan, seed=3).params.keys() == x0.params.keys()


def test_one_worker_that_holds_all_takes_the_steps_of_plain_sgd():
    model, x = zoo("swiglu")
    plan = decompose(model, x)
    (sub,) = plan.cut(model, deal=Full(1))
    torch.manual_seed(0)
    twin = zoo("swiglu")[0]
    for module in (sub, twin):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    plan.merge(model, [sub])
    for name, p in twin.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], p)


def test_merge_refuses_what_was_not_cut():
    model, x = zoo("swiglu")
    plan = decompose(model, x)
    with pytest.raises(ValueError, match=r"does not say which units .* that plan\.cut returned"):
        plan.merge(model, [model])


def test_a_buffer_of_single_units_is_cut_with_them():
    model, x = zoo("alibi")
    plan = decompose(model, x)
    sub = plan.cut(model, deal=Perm(2))[1]
    assert torch.equal(sub.slopes, model.slopes[sub.held_units["a.hidden"]])
    with pytest.raises(ValueError, match=r"buffer slopes holds values of single units.*plan\.cut"):
        plan.build({"a.hidden": torch.arange(6)})


def test_the_table_counts_parameters_and_bytes():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = decompose(model, torch.randn(3, 4))
    rows = {line[:24].strip(): line.split() for line in plan.table(2).splitlines()}
    assert rows["parameters"][-3:] == ["58", "30", "0.52"]
    assert rows["FLOPs, forward"][-3:] == ["288", "144", "0.50"]
    assert rows["bytes per round, each wa"][-3:] == ["232", "120", "0.52"]
    assert "0.hidden(8)" in str(plan)
    assert "the model's input" in str(plan)


def test_the_model_is_left_as_it_was():
    model, x = zoo("resnet")
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    plan = decompose(model, x)
    plan.verify(gradients=True)
    plan.table(2)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert not plan.cut(model, deal=Perm(2))[0].training
