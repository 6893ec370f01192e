"""What a plan cannot see or would share: closures, odd outputs, copies, parts of another plan."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from subnetwork import Perm, decompose
from subnetwork.nets.seeding import seeded
from subnetwork.nets.trace.outside import leaves

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def mlp(hidden=8):
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


class Gained(nn.Module):
    """A hook that holds the module which owns the parameter it reads."""

    def __init__(self):
        super().__init__()
        self.net, self.gain = mlp(), nn.Parameter(torch.tensor(2.0))
        self.net[0].register_forward_hook(lambda _m, _x, out: out * self.gain)

    def forward(self, x):
        return self.net(x)


def test_a_hook_that_holds_the_model_is_refused():
    with pytest.raises(ValueError, match=r"^forward reaches the parameter gain through a closure"):
        decompose(Gained(), X)


def test_a_forward_that_was_replaced_and_holds_a_layer_is_refused():
    model = mlp()
    head = model[2]
    model[2].forward = lambda x: linear(x, head.weight, head.bias) * 2
    with pytest.raises(ValueError, match=r"reaches the parameter 2\.weight"):
        decompose(model, X)


def test_hooks_that_take_what_they_are_given_are_fine():
    model = mlp()
    model[0].register_forward_hook(lambda module, _x, out: out + module.bias)
    assert decompose(model, X).exact


class Counted(nn.Sequential):
    """A hook that holds the module which owns the buffer."""

    def __init__(self, hook):
        super().__init__(*mlp())
        self.register_buffer("n", torch.zeros(2))
        self[0].register_forward_hook(lambda _m, _x, out: hook(self, out))


def count(net, _):
    net.n[0] += 1


def replace(net, _):
    net.n = net.n + 1


def gather(net, out):
    nn.functional.batch_norm(out[:, :2], net.n, torch.ones(2), training=True)


@pytest.mark.parametrize(
    ("hook", "does"), [(count, "writes"), (replace, "replaces"), (gather, "writes")]
)
def test_a_hook_that_writes_a_buffer_of_the_model_is_refused(hook, does):
    model = Counted(hook)
    before = model.n
    with pytest.raises(ValueError, match=f"^forward {does} the buffer n through a closure"):
        decompose(model, X)
    assert model.n is before
    assert not before.any()


def test_a_hook_that_only_reads_a_buffer_of_the_model_is_fine():
    assert decompose(Counted(lambda net, out: out * (1 + net.n[0])), X).exact


@dataclass
class Policy:
    mean: torch.Tensor
    kind: str = "normal"


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.policy, self.value = nn.Linear(8, 6), nn.Linear(8, 1)

    def forward(self, x):
        hidden = self.body(x)
        return Policy(self.policy(hidden)), self.value(hidden)


def test_outputs_in_a_dataclass_are_outputs():
    plan = decompose(ActorCritic(), X)
    assert list(plan.layout.sizes) == ["body.0.hidden"]
    assert plan.cut(plan.model, deal=Perm(2))[0](X)[0].mean.shape == (6, 6)


def test_leaves_are_found_in_dataclasses_and_distributions():
    one, two = torch.zeros(1), torch.ones(2)
    apart = torch.distributions.Independent(torch.distributions.Normal(two, two), 1)
    found = list(leaves({"a": Policy(one), "b": torch.distributions.Normal(two, two), "c": apart}))
    assert [name for x, name in found if x is one] == ["Policy"]
    assert sum(x.shape == (2,) for x, _ in found) == 4


class Box:
    """A class of the user's own; it holds itself, and a model."""

    __slots__ = ("__dict__", "__hidden")

    def __init__(self, hidden, model):
        self.__hidden, self.model, self.me = [hidden], model, self

    @property
    def held(self):
        return self.__hidden


class Held(dict):
    pass


@pytest.mark.parametrize("boxed", [Box, lambda h, _: Held(h=h), lambda h, _: {"a": Box(h, 1)}])
def test_units_that_an_object_of_any_class_returns_are_not_cut(boxed):
    class Boxed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = mlp(), mlp()

        def forward(self, x):
            hidden = self.first[1](self.first[0](x))
            return self.first[2](hidden) + self.second(x), boxed(hidden, self)

    plan = decompose(Boxed(), X)
    assert list(plan.layout.sizes) == ["second.hidden"]
    assert any(why.startswith("the model's output, in an object of class") for why in plan.fixed)


def test_the_caches_of_transformers_are_no_outputs():
    """Of a part they hold its own heads, which would all stay whole."""
    kind = type("DynamicCache", (Held,), {"__module__": "transformers.cache_utils"})
    assert not list(leaves({"cache": type("Mine", (kind,), {})(keys=X)}))
    assert len(list(leaves({"cache": type("DynamicCache", (Held,), {})(keys=X)}))) == 1


def test_an_output_in_an_object_alone_is_compared():
    class Boxed(nn.Sequential):
        def forward(self, x):
            return Box(super().forward(x), None)

    assert decompose(Boxed(*mlp()), X).evidence.masked < 1e-9


def test_a_block_that_returns_a_second_tensor_in_an_object_is_not_left_out():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            y = self.g(self.f(x).relu())
            return x + y, Box(y, None)

    model = nn.Sequential(nn.Linear(4, 4), Block(), nn.Linear(4, 3))
    model[1].register_forward_hook(lambda _m, _x, out: out[0] + out[1].held[0])
    with pytest.raises(ValueError, match=r"No block .* \(1: it returns 2 tensors\)"):
        decompose(model, X, depth=["1"])


def test_a_deep_copy_of_an_exported_part_is_a_part():
    model = mlp()
    plan = decompose(model, X, builder="export")
    first, second = plan.cut(model, deal=Perm(2))
    twin = copy.deepcopy(copy.deepcopy(first))
    for refused in (twin.eval, lambda: twin.train(False)):
        with pytest.raises(RuntimeError, match="computes in training mode only"):
            refused()
    with torch.no_grad():
        twin.get_parameter("0.weight").fill_(5.0)
    assert not (first.get_parameter("0.weight") == 5.0).any()
    plan.merge(model, [twin, second])
    assert (model[0].weight[first.held_units["0.hidden"]] == 5.0).all()


def test_parameters_keep_their_attributes_in_parts_and_hooks_on_them_are_named():
    model = mlp()
    model[0].weight.no_decay, model[0].bias.scores = True, torch.ones(8)
    model[2].weight.register_hook(lambda grad: grad * 0)
    model[2].bias.register_post_accumulate_grad_hook(lambda _: None)
    for builder in ("copy", "export"):
        plan = decompose(model, X, builder=builder)
        part = plan.cut(model, deal=Perm(2))[0]
        assert part.get_parameter("0.weight").no_decay
        assert not hasattr(part.get_parameter("0.bias"), "scores")  # of the whole's units
        (note,) = (n for n in plan.notes if "hooks" in n)
        assert note == (
            "parts do not have the hooks on 2.weight, 2.bias: register them on each part's own"
        )
    assert "note: parts do not have the hooks on 2.weight" in str(plan)
    assert not any("hooks" in note for note in decompose(mlp(), X).notes)


class Gated(nn.Module):
    """torch writes the type of the state that it starts from into the graph."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRUCell(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.cell(x))


def test_a_graph_that_has_a_type_written_into_it_takes_models_of_that_type():
    model = Gated()
    plan = decompose(model, X, builder="export").verify()
    plan.cut(model, deal=Perm(2))[0](X)
    with pytest.raises(
        ValueError, match=r"exported in torch\.float32, .* cell\.weight_ih .*float64"
    ):
        plan.cut(model.double(), deal=Perm(2))
    again = decompose(model, X.double(), builder="export")
    assert again.cut(model, deal=Perm(2))[0](X.double()).dtype == torch.float64


def test_a_graph_without_a_type_takes_any_model():
    model = mlp()
    plan = decompose(model, X, builder="export")
    assert plan.cut(model.double(), deal=Perm(2))[0](X.double()).dtype == torch.float64


def test_a_shallow_copy_of_an_exported_part_is_a_part_and_shares_its_tensors():
    model = mlp()
    first, second = decompose(model, X, builder="export").cut(model, deal=Perm(2))
    twin = copy.copy(first)
    with pytest.raises(RuntimeError, match="computes in training mode only"):
        twin.eval()
    assert torch.equal(twin.held_units["0.hidden"], first.held_units["0.hidden"])
    assert twin.get_parameter("0.weight") is first.get_parameter("0.weight")
    assert copy.copy(twin).held_of == second.held_of


def test_an_exported_part_is_not_pickled():
    model = mlp()
    part = decompose(model, X, builder="export").cut(model, deal=Perm(2))[0]
    for one in (part, copy.deepcopy(part)):
        with pytest.raises(TypeError, match=r"cannot be pickled\. Save its state_dict\(\)"):
            pickle.dumps(one)


def test_what_is_no_part_of_the_plan_is_not_merged():
    model = mlp()
    plan, other = decompose(model, X), decompose(mlp(6), X)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="was given no parts"):
        plan.merge(model, [])
    with pytest.raises(ValueError, match="a part of another plan"):
        plan.merge(model, other.cut(other.model, deal=Perm(2)))
    parts = plan.cut(model, deal=Perm(2))
    parts[0][2].bias = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=r"whose 2\.bias has shape \(1,\), but .* \(3,\)"):
        plan.merge(model, parts)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    plan.merge(model, iter(plan.cut(model, deal=Perm(2))))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile
def test_a_compiled_model_is_the_model():
    model = mlp()
    compiled = torch.compile(model)
    plan = decompose(compiled, X)
    assert list(plan.layout.dims) == [name for name, _ in model.named_parameters()]
    parts = plan.cut(compiled, deal=Perm(2))
    with torch.no_grad():
        parts[0][2].bias.fill_(1.0)
        parts[1][2].bias.fill_(3.0)
    assert plan.merge(compiled, parts) is compiled
    assert torch.allclose(model[2].bias, torch.full((3,), 2.0))


def test_a_parameter_whose_entries_share_memory_is_refused():
    model = mlp()
    model[0].bias = nn.Parameter(torch.ones(1).expand(8))
    with pytest.raises(ValueError, match=r"Entries of 0\.bias share one memory .*contiguous"):
        decompose(model, X)


def test_a_table_leaves_the_example_batch_alone():
    class Writes(nn.Sequential):
        def forward(self, x):
            return super().forward(x.sub_(1.0))

    batch = X.clone()
    decompose(Writes(*mlp()), batch).table(2)
    assert torch.equal(batch, X)


def test_generators_of_an_accelerator_that_is_not_in_use_are_left_alone(monkeypatch):
    """Torch would put their seed off until CUDA starts, and nothing would put it back then."""
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    model, before = mlp(), torch.get_rng_state()
    decompose(model, X)
    with seeded(3):
        drawn = torch.rand(4)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))
    assert not seeds
