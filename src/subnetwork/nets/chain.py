"""A chain of layers tested while its parameters pass by: one layer at a time is ever in memory."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from subnetwork.nets.calibrate import Pooled
from subnetwork.nets.data import Inputs
from subnetwork.nets.evaluate import Scores, scored
from subnetwork.nets.losses import Loss


def is_chain(module: nn.Module) -> bool:
    """Whether a module is layers one after another, without state but parameters and statistics."""
    return isinstance(module, nn.Sequential) and all(map(_is_layer, module))


def chain_scores(
    layers: nn.Module,
    passing: Iterator[tuple[str, Tensor]],
    stream: Iterable[Inputs],
    pairs: Iterable[tuple[Inputs, Tensor]],
    loss: Loss,
) -> tuple[Scores, dict[str, Tensor]]:
    """What `recalibrate` and `scores` find of the chain, to the bit.

    The rows pass through layer by layer, in the batches in which they come. In memory are one
    layer's parameters and what all rows are between two layers.

    Args:
        layers: a chain on the meta device, where it stays.
        passing: its parameters by name, in its order; none is kept longer than its layer's turn.
        stream: batches of inputs that the batch statistics are of.
        pairs: batches of inputs and targets that it is tested on.
        loss: of the outputs beside the targets.

    Returns:
        The scores, and the batch statistics by name.
    """
    assert isinstance(layers, nn.Sequential)
    normalises = any(isinstance(layer, _BatchNorm) for layer in layers)
    seen = list(stream) if normalises else []
    tested, targets = map(list, zip(*pairs, strict=True))
    statistics: dict[str, Tensor] = {}
    layers.eval()
    with torch.no_grad():
        for place, layer in layers.named_children():
            _take(layer, place, passing)
            if isinstance(layer, _BatchNorm):
                _calibrate(layer, seen)
                statistics |= {f"{place}.{name}": b.clone() for name, b in layer.named_buffers()}
            for rows in (seen, tested):
                for j, batch in enumerate(rows):
                    rows[j] = layer(batch)
            layer.to("meta")
    return scored(zip(tested, targets, strict=True), loss), statistics


def _is_layer(module: nn.Module) -> bool:
    holds = any(True for _ in module.buffers())
    return not any(True for _ in module.children()) and (
        not holds or isinstance(module, _BatchNorm)
    )


def _take(layer: nn.Module, place: str, passing: Iterator[tuple[str, Tensor]]) -> None:
    """Give a layer its parameters, as they come, and buffers of its own."""
    for own in [name for name, _ in layer.named_parameters()]:
        name, tensor = next(passing)
        assert name == f"{place}.{own}", f"{name} comes where {place}.{own} is due"
        layer.register_parameter(own, nn.Parameter(tensor, requires_grad=False))
    for own, buffer in list(layer.named_buffers()):
        layer.register_buffer(own, torch.empty_like(buffer, device="cpu"))


def _calibrate(layer: _BatchNorm, seen: Iterable[Inputs]) -> None:
    layer.reset_running_stats()
    pooled = Pooled()
    for batch in seen:
        assert isinstance(batch, Tensor), "a chain hands on one tensor"
        pooled.add(batch)
    pooled.write_to(layer)
