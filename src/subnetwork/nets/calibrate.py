"""Batch statistics of a merged model, and its accuracy."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subnetwork.nets.data import Inputs
from subnetwork.nets.evaluate import called


def recalibrate(model: nn.Module, stream: Callable[[], Iterable[Inputs]]) -> nn.Module:
    """Set the running mean and variance of every batch normalisation from data; return the model.

    Merged running statistics are those of no model. Layer by layer, in the order in which the model
    runs them, the inputs of a normalisation are pooled over the whole stream (Chan et al. 1979),
    with every earlier one already set. The result is that of one batch holding all rows, up to
    rounding, so the model predicts the same at any test batch size. One pass for each layer.

    Args:
        model: the merged model; left in evaluation mode.
        stream: called once per layer; yields batches of inputs, of any sizes.
    """
    model.eval()
    for norm in _in_order(model, next(iter(stream()))):
        pooled = Pooled()
        hook = norm.register_forward_pre_hook(
            lambda _, inputs, pooled=pooled: pooled.add(inputs[0])
        )
        with torch.no_grad():
            for batch in stream():
                called(model, batch)
        hook.remove()
        pooled.write_to(norm)
    return model


def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Share of rows whose largest output is at the target, in [0, 1]."""
    model.eval()
    with torch.no_grad():
        return float((model(inputs).argmax(dim=1) == targets).double().mean())


CHANNELS = 256


class Pooled:
    """Count, mean and squared deviations per channel of all batches so far, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(())
        self.deviations = torch.zeros(())

    def add(self, inputs: Tensor) -> None:
        """One more batch; some channels at a time, since sums are taken in float64."""
        parts = [_moments(part) for part in torch.split(inputs.detach(), CHANNELS, dim=1)]
        count = parts[0][0]
        mean = torch.cat([part[1] for part in parts])
        deviations = torch.cat([part[2] for part in parts])
        total, gap = self.count + count, mean - self.mean
        self.mean = self.mean + gap * count / total
        self.deviations = self.deviations + deviations + gap.square() * self.count * count / total
        self.count = total

    def write_to(self, norm: _BatchNorm) -> None:
        """Set the running statistics of a normalisation."""
        if norm.running_mean is None or norm.running_var is None:
            return  # it normalises by the batch at hand, always: there is nothing to set
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.deviations / max(self.count - 1, 1))


def _moments(inputs: Tensor) -> tuple[int, Tensor, Tensor]:
    """Entries of a channel, their mean and the sum of their squared deviations, by channel."""
    rows = inputs.double().transpose(0, 1).flatten(1)  # channels first
    mean = rows.mean(dim=1)
    return rows.shape[1], mean, (rows - mean[:, None]).square_().sum(dim=1)


def _in_order(model: nn.Module, batch: Inputs) -> list[_BatchNorm]:
    order: list[_BatchNorm] = []
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(lambda norm, _: order.append(norm)) for norm in norms]
    with torch.no_grad():
        called(model, batch)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))
