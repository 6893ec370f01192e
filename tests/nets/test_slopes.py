"""What `plan.verify(gradients=True)` compares, and that it refuses no plan that is sound."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from subnetwork import decompose

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Checkpointed(nn.Module):
    """A block whose forward runs again on the way back."""

    def __init__(self, reentrant, rate):
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 6), nn.Linear(6, 3), reentrant
        self.block = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(rate), nn.Linear(8, 6))

    def forward(self, x):
        h = self.first(x)
        return self.last(h + checkpoint(self.block, h, use_reentrant=self.reentrant))


class Adapter(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x):
        return x + self.up(F.relu(self.down(x)))


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of torch's
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_checkpoints_run_again_under_the_same_conditions(reentrant, rate):
    plan = decompose(Checkpointed(reentrant, rate), X).verify(gradients=True)
    assert plan.evidence.gradients < 1e-9


def test_a_part_without_a_trainable_parameter_has_no_gradients_to_compare():
    model = nn.Sequential(nn.Linear(4, 6), Adapter(), nn.Linear(6, 6), Adapter(), nn.Linear(6, 3))
    for layer in (model[0], model[2], model[4]):
        layer.requires_grad_(False)
    plan = decompose(model, X, depth=True).verify(gradients=True)
    assert plan.evidence.gradients < 1e-9


def test_nor_has_a_model_that_is_frozen_and_none_are_reported():
    evidence = decompose(mlp().requires_grad_(False), X).verify(gradients=True).evidence
    assert evidence.masked < 1e-9
    assert evidence.gradients is None


def test_gradients_are_measured_where_the_caller_has_turned_them_off():
    with torch.no_grad():
        plan = decompose(mlp(), X).verify(gradients=True)
    assert plan.evidence.gradients < 1e-9


def test_a_wrong_gradient_is_noticed():
    """Outputs are right, but on the way back a part knows how many units it has."""

    class Wrong(nn.Sequential):
        def forward(self, x):
            h = super().forward(x)
            return h.detach() + (h - h.detach()) * self[0].weight.shape[0]

    with pytest.raises(ValueError, match="the gradients of a subnetwork differ"):
        decompose(Wrong(*mlp()), X, builder="copy").verify(gradients=True)


class OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        del ctx
        return x.clone()


def test_a_model_without_a_way_back_is_cut_but_its_gradients_are_not_verified():
    class Forward(nn.Sequential):
        def forward(self, x):
            return OneWay.apply(super().forward(x))

    plan = decompose(Forward(*mlp()), X)
    assert plan.evidence.untold == ()
    with pytest.raises(ValueError, match="a subnetwork does not run: NotImplementedError"):
        plan.verify(gradients=True)


def test_neither_the_model_nor_the_batch_gets_gradients():
    model, batch = mlp(), X.clone().requires_grad_()
    decompose(model, batch).verify(gradients=True)
    assert batch.grad is None
    assert all(p.grad is None for p in model.parameters())
