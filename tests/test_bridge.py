"""The bridge: theory half and training half take the same steps."""

import numpy as np
import pytest
import torch

from subnetwork import Full, Perm, RandQ, rounds
from subnetwork.nets import Layout, ModelState, NetSketch, Submodel, holders
from subnetwork.runtime import here
from subnetwork.theory.merges import holders_form
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.work import GradientSteps


@pytest.mark.parametrize("deal", [Perm(3), Full(3), RandQ(3, q=3)])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_both_halves_take_the_same_twenty_steps(deal, n_steps):
    """The last layer of a network on fixed features H_i: L_i = H_i' H_i, b_i = H_i' y_i."""
    d, n, gamma = 7, 3, 0.01
    torch.manual_seed(0)
    H = torch.randn(n, 8, d, dtype=torch.float64)
    y = torch.randn(n, 8, dtype=torch.float64)
    L = (H.transpose(1, 2) @ H).numpy()
    b = torch.einsum("imd,im->id", H, y).numpy()

    sketch = NetSketch(Layout({"hidden": d}, {"v": ("hidden",)}), deal)

    def train(k, worker, w):
        units = torch.as_tensor(sketch.sample(7, k).hands["hidden"][worker])
        v = w.params["v"].clone()
        for _ in range(n_steps):
            v.requires_grad_()
            loss = ((H[worker][:, units] @ v - y[worker]) ** 2).sum() / 2
            v = v.detach() - gamma * torch.autograd.grad(loss, v)[0]
        return Submodel({"v": v})

    theory = rounds(
        np.ones(d),
        Dealt(deal, d, "as trained"),
        GradientSteps(Quadratics(L, b), gamma, n_steps),
        holders_form,
        seed=7,
        n_rounds=20,
    )
    x = ModelState({"v": torch.ones(d, dtype=torch.float64)})
    training = rounds(x, sketch, here(train), holders, seed=7, n_rounds=20)
    for on_paper, in_torch in zip(theory, training, strict=True):
        np.testing.assert_allclose(in_torch.x.params["v"], on_paper.x, rtol=1e-12, atol=1e-14)
