"""Scores of units: what the deal `Scored` puts them in order by."""

from collections.abc import Mapping

import torch
from torch import Tensor

from subnetwork.nets.layout import Layout
from subnetwork.nets.state import Tensors
from subnetwork.nets.terms import Dim, axes_of, places


def changes(layout: Layout, now: Tensors, start: Tensors) -> tuple[tuple[float, ...], ...]:
    """How far each unit has come: sum of |now - start| over all entries that belong to it.

    AsyncDrop's criterion (Dun et al. 2023), whose released code adds up the filters that make a
    channel and those that read it; here all parameters that carry the unit count, biases and
    normalisation too.

    Args:
        layout: of the model; its axes are scored in their order.
        now: parameters of the model.
        start: parameters that it started from.

    Returns:
        One tuple an axis, one number a unit: the `scores` of `subnetwork.deals.Scored`.
    """
    totals = {axis: torch.zeros(n, dtype=torch.float64) for axis, n in layout.sizes.items()}
    for name, p in now.items():
        change = (p.detach() - start[name].detach()).abs().double().cpu()
        for d, dim in enumerate(layout.dims[name]):
            if axes_of(dim):
                along = change.movedim(d, 0).flatten(1).sum(1) if change.dim() > 1 else change
                _add(totals, layout, dim, along)
        if name in layout.unit_of:
            axis, unit = layout.unit_of[name]
            totals[axis][unit] += change.sum()
    return tuple(tuple(total.tolist()) for total in totals.values())


def _add(totals: Mapping[str, Tensor], layout: Layout, dim: Dim, along: Tensor) -> None:
    """Add what stands along a dim to the units that its entries belong to."""
    if isinstance(dim, str):
        totals[dim] += along
        return
    assert dim is not None
    for axis in axes_of(dim):
        every = layout.all_units
        none = _total(along, dim, {**every, axis: every[axis][:0]}, layout)
        for unit in range(layout.sizes[axis]):
            one = _total(along, dim, {**every, axis: every[axis][unit : unit + 1]}, layout)
            totals[axis][unit] += one - none  # entries that belong to no unit of the axis


def _total(along: Tensor, dim: Dim, units: Mapping[str, Tensor], layout: Layout) -> Tensor:
    assert dim is not None
    return along[places(dim, units, layout.sizes)].sum()
