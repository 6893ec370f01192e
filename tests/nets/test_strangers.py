"""Models of others that once were cut wrongly, or were broken by being looked at."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from subnetwork import Full, Perm, decompose, join
from subnetwork.nets import plan_from


class Attention(nn.Module):
    """Heads in an attribute: parts are exported graphs."""

    def __init__(self):
        super().__init__()
        self.nh, self.qkv, self.o = 4, nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        rows = x.shape[0]
        q, k, v = (
            t.view(rows, -1, self.nh, t.shape[-1] // self.nh).transpose(1, 2)
            for t in self.qkv(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o(mixed.transpose(1, 2).reshape(rows, -1, 16))


class Folded(Attention):
    """Takes one row only: more are one long row."""

    def forward(self, x):
        return super().forward(x.view(1, 5, 16))


def test_an_exported_part_takes_any_number_of_rows_after_an_example_of_one():
    model = Attention()
    part = decompose(model, torch.randn(1, 5, 16), builder="export").cut(model, deal=Full(1))[0]
    for rows in (1, 3):
        x = torch.randn(rows, 5, 16)
        torch.testing.assert_close(part(x), model(x))


@pytest.mark.parametrize("compiled", [False, True])
def test_sizes_that_the_graph_cannot_take_are_refused(compiled):
    model = Folded()
    plan = decompose(model, torch.randn(1, 5, 16), builder="export")
    part = plan.cut(model, deal=Perm(2))[0]
    run = torch.compile(part, backend="eager") if compiled else part
    assert run(torch.randn(1, 5, 16)).shape == (1, 5, 16)
    with pytest.raises(ValueError, match=r"size 1 at dim 0, not 3: .* two rows or more"):
        run(torch.randn(3, 5, 16))


def test_inputs_that_the_graph_takes_for_equally_long_are_refused_where_they_are_not():
    class Two(Attention):
        def forward(self, x, y):
            return super().forward(x + y)

    model = Two()
    plan = decompose(model, (torch.randn(1, 5, 16), torch.randn(1, 5, 16)), builder="export")
    part = plan.cut(model, deal=Full(1))[0]
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(part(x, x), model(x, x))
    with pytest.raises(ValueError, match="at dim 0, not 1"):
        part(x, x[:1])


@functools.lru_cache
def causal(n):
    return torch.full((n, n), -1e4).triu(1)


class Cached(nn.Module):
    """Has a mask from a cache that it shares with every other model."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        weights = (x @ x.transpose(1, 2) + causal(x.shape[1])).softmax(-1)
        return self.b(F.relu(self.a(weights @ x)))


def test_caches_outside_the_model_hold_real_tensors():
    causal.cache_clear()
    model, x = Cached(), torch.randn(2, 5, 6)
    before = torch.get_rng_state()
    plan = decompose(model, x)
    assert torch.equal(before, torch.get_rng_state())
    assert type(causal(5)) is torch.Tensor
    assert causal(5).device.type == "cpu"
    assert model(x).shape == x.shape
    assert set(plan.layout.sizes.values()) == {8}


def test_so_they_do_where_only_the_export_asks():
    @functools.lru_cache
    def scale(n):
        return torch.full((n,), 2.0)

    class Scaled(Attention):
        def forward(self, x):
            return super().forward(x * scale(self.qkv.in_features))

    model, x = Scaled(), torch.randn(2, 5, 16)
    layout = decompose(model, x, builder="export").layout
    scale.cache_clear()
    plan = plan_from(layout, model, x, builder="export")
    assert type(scale(16)) is torch.Tensor
    assert model(x).shape == plan.cut(model, deal=Perm(2))[0](x).shape


def test_parameters_that_are_views_of_one_memory_are_refused():
    class Untied(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.dec = nn.Linear(6, 8), nn.Linear(8, 6)
            self.dec.weight = nn.Parameter(self.enc.weight.t())

        def forward(self, x):
            return self.dec(F.relu(self.enc(x)))

    with pytest.raises(ValueError, match=r"dec.weight and enc.weight are views of one memory"):
        decompose(Untied(), torch.randn(4, 6))


def test_a_view_kept_beside_its_parameter_is_refused():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6))
    model.turned = model[0].weight.t()
    with pytest.raises(ValueError, match="0.weight and turned are views of one memory"):
        decompose(model, torch.randn(4, 6))


def test_parameters_that_lie_apart_in_one_memory_are_taken():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6))
    both = torch.randn(8, 14)  # its columns: stretches that overlap, entries that do not
    model[0].weight, model[2].weight = nn.Parameter(both[:, :6]), nn.Parameter(both[:, 6:])
    plan = decompose(model, torch.randn(4, 6))
    flat = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.nn.utils.vector_to_parameters(flat, model.parameters())  # views of one vector
    assert decompose(model, torch.randn(4, 6)).layout == plan.layout


class Keeping(nn.Module):
    """Keeps what it computed for a loss outside, as mixtures of experts do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.kept = nn.Linear(6, 8), nn.Linear(8, 6), []

    def forward(self, x):
        out = self.b(F.relu(self.a(x)))
        self.aux = out.square().mean()
        self.kept = [self.aux]
        return out


def test_a_model_that_keeps_a_tensor_is_cut_after_a_backward_pass():
    model, x = Keeping(), torch.randn(4, 6)
    plan = decompose(model, x)
    model(x).sum().backward()
    part = plan.cut(model, deal=Perm(2))[0]
    assert part.aux.grad_fn is None
    assert model.aux.grad_fn is not None
    part(x).sum().backward()
    assert part.aux is part.kept[0]
    assert decompose(model, x).verify(gradients=True).evidence.gradients < 1e-12
    with join(plan, deal=Perm(1)) as session:
        assert session.model().aux.grad_fn is None


def test_heads_of_an_encoder_are_evaluated_with_a_padding_mask():
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2)
    x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    plan = decompose(model, (x, None, padding), width=["*.heads"])
    part = plan.cut(model, deal=Perm(2))[0].eval()
    trained = part(x, src_key_padding_mask=padding)
    with torch.no_grad():
        evaluated = part(x, src_key_padding_mask=padding)
    torch.testing.assert_close(evaluated, trained)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("layers", [1, 2])
def test_an_lstm_with_a_projection_is_cut(layers):
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 8, layers, proj_size=4, batch_first=True)
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.rnn(x)[0])

    model, x = Projected(), torch.randn(2, 6, 5)
    plan = decompose(model, x, builder="copy")
    part = plan.cut(model, deal=Perm(2))[0]
    assert (part.rnn.hidden_size, part.rnn.proj_size) == part.rnn.weight_hr_l0.shape[::-1]
    assert part(x).shape == (2, 6, 3)
    assert part.rnn.hidden_size == 4


class Ending(nn.Module):
    """The identity at zero only where no entry is negative."""

    def __init__(self, last=F.relu):
        super().__init__()
        self.f, self.g, self.last = nn.Linear(6, 8), nn.Linear(8, 6), last

    def forward(self, x):
        return self.last(x + self.g(F.relu(self.f(x))))


class Scaled(nn.Module):
    def forward(self, x):
        return x.flatten(1) / 255


def open_end(x):
    return x


@pytest.mark.parametrize("before", [(), (Scaled(),), (Ending(open_end),)])
def test_a_block_is_not_the_identity_because_the_example_has_no_negative_entries(before):
    torch.manual_seed(0)
    blocks = (*before, Ending(), Ending())
    model = nn.Sequential(*blocks, nn.Linear(6, 3))
    if before and isinstance(before[0], Ending):
        before[0].g.weight.data.mul_(1e-3)
        before[0].g.bias.data.fill_(1.0)
    plan = decompose(model, torch.rand(8, 6) + 0.5, depth=True)
    left_out = [block.path for block in plan.blocks]
    first = len(before)
    assert str(first) not in left_out
    assert "multiplied by -8" in plan.kept[str(first)]
    assert str(first + 1) in left_out  # behind a ReLU it is
    assert ("0" in left_out) == (bool(before) and isinstance(before[0], Ending))


def test_nor_because_the_example_is_small():
    model = nn.Sequential(Ending(F.hardtanh), Ending(F.relu6), nn.Linear(6, 3))
    plan = decompose(model, torch.rand(8, 6) - 0.5, depth=True)
    assert "0" not in [block.path for block in plan.blocks]
