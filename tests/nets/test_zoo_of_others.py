"""Models of transformers and PyTorch Geometric, where these are installed: exact, width and depth.

Neither package is needed by ours.
"""

import warnings
from importlib.util import find_spec

import pytest
import torch
from oracle import assert_same_function, doubled, without_dropout
from zoo_of_others import OTHERS

from subnetwork import Full, Perm, decompose
from subnetwork.deals import AtLeast

pytestmark = pytest.mark.filterwarnings("ignore")  # what other packages warn of is theirs
AXES = {
    "gpt2": "transformer.h.{}.attn.heads(4) transformer.h.{}.mlp.hidden(96)",
    "bert": "bert.encoder.layer.{}.attention.heads(4) bert.encoder.layer.{}.hidden(32)",
    "llama": "model.layers.{}.self_attn.heads(2) model.layers.{}.mlp.hidden(40)",
    "vit": "vit.layers.{}.attention.heads(4) vit.layers.{}.mlp.hidden(32)",
    "mixtral": "model.layers.{}.self_attn.heads(2) model.layers.{}.mlp.experts.hidden(40)",
}
BLOCKS = {"gpt2": "transformer.h", "llama": "model.layers", "vit": "vit.layers"}
BLOCKS["mixtral"] = BLOCKS["llama"]


@pytest.fixture(scope="module", params=OTHERS)
def planned(request):
    package, make = OTHERS[request.param]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    with warnings.catch_warnings(action="ignore"):
        torch.manual_seed(0)
        model, batch = make()
        model = without_dropout(model).double().train()
        plan = decompose(model, doubled(batch), depth=True)
    return request.param, model, plan


def test_the_axes_and_blocks_are_these(planned):
    name, _, plan = planned
    assert plan.exact
    assert plan.evidence.dtype == torch.float64
    found = " ".join(f"{axis}({n})" for axis, n in plan.layout.sizes.items() if axis != "blocks")
    if name in AXES:
        assert found.startswith(f"{AXES[name].format(0, 0)} {AXES[name].format(1, 1)}")
    expected = tuple(f"{BLOCKS[name]}.{i}" for i in range(2)) if name in BLOCKS else ()
    assert tuple(block.path for block in plan.blocks) == expected
    if name == "bert":  # normalised after the sum
        why = plan.kept["bert.encoder.layer.0"]
        assert why == "not the identity when its parameters are zero"


@pytest.mark.parametrize("deal", [Perm(2), AtLeast(2)], ids=["half of all", "blocks"])
def test_outputs_and_gradients_are_those_of_the_masked_model(planned, deal):
    _, model, plan = planned
    deals = {axis: deal if axis == "blocks" or deal == Perm(2) else Full(2) for axis in
             plan.layout.sizes}  # fmt: skip
    for sub in plan.cut(model, deal=deals, seed=5):
        assert_same_function(plan, model, sub)


def test_merging_what_was_cut_gives_the_model_back_to_the_bit(planned):
    _, model, plan = planned
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for deal in (Perm(2), Full(2)):
        plan.merge(model, plan.cut(model, deal=deal, seed=1))
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_the_table_counts(planned):
    _, _, plan = planned
    assert "parameters" in plan.table(2)


def test_heads_are_cut_beside_a_cache():
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    torch.manual_seed(0)
    model, batch = OTHERS["llama"][1]()
    model.config.use_cache = True
    plan = decompose(model, batch)
    assert "Cache" in " ".join(type(x).__name__ for x in model(**batch).values())
    assert plan.layout.sizes["model.layers.0.self_attn.heads"] == 2
