"""What the proof of `decompose` notices, what it does not hold against a model."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subnetwork import Perm, decompose

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers with one thing before, one between and one after them."""

    def __init__(self, before=None, between=torch.relu, after=None, bias=True, **held):
        super().__init__()
        self.a, self.b = nn.Linear(6, 16, bias=bias), nn.Linear(16, 4, bias=bias)
        self.before, self.between, self.after = before, between, after
        for name, value in held.items():
            if isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, x):
        x = x if self.before is None else self.before(self, x)
        y = self.b(self.between(self.a(x)))
        return y if self.after is None else self.after(self, y)


def mean_by_hand(h):
    """A mean over units that the tracer takes for a sum: it is not that of fewer units."""
    h = torch.relu(h)
    return h - h.sum(-1, keepdim=True) / h.shape[-1]


def masked_with(value):
    return lambda net, y: y.masked_fill(net.m, value)


WRONG = "a.hidden(16): copy: the outputs of a subnetwork differ"


def refusal(model, x=X):
    """A patched copy is wrong: it divides by the units it has. (A graph keeps the 16.)"""
    with pytest.raises(ValueError, match="differ") as found:
        decompose(model, x, builder="copy")
    return str(found.value)


M = torch.tensor([True, False, False, False])


@pytest.mark.parametrize(
    "after",
    [
        masked_with(-1e9),
        masked_with(-torch.inf),
        lambda net, y: y - 1e9 * net.m,  # the mask is added
        lambda _, y: 1e-10 * y,
        lambda _, y: torch.cat([1e6 * y.detach().abs().amax().expand(3, 4), y], 1),
        lambda _, y: (torch.full((3,), 1e12), y),
    ],
    ids=["-1e9", "-inf", "added", "tiny", "beside large ones", "beside a constant"],
)
def test_a_wrong_cut_is_noticed_behind_any_scale(after):
    assert WRONG in refusal(Net(None, mean_by_hand, after, m=M), X)


def test_a_wrong_cut_is_noticed_in_complex_outputs():
    assert WRONG in refusal(
        Net(None, mean_by_hand, lambda _, y: (torch.ones(1), torch.fft.fft(y, dim=0))), X
    )


@pytest.mark.parametrize("x", [torch.zeros(3, 6), torch.zeros(1, 6)])
def test_a_wrong_cut_is_noticed_on_an_example_of_zeros(x):
    assert WRONG in refusal(Net(None, mean_by_hand, bias=False), x)
    assert decompose(Net(bias=False), x).exact


def test_an_output_that_does_not_depend_on_the_parameters_proves_nothing():
    with pytest.raises(ValueError, match="no output changes with the parameters"):
        decompose(Net(after=lambda _, y: 0 * y), X)


def test_an_example_of_zeros_that_must_stay_zeros_is_left_alone():
    """Ids that come as floating-point numbers: -1 is no row."""
    ids = torch.zeros(5)
    model = nn.Sequential(nn.Embedding(1, 16), nn.ReLU(), nn.Linear(16, 4))

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, ids):
            return self.net((3 * ids).long())

    assert decompose(Rows(), ids).exact


@pytest.mark.parametrize("value", [-1e9, -torch.inf])
def test_masked_logits_are_no_reason_against_a_cut(value):
    plan = decompose(Net(after=masked_with(value), m=M), X).verify(gradients=True)
    assert plan.exact
    assert max(plan.evidence.permuted, plan.evidence.masked, plan.evidence.gradients) < 1e-9


def count(net, x):
    net.n += 1
    return x * (1 + net.n)


def replaced(net, x):
    net.n = net.n + 1
    return x * (1 + net.n)


def grown(net, x):
    net.n = torch.cat([net.n, x.new_ones(1)])
    return x * len(net.n)


@pytest.mark.parametrize("before", [count, replaced, grown])
def test_a_buffer_that_changes_in_forward_is_no_reason_against_a_cut(before):
    model = Net(before, n=torch.zeros(1))
    plan = decompose(model, X).verify(gradients=True)
    assert list(plan.layout.sizes) == ["a.hidden"]
    assert torch.equal(model.n, torch.zeros(1))


def test_spectral_normalisation_is_no_reason_against_a_cut():
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8), normed, nn.Linear(8, 4))
    assert list(decompose(model, X).layout.sizes) == ["0.hidden"]


def test_parameters_stay_in_their_domain():
    model = Net(lambda net, x: x / net.var.sqrt(), var=nn.Parameter(torch.tensor(0.01)))
    assert list(decompose(model, X).layout.sizes) == ["a.hidden"]
    squeezed = nn.Parameter(torch.tensor([0.9, 0.1]))
    model = Net(lambda net, x: x * (squeeze := torch.logit(net.p)).sum() + squeeze[0], p=squeezed)
    assert list(decompose(model, X).layout.sizes) == ["a.hidden"]


def test_a_parameter_with_infinite_entries_gets_no_noise_there():
    causal = torch.full((3, 3), -torch.inf).triu(1)
    frozen = nn.Parameter(causal.clone(), requires_grad=False)
    model = Net(lambda net, x: (x @ x.T + net.c).softmax(-1) @ x, c=frozen)
    plan = decompose(model, X).verify(gradients=True)
    assert list(plan.layout.sizes) == ["a.hidden"]
    plan.merge(model, plan.cut(model, deal=Perm(2)))
    assert torch.equal(model.c, causal)


class Single(Net):
    """Its second layer multiplies in float32 whatever it is given."""

    def forward(self, x):
        return F.linear(self.between(self.a(x)).float(), self.b.weight.float()).double()


def test_a_forward_that_rounds_to_float32_is_measured_by_that():
    plan = decompose(Single(), X, builder="copy")
    assert list(plan.layout.sizes) == ["a.hidden"]
    assert plan.evidence.dtype == torch.float32
    assert WRONG in refusal(Single(None, mean_by_hand))


def test_layers_that_are_dropped_at_random_by_python_take_one_path():
    state = random.getstate()
    for seed in range(4):
        random.seed(seed)
        before = random.getstate()
        model = Net(between=lambda h: torch.relu(h) if random.random() < 0.5 else torch.tanh(h))
        assert list(decompose(model, X).layout.sizes) == ["a.hidden"]
        assert random.getstate() == before
    random.setstate(state)


class Spectral(nn.Module):
    """A Fourier layer between two linear ones."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(1, 8), nn.Linear(8, 12), nn.Linear(12, 2)
        self.w = nn.Parameter(0.1 * torch.randn(8, 8, 4, dtype=torch.complex64))

    def forward(self, x):
        h = self.a(x).transpose(1, 2)
        modes = torch.einsum("bik,iok->bok", torch.fft.rfft(h)[..., :4], self.w)
        h = h + torch.fft.irfft(modes, n=h.shape[-1])
        return self.c(torch.relu(self.b(h.transpose(1, 2))))


def test_complex_parameters_are_measured_in_complex128():
    plan = decompose(Spectral(), torch.randn(2, 10, 1)).verify(gradients=True)
    assert "b.hidden" in plan.layout.sizes
    assert plan.evidence.dtype == torch.float64


def test_parameters_that_are_whole_numbers_keep_their_values():
    order = nn.Parameter(torch.arange(5).flip(0) % 3, requires_grad=False)
    model = Net(lambda net, x: x[net.order], order=order)
    plan = decompose(model, X)
    plan.merge(model, plan.cut(model, deal=Perm(2)))
    assert torch.equal(model.order, torch.arange(5).flip(0) % 3)


def demand(dtype):
    def check(_, x):
        assert x.dtype == dtype, f"only {dtype}"
        return x

    return check


def test_a_forward_that_asks_for_float32_is_measured_in_that():
    assert decompose(Net(demand(torch.float32)), X).evidence.dtype == torch.float32


def test_a_model_that_cannot_be_measured_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"cannot be measured: AssertionError: only.*verify=False"):
        decompose(Net(demand(torch.float16)).half(), X.half())


def test_sparse_gradients_are_compared():
    model = nn.Sequential(nn.Embedding(10, 16, sparse=True), nn.ReLU(), nn.Linear(16, 4))
    plan = decompose(model, torch.arange(6)).verify(gradients=True)
    assert plan.evidence.gradients < 1e-9


class _Experts(nn.Module):
    """Two experts; a row goes to the one that its first entry's sign names."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
        self.second = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x):
        return torch.where(x[:, :1] > 0, self.first(x), self.second(x))


def test_what_no_output_of_the_example_depends_on_is_named():
    torch.manual_seed(0)
    one, both = torch.rand(8, 4) + 0.1, torch.randn(8, 4)
    plan = decompose(_Experts(), one)
    (axis,) = plan.evidence.untold
    assert "second" in axis
    assert f"no output of the example depends on {axis}: they are not proved" in str(plan)
    assert decompose(_Experts(), both).evidence.untold == ()
