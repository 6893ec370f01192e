"""The x and the w_i of Algorithm 1 when the model is a network: named tensors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
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
    """Local optimizer state: name of the moment -> parameter -> tensor of the parameter's shape, or
    with one number per unit (counters). It is cut, sent and merged like its parameter."""
    outer: Tensors = field(default_factory=dict)
    """Momentum of the merge's own optimizer. A coordinator never sends it."""


@dataclass(frozen=True)
class Submodel:
    """One worker's part, w_i on the way down and z_i^+ on the way up.

    Nobody held a parameter that no submodel brings back: an absent worker returns `ABSENT`.
    """

    params: Tensors
    moments: Mapping[str, Tensors] = field(default_factory=dict)
    loss: float = math.nan  # mean training loss of the local steps; NaN on the way down
    n_steps: int = 0  # local steps taken: fewer than asked for where time ran out

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

    def flat(self) -> Tensor | None:
        """The one buffer in which its tensors stand one after another; None where they do not.

        `NetPartition.select` and the wire make submodels of this kind: packing one copies nothing.
        """
        tensors = [tensor.detach() for tensor in self.tensors()]
        if not tensors or tensors[0].is_meta:
            return None
        first = tensors[0]
        start = end = first.storage_offset()
        for tensor in tensors:
            follows = (
                tensor.dtype == first.dtype
                and tensor.storage_offset() == end
                and tensor.is_contiguous()
                and tensor.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
            )
            if not follows:
                return None
            end += tensor.numel()
        return first.as_strided((end - start,), (1,), start)


def views(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Tensors of these shapes, one after another in one buffer."""
    parts = torch.split(flat, [math.prod(shape) for shape in shapes])
    return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


def arranged(like: Submodel, tensors: Sequence[Tensor]) -> Submodel:
    """The names of a submodel on other tensors, given in the order of `Submodel.tensors`."""
    rest = iter(tensors)
    params = {name: next(rest) for name in like.params}
    moments = {m: {name: next(rest) for name in own} for m, own in like.moments.items()}
    return Submodel(params, moments, like.loss, like.n_steps)


def copied(submodel: Submodel) -> Submodel:
    """The same submodel in memory of its own: one flat buffer where its dtype allows it."""
    flat = submodel.flat()
    tensors = list(submodel.tensors())
    if not tensors:
        return submodel
    if flat is None and len({(tensor.dtype, tensor.device) for tensor in tensors}) > 1:
        return arranged(submodel, [tensor.detach().clone() for tensor in tensors])
    if flat is None:
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    else:
        flat = flat.clone()
    return arranged(submodel, views(flat, [tensor.shape for tensor in tensors]))


ABSENT = Submodel({})
"""What stands in for a worker that did not answer: its block of the round is dropped."""
