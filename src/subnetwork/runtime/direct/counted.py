"""Counters of local steps travel too: one per unit, as tensors of a shape of their own.

Entries that always travel together have taken the same number of steps: for a bias one counter per
neuron, for the matrix between two cut axes one per pair of units, for what is never cut a single
one. Inside the exchange they are tensors with names of their own beside the parameters.
"""

from dataclasses import replace

import torch
from torch import Tensor

from subnetwork.nets.counters import COUNTER, counter_shape, counter_type, per_unit
from subnetwork.nets.layout import Layout
from subnetwork.nets.state import Submodel, Tensors

__all__ = ["COUNTER", "counter_of", "counters_like", "is_counter", "packed", "unpacked"]
__all__ += ["with_counters"]

MARK = "::"


def is_counter(name: str) -> bool:
    """Whether a tensor of an exchange is a counter. It has no moments and is never rounded."""
    return MARK in name


def counter_of(name: str) -> str:
    """The name that the counter of a parameter has in an exchange."""
    return f"{name}{MARK}{COUNTER}"


def with_counters(layout: Layout) -> Layout:
    """The layout with a counter for every parameter."""
    dims = {counter_of(name): tuple(map(per_unit, d)) for name, d in layout.dims.items()}
    unit_of = {counter_of(name): unit for name, unit in layout.unit_of.items()}
    return replace(layout, dims={**layout.dims, **dims}, unit_of={**layout.unit_of, **unit_of})


def counters_like(layout: Layout, like: Tensors) -> dict[str, Tensor]:
    """The whole counters of a layout, at zero, by their names in an exchange.

    Their dtype is that of the parameter in `like`, or of its real part; float32 where that has 16
    bits, which would stop counting at 256, or is no floating point.
    """
    return {
        counter_of(name): torch.zeros(counter_shape(layout, name), dtype=_sent_type(p))
        for name, p in like.items()
    }


def _sent_type(p: Tensor) -> torch.dtype:
    counted = counter_type(p)
    return counted if counted.itemsize >= 4 else torch.float32


def packed(submodel: Submodel) -> Submodel:
    """The submodel with its counters beside the parameters, as they travel."""
    if COUNTER not in submodel.moments:
        return submodel
    counters = {counter_of(n): t for n, t in submodel.moments[COUNTER].items()}
    moments = {m: tensors for m, tensors in submodel.moments.items() if m != COUNTER}
    return replace(submodel, params={**submodel.params, **counters}, moments=moments)


def unpacked(submodel: Submodel) -> Submodel:
    """The submodel with its counters among the moments, as local work knows them."""
    counters = {n.partition(MARK)[0]: t for n, t in submodel.params.items() if is_counter(n)}
    if not counters:
        return submodel
    params: Tensors = {n: t for n, t in submodel.params.items() if not is_counter(n)}
    return replace(submodel, params=params, moments={**submodel.moments, COUNTER: counters})
