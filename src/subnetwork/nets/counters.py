"""Counters of local steps, one per unit: exact, and as small as the cut allows.

Entries of a parameter that always travel together have taken the same number of steps, so one
number does for all of them: for a layer's bias one per neuron, for the matrix between two cut axes
one per pair of units, for a parameter that is never cut a single one. A counter is a tensor that
broadcasts to its parameter unit by unit; it is cut and merged by the terms of its own dims.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from subnetwork.nets.layout import Layout
from subnetwork.nets.state import Tensors
from subnetwork.nets.terms import Cat, Dim, Prod, Term, extent

COUNTER = "step"  # torch.optim's own name for it


def per_unit(dim: Dim) -> Dim:
    """The term of a counter's dim: what stays together counts once.

    >>> per_unit(Cat((Prod(("heads", 6)), 4)))
    Cat(parts=(Prod(factors=('heads', 1)), 1))
    """
    if isinstance(dim, Prod):
        return Prod(tuple(_term(factor) for factor in dim.factors))
    if isinstance(dim, Cat):
        return Cat(tuple(_term(part) for part in dim.parts))
    return 1 if isinstance(dim, int) else dim


def at_size(dims: Sequence[Dim], shape: Sequence[int], sizes: Mapping[str, int]) -> tuple[Dim, ...]:
    """The terms of a tensor that has its parameter's shape, or one number per unit."""
    return tuple(
        dim if dim is None or extent(dim, sizes) == size else per_unit(dim)
        for dim, size in zip(dims, shape, strict=True)
    )


def counter_shape(layout: Layout, name: str) -> tuple[int, ...]:
    """The shape of the whole counter of a parameter."""
    sizes = layout.sizes
    return tuple(1 if dim is None else extent(_term(dim), sizes) for dim in layout.dims[name])


def counter_type(p: Tensor) -> torch.dtype:
    """The dtype of a parameter's counters: its own, that of its real part, or float32."""
    if p.is_complex():
        return p.dtype.to_real()
    return p.dtype if p.is_floating_point() else torch.float32


def spread(dim: Dim, sizes: Mapping[str, int]) -> Tensor | None:
    """For every index along a parameter's dim, its index in the counter; None where they are one.

    >>> spread(Cat((Prod(("heads", 2)), 3)), {"heads": 2}).tolist()
    [0, 0, 1, 1, 2, 2, 2]
    """
    if dim is None or isinstance(dim, str):
        return None
    return _spread(dim, sizes)


def per_entry(counter: Tensor, dims: Sequence[Dim], sizes: Mapping[str, int]) -> Tensor:
    """A counter with a number for every entry along the cut dims: it broadcasts to its parameter.

    Args:
        counter: of a parameter, or of a part of it.
        dims: the terms of the parameter's dims.
        sizes: units that are held on each axis.
    """
    for d, dim in enumerate(dims):
        index = spread(dim, sizes)
        if index is not None:
            counter = counter.index_select(d, index.to(counter.device))
    return counter


def no_moments(layout: Layout, params: Tensors, names: Sequence[str]) -> dict[str, Tensors]:
    """Moments that start at zero, of these names."""
    return {
        moment: {
            name: p.new_zeros(counter_shape(layout, name), dtype=counter_type(p))
            if moment == COUNTER
            else p.new_zeros(p.shape)
            for name, p in params.items()
        }
        for moment in names
    }


def _spread(term: Term, sizes: Mapping[str, int]) -> Tensor:
    if isinstance(term, str):
        return torch.arange(sizes[term])
    if isinstance(term, int):
        return torch.zeros(term, dtype=torch.int64)
    if isinstance(term, Prod):
        index = torch.zeros(1, dtype=torch.int64)
        for factor in term.factors:
            inner, n = _spread(factor, sizes), extent(_term(factor), sizes)
            index = (index[:, None] * n + inner).reshape(-1)
        return index
    pieces, offset = [], 0
    for part in term.parts:
        pieces.append(_spread(part, sizes) + offset)
        offset += extent(_term(part), sizes)
    return torch.cat(pieces)


def _term(term: Term) -> Term:
    unit = per_unit(term)
    assert unit is not None
    return unit
