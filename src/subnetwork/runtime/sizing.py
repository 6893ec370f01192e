"""What the cost model has to be told about a cut: how large the model and a part of it are."""

import math

import torch
from torch import nn

from subnetwork.deals import Perm
from subnetwork.nets.architecture import without_values
from subnetwork.nets.counters import COUNTER
from subnetwork.nets.partition import NetSketch
from subnetwork.nets.plan import Plan
from subnetwork.nets.table import cost
from subnetwork.nets.terms import axes_of
from subnetwork.runtime.costs import Sizes


def sizes(plan: Plan, n_workers: int, *, moments: int = 0) -> Sizes:
    """Entries and activations of the whole model and of the first of n subnetworks under a Perm.

    Raises:
        ValueError: where an axis has fewer units than there are workers.
    """
    part = _part(plan, n_workers)
    counted = _counters(plan, n_workers) if moments > 1 else {}
    by_axes, counters = [0], [0]
    for name, p in part.named_parameters():
        n_cut = len({dim for dim in plan.layout.dims[name] if dim is not None and axes_of(dim)})
        for by_cut, n in ((by_axes, p.numel()), (counters, counted.get(name, 0))):
            by_cut.extend([0] * (n_cut + 1 - len(by_cut)))
            by_cut[n_cut] += n
    whole = cost(plan.builder.build(plan.model, plan.layout.all_units), plan.inputs)
    return Sizes(
        whole=whole.parameters,
        part=tuple(by_axes),
        activations_whole=whole.activations,
        activations_part=cost(part, plan.inputs).activations,
        moments=moments,
        counters=tuple(counters) if counted else (),
        largest=max((p.numel() for p in plan.model.parameters()), default=0),
        lines=_lines(plan),
        trained=n_trained(plan.model),
    )


def _lines(plan: Plan) -> int:
    """Of parameters that are cut along two dims or more."""
    n = 0
    for name, p in plan.model.named_parameters():
        sizes = [
            size
            for size, dim in zip(p.shape, plan.layout.dims[name], strict=True)
            if dim is not None and axes_of(dim)
        ]
        n += math.prod(sizes) if len(sizes) > 1 else 0
    return n


def _counters(plan: Plan, n_workers: int) -> dict[str, int]:
    """How many numbers the count of Adam's steps of each parameter is, in a part."""
    state = without_values(plan, (COUNTER,))
    part = NetSketch(plan.layout, Perm(n_workers)).sample(0, 0).select(state, 0)
    return {name: t.numel() for name, t in part.moments[COUNTER].items()}


def n_trained(model: nn.Module) -> int:
    """Entries that have gradients."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _part(plan: Plan, n_workers: int) -> nn.Module:
    few = {axis: n for axis, n in plan.layout.sizes.items() if n < n_workers}
    if few:
        axis, n = min(few.items(), key=lambda item: item[1])
        raise ValueError(
            f"Axis {axis} has {n} units for n_workers={n_workers}: somebody would get none. "
            f"Use at most {n} workers, or leave it whole by naming the others in width=."
        )
    units = {axis: torch.arange(math.ceil(n / n_workers)) for axis, n in plan.layout.sizes.items()}
    return plan.builder.build(plan.model, units)
