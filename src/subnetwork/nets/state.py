"""The x and the w_i of Algorithm 1 when the model is a network: named tensors."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

Tensors: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True)
class ModelState:
    """The whole model x^k with what belongs to it.

    Batch statistics are not part of it: they are recomputed on the merged model (`recalibrate`),
    since the mean of the submodels' statistics is not the statistics of their merge.
    """

    params: Tensors  # by the names of the module's own state_dict
    moments: Mapping[str, Tensors] = field(default_factory=dict)
    """Local optimizer state: name of the moment -> parameter -> tensor of the parameter's shape.
    It is cut, sent and merged like its parameter."""
    outer: Tensors = field(default_factory=dict)
    """Momentum of the merge's own optimizer. It stays with the model and is never sent."""


@dataclass(frozen=True)
class Submodel:
    """One worker's part, w_i on the way down and z_i^+ on the way up.

    Nobody held a parameter that no submodel brings back: an absent worker returns `ABSENT`.
    """

    params: Tensors
    moments: Mapping[str, Tensors] = field(default_factory=dict)
    loss: float = math.nan  # mean training loss of the local steps; NaN on the way down
    n_steps: int = 0  # local steps taken; 0 on the way down

    def tensors(self) -> Iterator[Tensor]:
        """What travels, in one fixed order: parameters, then moments."""
        yield from self.params.values()
        for moment in self.moments.values():
            yield from moment.values()

    @property
    def n_bytes(self) -> int:
        """Payload bytes: the tensors' entries, without headers and without index lists.

        Every worker draws the same cut from the shared seed, so no indices are sent.
        """
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())


ABSENT = Submodel({})
"""What stands in for a worker that did not answer: its block of the round is dropped."""
