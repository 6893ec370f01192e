"""Proof by computation that a subnetwork is f(C x), the model at masked parameters."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from subnetwork.deals import AtLeast, Perm, RandQ
from subnetwork.nets.bench import Batch, Bench, new_nan, outputs, slopes
from subnetwork.nets.builders import Builder
from subnetwork.nets.layout import Layout
from subnetwork.nets.partition import NetPartition, block_of
from subnetwork.nets.state import ModelState, Tensors
from subnetwork.nets.trace.tracer import Inputs, first_line


@dataclass(frozen=True)
class Evidence:
    """Largest differences that were measured, relative to each entry and its output's scale.

    The scale of an output is how far its entries move with the parameters, so that neither entries
    that a mask sets to -1e9 nor outputs that are tiny hide a difference.

    Attributes:
        dtype: that they were measured in: float64 wherever the model computes in it.
        permuted: outputs of the model with every axis's units in another order.
        masked: outputs of a subnetwork and of the model at masked parameters.
        gradients: their gradients; None where not asked for, or where no parameter is trained.
        untold: axes of which nothing was measured, since no output of the example batch depends on
            them: those of an expert that got no token, say.
        problem: what stands against the plan, in one line; None where nothing does.
    """

    dtype: torch.dtype = torch.float64
    permuted: float = math.nan
    masked: float = math.nan
    gradients: float | None = None
    untold: tuple[str, ...] = ()
    problem: str | None = None


def problem_running(
    model: nn.Module, inputs: Inputs, layout: Layout, builder: Builder
) -> str | None:
    """What happens when a half and a third of the model run; None where nothing does."""
    for units in cuts(layout)[1:]:
        try:
            outputs(builder.build(model, units).train(), inputs)
        except Exception as error:  # whatever the user's forward raises at other sizes
            return f"a subnetwork does not run: {first_line(error)}"
    return None


def measured(bench: Bench, builder: Builder, *, gradients: bool = False) -> Evidence:
    """Prove a plan by running it: permutation, masks on several cuts, merge, gradients.

    What forward itself rounds to float32 is judged by the rounding of float32.

    Args:
        bench: the model.
        builder: makes its subnetworks.
        gradients: whether to compare gradients as well.
    """
    if not bench.tells:
        problem = "no output changes with the parameters on the example batch: nothing is proved"
        return Evidence(bench.dtype, problem=problem)
    evidence = _measured(bench, builder, gradients)
    if evidence.problem and bench.rounds:
        return _measured(replace(bench, dtype=torch.float32), builder, gradients)
    return evidence


def _measured(bench: Bench, builder: Builder, gradients: bool) -> Evidence:
    gradients = gradients and any(p.requires_grad for p in bench.model.parameters())
    evidence = Evidence(bench.dtype)
    try:
        permuted = max(permutation_gap(bench, batch) for batch in bench.batches)
    except Exception as error:  # as above
        return replace(evidence, problem=f"it does not run in another order: {first_line(error)}")
    evidence = replace(evidence, permuted=permuted)
    if evidence.permuted > bench.tolerance:
        return replace(evidence, problem="permuting its units changes the model")
    tried = [(batch, units) for batch in bench.batches for units in cuts(bench.layout)]
    try:
        gaps = [mask_gap(bench, batch, builder, units, gradients) for batch, units in tried]
    except Exception as error:  # as above
        return replace(evidence, problem=f"a subnetwork does not run: {first_line(error)}")
    masked, steep = max(gap[0] for gap in gaps), max(gap[1] for gap in gaps)
    evidence = replace(evidence, masked=masked, gradients=steep if gradients else None)
    if max(masked, steep) > bench.tolerance:
        what = "outputs" if masked > bench.tolerance else "gradients"
        problem = f"the {what} of a subnetwork differ from f(C x) by {max(masked, steep):.1e}"
        return replace(evidence, problem=problem)
    return replace(evidence, problem=_lost_in_merge(bench), untold=_untold(bench))


def cuts(layout: Layout) -> list[dict[str, Tensor]]:
    """The cuts that are tried: two halves that cover all, and a third of each axis, of no block."""
    halves: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    third = {}
    for i, (axis, n) in enumerate(layout.sizes.items()):
        deep = axis in layout.depth
        deal = AtLeast(2) if deep and n < 2 else Perm(2)
        for half, hand in zip(halves, deal.hands(n, seed=0, k=0, axis=i), strict=True):
            half[axis] = torch.as_tensor(hand)
        few = RandQ(1, max(1, n // 3)).hands(n, seed=1, k=0, axis=i)[0]
        third[axis] = torch.as_tensor(few[:0] if deep else few)
    return [*halves, third]


def permutation_gap(bench: Bench, batch: Batch) -> float:
    """How far the outputs move when the units of every axis are put in another order."""
    generator = torch.Generator().manual_seed(0)
    orders = {a: torch.randperm(n, generator=generator) for a, n in bench.layout.sizes.items()}
    moved = {
        name: value[block_of(bench.layout, dims, value, orders)] if dims else value
        for name, value in bench.values.items()
        for dims in (_dims(bench.layout, name),)
    }
    with bench.holding(moved) as model:
        return _gap(outputs(model, batch.inputs), batch.whole, batch.scales, bench.least)


def mask_gap(
    bench: Bench, batch: Batch, builder: Builder, units: Mapping[str, Tensor], gradients: bool
) -> tuple[float, float]:
    """How far outputs and gradients of a subnetwork are from those of the masked model."""

    def run(model: nn.Module) -> tuple[list[Tensor], dict[str, Tensor]]:
        return slopes(model, batch.inputs) if gradients else (outputs(model, batch.inputs), {})

    found, steep = run(builder.build(bench.model, units).train())
    with bench.holding({**bench.values, **masked(bench.layout, bench.values, units)}) as model:
        expected, whole = run(model)
    if new_nan(expected, batch.whole):
        return math.inf, 0.0  # there is nothing to compare with
    blocks = [
        whole[name][block_of(bench.layout, _dims(bench.layout, name), whole[name], units)]
        for name in steep
    ]
    return (
        _gap(found, expected, batch.scales, bench.least),
        _gap(list(steep.values()), blocks, _largest(blocks), bench.least),
    )


def masked(layout: Layout, values: Tensors, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """C x: the parameters with every entry set to zero that these units do not hold."""
    zeroed = {}
    for name, dims in layout.dims.items():
        zeroed[name] = torch.zeros_like(values[name])
        if layout.holds(name, units):
            block = block_of(layout, dims, values[name], units)
            zeroed[name][block] = values[name][block]
    return zeroed


def _untold(bench: Bench) -> tuple[str, ...]:
    """Axes along which no parameter moves an output; frozen parameters say nothing of theirs."""
    layout, moved = bench.layout, dict[str, bool]()
    for batch in bench.batches:
        try:
            _, found = slopes(bench.model, batch.inputs)
        except Exception:  # an operation of the user's that has no way back
            return ()
        moved = {name: moved.get(name, False) or bool(s.any()) for name, s in found.items()}
    names = {a: [name for name in layout.dims if a in layout.axes_of(name)] for a in layout.sizes}
    still = (a for a, own in names.items() if own and not any(moved.get(n, True) for n in own))
    return tuple(still) if any(moved.values()) else ()


def _lost_in_merge(bench: Bench) -> str | None:
    x = ModelState({name: bench.values[name] for name in bench.layout.dims})
    first, second = cuts(bench.layout)[:2]
    halves = NetPartition(
        bench.layout, {axis: (first[axis].numpy(), second[axis].numpy()) for axis in first}
    )
    merged = halves.merge(x.params, [halves.select(x, i).params for i in range(2)])
    lost = [name for name, p in x.params.items() if not torch.equal(p, merged[name])]
    return f"merging the parts does not give back {lost[0]}" if lost else None


def _gap(
    found: Sequence[Tensor], expected: Sequence[Tensor], scales: Sequence[float], least: float
) -> float:
    """The largest difference, each relative to its entry's size, its tensor's scale and the least.

    Entries that are not finite have to be the same; with them out of the way, infinite scores of a
    masked softmax can be compared.
    """
    if [x.shape for x in found] != [x.shape for x in expected]:
        return math.inf
    gaps = [0.0]
    for a, b, scale in zip(found, expected, scales, strict=True):
        finite = a.isfinite() & b.isfinite()
        if not (finite | (a == b) | (a.isnan() & b.isnan())).all():
            return math.inf
        near, far = b.detach()[finite], a.detach()[finite]
        if near.numel():
            gaps.append(float(((far - near).abs() / (near.abs() + max(scale, least))).max()))
    return max(gaps)


def _largest(slopes: Sequence[Tensor]) -> list[float]:
    """Scales of gradients: the largest entry of each, or of the median one if that is larger.

    The gradient of a bias before a normalisation is zero but for rounding.
    """
    largest = [float(x.abs().max()) if x.numel() else 0.0 for x in slopes]
    typical = statistics.median(largest) if largest else 0.0
    return [max(x, typical) for x in largest]


def _dims(layout: Layout, name: str) -> tuple[Any, ...]:
    return layout.dims.get(name, layout.buffers.get(name, ()))
