"""Counters of local steps travel too: one per unit, as tensors of a shape of their own.

Entries that always travel together have taken the same number of steps: for a bias one counter per
neuron, for the matrix between two cut axes one per pair of units, for what is never cut a single
one. Inside the exchange they are tensors with names of their own beside the parameters.
"""

from dataclasses import replace

import torch
from torch import Tensor

from subnetwork.nets.layout import Layout
from subnetwork.nets.state import Submodel, Tensors
from subnetwork.nets.terms import Cat, Dim, Prod, extent

COUNTER = "step"  # torch.optim's own name for it
MARK = "::"


def is_counter(name: str) -> bool:
    """Whether a tensor of an exchange is a counter. It has no moments and is never rounded."""
    return MARK in name


def with_counters(layout: Layout) -> Layout:
    """The layout with a counter for every parameter."""
    dims = {f"{name}{MARK}{COUNTER}": tuple(map(per_unit, d)) for name, d in layout.dims.items()}
    unit_of = {f"{name}{MARK}{COUNTER}": unit for name, unit in layout.unit_of.items()}
    return replace(layout, dims={**layout.dims, **dims}, unit_of={**layout.unit_of, **unit_of})


def counters_like(layout: Layout) -> dict[str, Tensor]:
    """The whole counters of a layout, at zero, by their names in an exchange."""
    return {
        f"{name}{MARK}{COUNTER}": torch.zeros(
            [1 if dim is None else extent(dim, layout.sizes) for dim in map(per_unit, dims)]
        )
        for name, dims in layout.dims.items()
    }


def packed(submodel: Submodel) -> Submodel:
    """The submodel with its counters beside the parameters, as they travel."""
    if COUNTER not in submodel.moments:
        return submodel
    counters = {f"{n}{MARK}{COUNTER}": t for n, t in submodel.moments[COUNTER].items()}
    moments = {m: tensors for m, tensors in submodel.moments.items() if m != COUNTER}
    return replace(submodel, params={**submodel.params, **counters}, moments=moments)


def unpacked(submodel: Submodel) -> Submodel:
    """The submodel with its counters among the moments, as local work knows them."""
    counters = {n.partition(MARK)[0]: t for n, t in submodel.params.items() if is_counter(n)}
    if not counters:
        return submodel
    params: Tensors = {n: t for n, t in submodel.params.items() if not is_counter(n)}
    return replace(submodel, params=params, moments={**submodel.moments, COUNTER: counters})


def per_unit(dim: Dim) -> Dim:
    """The term of a counter's dim: what stays together counts once.

    >>> per_unit(Cat((Prod(("heads", 6)), 4)))
    Cat(parts=(Prod(factors=('heads', 1)), 1))
    """
    if isinstance(dim, Prod):
        return Prod(tuple(1 if isinstance(t, int) else _term(t) for t in dim.factors))
    if isinstance(dim, Cat):
        return Cat(tuple(_term(part) for part in dim.parts))
    return 1 if isinstance(dim, int) else dim


def _term(dim: Dim) -> str | int | Prod | Cat:
    unit = per_unit(dim)
    assert unit is not None
    return unit
