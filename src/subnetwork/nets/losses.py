"""Losses for the kinds of targets that data sets have; -100 is a target that counts nowhere."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

IGNORED = -100

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def classes(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over all rows and all their positions: (.., C) outputs, (..) classes."""
    return cross_entropy(outputs.flatten(0, -2), targets.flatten())


def marked(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the nodes that count; zero, with zero gradients, where none does."""
    counted = targets != IGNORED
    if not bool(counted.any()):
        return outputs.sum() * 0
    return cross_entropy(outputs[counted], targets[counted])


def several(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy: a target of zero or one for each label of a row."""
    return binary_cross_entropy_with_logits(outputs, targets)


def right(outputs: Tensor, targets: Tensor) -> Tensor:
    """For every target that counts, whether the largest output is at it.

    With several labels a row: whether it is at one of them (precision at 1).
    """
    best = outputs.argmax(dim=-1)
    if targets.is_floating_point():
        return targets.gather(1, best[:, None]).flatten() > 0
    counted = targets != IGNORED
    return torch.eq(best[counted], targets[counted])
