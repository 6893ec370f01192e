"""How good a model is on rows that it was not trained on."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from subnetwork.nets.data import Inputs
from subnetwork.nets.losses import Loss, right
from subnetwork.nets.trace.tracer import Inputs as Call


@dataclass(frozen=True)
class Scores:
    """Over all targets that count: places of a text, nodes of a graph, rows else."""

    accuracy: float  # share of targets at which the largest output is, in [0, 1]
    loss: float  # mean, in nats
    n_targets: int  # that count


def scores(model: nn.Module, pairs: Iterable[tuple[Inputs, Tensor]], loss: Loss) -> Scores:
    """The model's scores in evaluation mode; every target counts once, whatever the batches."""
    model.eval()
    with torch.no_grad():
        return scored(((called(model, inputs), targets) for inputs, targets in pairs), loss)


def scored(pairs: Iterable[tuple[Tensor, Tensor]], loss: Loss) -> Scores:
    """The scores of outputs beside their targets."""
    hits, lost, counted = 0, 0.0, 0
    for outputs, targets in pairs:
        hit = right(outputs, targets)
        hits += int(hit.sum())
        counted += len(hit.flatten())
        lost += float(loss(outputs, targets)) * len(hit.flatten())
    if not counted:
        return Scores(math.nan, math.nan, 0)
    return Scores(hits / counted, lost / counted, counted)


def called(model: Callable[..., Tensor], inputs: object) -> Tensor:
    """The model on a batch: a tensor, a tuple of positional or a dict of keyword arguments."""
    call = Call.of(inputs)
    return model(*call.args, **call.kwargs)
