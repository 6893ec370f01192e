"""One hidden layer of ReLU under fixed signs (Liao & Kyrillidis 2022)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class MaskedReLU(nn.Module):
    """f(W, x) = A relu(W x) / sqrt(m): W is trained, the signs A of its m neurons are not.

    The network of Liao & Kyrillidis 2022, "On the convergence of shallow neural network training
    with randomly masked neurons". W starts at N(0, 1), as theirs does.
    """

    def __init__(self, inputs: int, neurons: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(inputs, neurons, bias=False)
        self.signs = nn.Parameter(torch.empty(outputs, neurons), requires_grad=False)
        self.root = neurons**0.5  # of the whole network, in every part of it
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W and the signs."""
        nn.init.normal_(self.up.weight)
        self.signs.data = torch.randint(0, 2, self.signs.shape).float() * 2 - 1

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, C) of rows (B, d)."""
        outputs: Tensor = F.linear(F.relu(self.up(x)), self.signs) / self.root
        return outputs
