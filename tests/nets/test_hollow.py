"""A plan without values: its parts have the shapes, their values come from what is trained."""

import pytest
import torch
from zoo import ZOO, zoo

from subnetwork import Perm, decompose
from subnetwork.nets import SGD, LocalSteps, NetSketch, initial_state
from subnetwork.nets.architecture import built, load_params, skeleton, without_values
from subnetwork.nets.decompose import plan_from
from subnetwork.nets.evaluate import called
from subnetwork.runtime.join import join
from subnetwork.runtime.sizing import sizes


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
    model, _ = zoo("mlp")
    subs = plan.cut(model, deal=Perm(2))
    ways = (
        (plan.state, "plan.state"),
        (plan.verify, "plan.verify"),
        (lambda: plan.merge(plan.model, subs), "plan.merge"),
        (lambda: next(join(plan, deal=Perm(2)).gen), "join"),
    )
    for ask, what in ways:
        with pytest.raises(ValueError, match=f"^{what} needs a model with values"):
            ask()
    assert set(plan.state(model).params) == set(dict(model.named_parameters()))
    assert not any(p.is_meta for sub in subs for p in sub.parameters())


@pytest.mark.parametrize("name", ["mlp", "resnet", "llama", "encoder", "lstm", "tied"])
def test_costs_are_told_from_shapes(name):
    plan = decompose(*zoo(name), verify=False)
    assert plan.hollow() is not plan
    assert plan.hollow().table(2) == plan.table(2)
    assert sizes(plan.hollow(), 2, moments=2) == sizes(plan, 2, moments=2)


def test_a_model_that_nobody_can_hold_is_planned():
    with torch.device("meta"):
        model = torch.nn.Sequential(
            torch.nn.Linear(10**5, 10**6), torch.nn.ReLU(), torch.nn.Linear(10**6, 10**5)
        )
        batch = torch.empty(2, 10**5)
    plan = decompose(model, batch, verify=False)
    assert list(plan.layout.sizes.values()) == [10**6]
    assert "200,001,100,000" in plan.table(8)


class Rows:
    """The same batch at every step."""

    seed = 0

    def batch(self, _worker, _step):
        return torch.linspace(0, 1, 20).view(4, 5), torch.arange(4) % 3


def normalised():
    return torch.nn.Sequential(
        torch.nn.Linear(5, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )


def test_parts_of_a_plan_from_shapes_train_as_those_of_a_plan_with_values():
    """Batch statistics among them, which start where they always do."""
    with torch.device("meta"):
        bare = decompose(normalised(), torch.empty(4, 5), verify=False)
    plan = decompose(normalised(), torch.zeros(4, 5))
    trained = []
    for each in (bare, plan):
        x = initial_state(each, seed=3)
        w = NetSketch(each.layout, Perm(2)).sample(0, 0).select(x, 1)
        trained.append(LocalSteps(each, Rows(), SGD(0.1), 3)(0, 1, w))
        module = each.build(each.layout.all_units)
        assert not any(t.is_meta for t in (*module.parameters(), *module.buffers()))
    for name, p in trained[1].params.items():
        assert torch.equal(trained[0].params[name], p)


class Shifted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(5, 8), torch.nn.Linear(8, 3)
        self.register_buffer("shift", torch.ones(()))

    def forward(self, x):
        return self.two(torch.relu(self.one(x) + self.shift))


def test_a_buffer_that_nobody_knows_is_named():
    with torch.device("meta"):
        plan = decompose(Shifted(), torch.empty(4, 5), verify=False)
    with pytest.raises(ValueError, match="The buffer shift is on the meta device"):
        plan.build(plan.layout.all_units)


@pytest.mark.parametrize("options", [{}, {"verify": False, "depth": True}])
def test_without_values_nothing_is_proved(options):
    with torch.device("meta"):
        model, batch = normalised(), torch.empty(4, 5)
    with pytest.raises(ValueError, match=r"decompose needs .*verify=False, and no blocks"):
        decompose(model, batch, **options)
    layout = decompose(model, batch, verify=False).layout
    with pytest.raises(ValueError, match=r"plan_from needs .*verify=False"):
        plan_from(layout, model, batch)


class TiedEnds(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.head = torch.nn.Embedding(10, 6), torch.nn.Linear(6, 10, bias=False)
        self.up, self.down = torch.nn.Linear(6, 8), torch.nn.Linear(8, 6)
        self.head.weight = self.token.weight

    def forward(self, tokens):
        x = self.token(tokens)
        return self.head(x + self.down(torch.relu(self.up(x))))


def test_parameters_that_are_one_stay_one():
    hollow = decompose(TiedEnds(), torch.arange(6).view(2, 3)).hollow()
    assert hollow.builder.kind == "copy"
    part = hollow.build({axis: units[:3] for axis, units in hollow.layout.all_units.items()})
    assert part.head.weight is part.token.weight
    assert not part.head.weight.is_meta
