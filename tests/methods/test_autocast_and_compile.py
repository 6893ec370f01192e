"""bfloat16 products and compiled subnetworks: what changes, what does not, what is refused."""

import os
import shutil

import pytest
import torch
from torch import nn

from seats_in_threads import assert_same_models, leave_all, row_of, run, seats_of
from subnetwork.methods import Training, compiling
from subnetwork.methods.rows import method, task
from subnetwork.methods.worker import build
from subnetwork.nets.local import Supervised
from subnetwork.runtime import here, seated

BF16 = {"autocast": "bfloat16", "rounds": 2}
EIGHT_BITS = 2.0**-8


@pytest.fixture(autouse=True)
def _leaving():
    yield
    leave_all()
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["ist", "synchronous_sgd"])
def test_products_in_bfloat16_move_the_loss_by_their_8_bits_and_nothing_else(name):
    plain, cast = row_of(method=name, rounds=2), row_of(method=name, **BF16)
    one, other = run(plain, here(plain.local)), run(cast, here(cast.local))
    for a, b in zip(one[0].trained, other[0].trained, strict=True):
        assert 0 < abs(a.loss - b.loss) < 4 * EIGHT_BITS * a.loss
        assert {t.dtype for t in b.tensors()} == {torch.float32}
        assert a.n_bytes == b.n_bytes
    for p, q in zip(one[-1].x.params.values(), other[-1].x.params.values(), strict=True):
        assert (p - q).abs().max() < 0.05
    assert_same_models(run(cast, seated(seats_of(cast))), other)


def test_it_is_the_product_that_is_rounded_and_not_the_loss():
    module, rows = nn.Linear(3, 2), torch.randn(5, 3)
    targets = torch.tensor([0, 1, 0, 1, 1])
    loss = Supervised(autocast=torch.bfloat16)(module, (rows, targets))
    rounded = rows.bfloat16() @ module.weight.T.bfloat16() + module.bias.bfloat16()
    by_hand = nn.functional.cross_entropy(rounded.float(), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, by_hand, rtol=EIGHT_BITS, atol=0)
    assert loss != Supervised()(module, (rows, targets))


@pytest.fixture
def uncompiled(monkeypatch):
    """Graphs are taken, and then run as they are: to the bit, without a compiler."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(("hidden", "graphs"), [((12,), 1), ((13,), 2)])
def test_there_is_one_graph_for_each_shape_of_a_part(hidden, graphs, uncompiled):
    changes = {"hidden": hidden, "rounds": 4}
    row, plain = row_of(**changes, compile=True), row_of(**changes)
    assert_same_models(run(row, here(row.local)), run(plain, here(plain.local)))
    assert uncompiled() == graphs


def test_a_worker_compiles_before_its_first_round(uncompiled):
    """Shapes of all rounds, since a round has a deadline; the weights are untouched by it."""
    job = Training(hidden=(13,), workers=4, rounds=4, batch_size=8, local_steps=2, compile=True)
    _, local = build(job.to_json())
    assert uncompiled() == local.modules.n_built == 2
    row, plain = row_of(hidden=(13,), rounds=4, momentum=0.0), method(task(job))
    assert_same_models(run(plain, here(local)), run(row, here(row.local)))
    assert uncompiled() == local.modules.n_built == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "federated_dropout"}, r"parts of federated_dropout have \d+ shapes here, more"),
        ({"data": "cora", "model": "gcn", "method": "gist", "compile": True}, "batches of cora"),
        (
            {"data": "cora", "model": "gcn", "method": "gist", "autocast": "bfloat16"},
            "--autocast bfloat16 does not reach the sparse products",
        ),
    ],
)
@pytest.mark.usefixtures("uncompiled")
def test_what_would_not_be_honest_is_refused(changes, message):
    if changes.get("data") and not os.environ.get("SUBNETWORK_DATA"):
        pytest.skip("SUBNETWORK_DATA names no folder")
    given = {"hidden": (32,), "workers": 2, "rounds": 30, "batch_size": 8, "compile": True}
    given["compile"] = "autocast" not in changes
    with pytest.raises(ValueError, match=message):
        method(task(Training(**given | changes)))


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"needs the C\+\+ compiler no-such-compiler"):
        method(task(Training(hidden=(12,), compile=True)))
    with pytest.raises(ValueError, match="no autocast 'float16'. Known are: none, bfloat16"):
        Training(autocast="float16")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_compiled_subnetworks_train_as_the_others_do():
    plain, row = row_of(hidden=(12,)), row_of(hidden=(12,), compile=True)
    for one, other in zip(run(plain, here(plain.local)), run(row, here(row.local)), strict=True):
        for name, p in one.x.params.items():
            torch.testing.assert_close(other.x.params[name], p, rtol=1e-4, atol=1e-5)
