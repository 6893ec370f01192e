"""Products of graph networks: against dense matrices, entry by entry."""

import pytest
import torch
from torch import nn
from torch.autograd.gradcheck import gradcheck

from subnetwork import decompose
from subnetwork.nets.models import GAT, GCN, SAGE
from subnetwork.nets.models.gnn import dropped
from subnetwork.nets.models.sparse import Matrix


def coo(entries, shape):
    rows, columns = torch.tensor(entries, dtype=torch.int64).reshape(-1, 2).T
    values = torch.randn(len(rows), dtype=torch.float64)
    places = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(places, values, shape, check_invariants=True)


def as_made(a):
    """Rows ascend and columns do not, as in a CSR matrix that nobody sorted."""
    return torch.sparse_coo_tensor(
        a._indices(), a._values(), a.shape, is_coalesced=True, check_invariants=False
    )


MATRICES = {
    "plain": lambda: torch.randn(7, 5, dtype=torch.float64).to_sparse(),
    "empty rows and columns": lambda: coo([(1, 3), (1, 4), (4, 0), (4, 3)], (6, 8)),
    "last row and column": lambda: coo([(0, 0), (5, 6)], (6, 7)),
    "unsorted columns": lambda: as_made(coo([(0, 4), (0, 1), (2, 3), (2, 0), (2, 1)], (3, 5))),
    "twice the same place": lambda: as_made(coo([(1, 2), (1, 2), (3, 2), (3, 2)], (4, 3))),
    "not coalesced": lambda: coo([(3, 2), (1, 2), (3, 2), (0, 1)], (4, 3)),
    "no entry": lambda: coo([], (3, 4)),
    "no row": lambda: coo([], (0, 4)),
    "dense": lambda: torch.randn(3, 5, dtype=torch.float64),
    "wide": lambda: (torch.rand(40, 300, dtype=torch.float64) < 0.1).double().to_sparse(),
}


@pytest.fixture(params=MATRICES)
def matrix(request):
    torch.manual_seed(0)
    return MATRICES[request.param]()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("strided", [False, True])
def test_products_and_gradients_are_those_of_the_dense_matrix(matrix, dtype, strided):
    a = matrix.to(dtype)
    x = torch.randn(4, a.shape[1], dtype=dtype).t() if strided else torch.randn(a.shape[1], 4)
    x = x.to(dtype).requires_grad_()
    towards = torch.randn(4, a.shape[0], dtype=dtype).t()
    out, expected = Matrix.of(a).times(x), a.to_dense() @ x
    torch.testing.assert_close(out, expected)
    (gradient,) = torch.autograd.grad(out, x, towards)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, towards)[0])


def test_the_gradient_is_that_of_finite_differences(matrix):
    x = torch.randn(matrix.shape[1], 3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(Matrix.of(matrix).times, (x,))


def test_what_has_no_gradient_is_said():
    a = torch.eye(3).to_sparse()
    with pytest.raises(ValueError, match=r"gets no gradient here, and this one requires it\. Det"):
        Matrix.of(a.requires_grad_())
    x = torch.ones(3, 2, requires_grad=True)
    out = Matrix.of(a.detach()).times(x).square().sum()
    (gradient,) = torch.autograd.grad(out, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_columns_are_sorted_once_and_only_for_a_gradient():
    a = Matrix.of(torch.eye(3).to_sparse())
    a.times(torch.ones(3, 2))
    assert "transposed" not in vars(a)
    layer = nn.Linear(3, 2)
    a.times(layer(torch.ones(3, 3))).sum().backward()
    assert (held := vars(a)["transposed"]) is a.transposed
    a.times(layer(torch.ones(3, 3))).sum().backward()
    assert a.transposed is held


def test_dropout_keeps_the_places_and_scales_what_is_left():
    torch.manual_seed(0)
    x = torch.randn(50, 40).relu().to_sparse()
    out = dropped(x, 0.25, True)
    assert torch.equal(torch.stack([out.rows, out.columns]).long(), x.indices())
    kept = out.values != 0
    torch.testing.assert_close(out.values[kept], x.values()[kept] / 0.75)
    assert 0.7 < kept.float().mean() < 0.8
    assert torch.equal(dropped(x, 0.25, False).values, x.values())


MODELS = {
    "gcn": lambda: GCN((6, 8, 3), "batch"),
    "sage": lambda: SAGE((6, 8, 8, 3), "batch"),
    "gat": lambda: GAT(6, 8, 3, heads=2, dropout=0.0),
}


def graph():
    x = torch.randn(20, 6).relu()
    a = torch.rand(20, 20) * (torch.rand(20, 20) < 0.2)
    a[:, 3] = a[4] = 0
    return x, a


def gcn(model, x, a):
    """The paper's formula."""
    first, last = model.layers
    x = torch.relu(model.norms[0](a @ (x @ first.weight.T + first.bias)))
    return a @ (x @ last.weight.T + last.bias)


@pytest.mark.parametrize("name", MODELS)
def test_networks_on_sparse_and_on_dense_features_are_one(name):
    torch.manual_seed(0)
    model, (x, a) = MODELS[name]().double(), (t.double() for t in graph())
    outs = [model(x, a.to_sparse()), model(x.to_sparse(), a.to_sparse())]
    outs += [gcn(model, x, a)] if name == "gcn" else []
    first, *others = [
        (out, *torch.autograd.grad(out.square().sum(), tuple(model.parameters()))) for out in outs
    ]
    for other in others:
        torch.testing.assert_close(other, first)


@pytest.mark.parametrize("name", ["gcn", "sage"])
@pytest.mark.parametrize("sparse", [False, True])
def test_under_autocast_products_keep_the_type_of_the_matrix(name, sparse):
    torch.manual_seed(0)
    model, (x, a) = MODELS[name](), graph()
    x, a = x.to_sparse() if sparse else x, a.to_sparse()
    parameters = tuple(model.parameters())
    expected = model(x, a)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, a)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=0.05, atol=0.05)
    for got in torch.autograd.grad(out.square().sum(), parameters):
        assert got.dtype == torch.float32
        assert got.isfinite().all()


@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("name", MODELS)
def test_networks_can_be_compiled(name):
    torch.manual_seed(0)
    torch.compiler.reset()
    model, (x, a) = MODELS[name](), graph()
    x, a = x.to_sparse(), a.to_sparse()
    parameters = tuple(model.parameters())
    expected, out = model(x, a), torch.compile(model, backend="eager")(x, a)
    torch.testing.assert_close(out, expected)
    gradients = [torch.autograd.grad(y.square().sum(), parameters) for y in (out, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", ["gcn", "sage"])
def test_networks_can_be_exported(name):
    torch.manual_seed(0)
    model, (x, a) = MODELS[name](), graph()
    plan = decompose(model, (x.to_sparse(), a.to_sparse()), builder="export")
    assert plan.builder.kind == "export"
    assert plan.verify(gradients=True).evidence.gradients < 1e-9
