"""Proof by computation that a subnetwork is f(C x), the model at masked parameters."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from subnetwork.deals import AtLeast, Perm, RandQ
from subnetwork.nets.builders import Builder
from subnetwork.nets.layout import Layout
from subnetwork.nets.partition import NetPartition, block_of
from subnetwork.nets.state import ModelState, Tensors
from subnetwork.nets.trace.tracer import Inputs, first_line

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative to the largest entry


@dataclass(frozen=True)
class Evidence:
    """Largest differences that were measured, relative to the largest entry.

    Attributes:
        dtype: that they were measured in: float64 wherever the model runs in it.
        permuted: outputs of the model with every axis's units in another order.
        masked: outputs of a subnetwork and of the model at masked parameters.
        gradients: their gradients, where asked for.
        problem: what stands against the plan, in one line; None where nothing does.
    """

    dtype: torch.dtype = torch.float64
    permuted: float = math.nan
    masked: float = math.nan
    gradients: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Bench:
    """A model to measure on: in training mode, its values kept aside.

    The values are the model's with noise, since a scale or a layer that starts at zero would hide
    whatever is wrong behind it. float64, or float32 where the model does not run in that.
    """

    model: nn.Module
    inputs: Inputs
    layout: Layout
    values: Tensors
    dtype: torch.dtype

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs, layout: Layout) -> "Bench":
        """A copy of the model; the model itself is left alone."""
        bench = cls._in(torch.float64, model, inputs, layout)
        try:
            outputs(bench.model, bench.inputs)
        except RuntimeError:  # an operation that float64 has no kernel for
            return cls._in(torch.float32, model, inputs, layout)
        return bench

    @classmethod
    def _in(cls, dtype: torch.dtype, model: nn.Module, inputs: Inputs, layout: Layout) -> "Bench":
        twin = copy.deepcopy(model).to(dtype).train()
        cast = inputs.each(lambda x: x.to(dtype) if x.is_floating_point() else x.clone())
        values = {name: tensor.detach().clone() for name, tensor in _tensors(twin)}
        generator = torch.Generator().manual_seed(0)
        for name, p in twin.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=dtype).to(p.device)
            spread = float(p.detach().std()) if p.numel() > 1 else 0.0
            values[name] += noise * max(0.5 * spread, 0.02)
        _write(twin, values)
        return cls(twin, cast, layout, values, dtype)

    @property
    def tolerance(self) -> float:
        """The largest relative difference that rounding explains."""
        return TOLERANCE[self.dtype]

    @contextmanager
    def holding(self, values: Tensors) -> Iterator[nn.Module]:
        """The model with these values inside the block, with its own again after it."""
        _write(self.model, values)
        try:
            yield self.model
        finally:
            _write(self.model, self.values)


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

    Args:
        bench: the model.
        builder: makes its subnetworks.
        gradients: whether to compare gradients as well.
    """
    evidence = Evidence(bench.dtype, permutation_gap(bench))
    if evidence.permuted > bench.tolerance:
        return replace(evidence, problem="permuting its units changes the model")
    try:
        gaps = [mask_gap(bench, builder, units, gradients) for units in cuts(bench.layout)]
    except Exception as error:  # as above
        return replace(evidence, problem=f"a subnetwork does not run: {first_line(error)}")
    masked, slopes = max(gap[0] for gap in gaps), max(gap[1] for gap in gaps)
    evidence = replace(evidence, masked=masked, gradients=slopes if gradients else None)
    if max(masked, slopes) > bench.tolerance:
        what = "outputs" if masked > bench.tolerance else "gradients"
        problem = f"the {what} of a subnetwork differ from f(C x) by {max(masked, slopes):.1e}"
        return replace(evidence, problem=problem)
    return replace(evidence, problem=_lost_in_merge(bench))


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


def permutation_gap(bench: Bench) -> float:
    """How far the outputs move when the units of every axis are put in another order."""
    generator = torch.Generator().manual_seed(0)
    orders = {a: torch.randperm(n, generator=generator) for a, n in bench.layout.sizes.items()}
    moved = {
        name: value[block_of(bench.layout, dims, value, orders)]
        for name, value in bench.values.items()
        if (dims := _dims(bench.layout, name))
    }
    expected = outputs(bench.model, bench.inputs)
    with bench.holding(moved) as model:
        return _gap(outputs(model, bench.inputs), expected)


def mask_gap(
    bench: Bench, builder: Builder, units: Mapping[str, Tensor], gradients: bool = False
) -> tuple[float, float]:
    """How far outputs and gradients of a subnetwork are from those of the masked model."""
    small = builder.build(bench.model, units).train()
    found = outputs(small, bench.inputs, gradients)
    slopes = _gradients(small, found) if gradients else {}
    with bench.holding(masked(bench.layout, bench.values, units)) as model:
        expected = outputs(model, bench.inputs, gradients)
        whole = _gradients(model, expected) if gradients else {}
    blocks = [
        whole[name][block_of(bench.layout, _dims(bench.layout, name), whole[name], units)]
        for name in slopes
    ]
    return _gap(found, expected), _gap(list(slopes.values()), blocks)


def masked(layout: Layout, values: Tensors, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """C x: the parameters with every entry set to zero that these units do not hold."""
    zeroed = {}
    for name, dims in layout.dims.items():
        zeroed[name] = torch.zeros_like(values[name])
        if layout.holds(name, units):
            block = block_of(layout, dims, values[name], units)
            zeroed[name][block] = values[name][block]
    return zeroed


def outputs(model: nn.Module, inputs: Inputs, gradients: bool = False) -> list[Tensor]:
    """The floating-point tensors that one forward pass returns, with dropout off."""
    grad = torch.set_grad_enabled(gradients)
    with torch.random.fork_rng(devices=[]), grad, _Quiet():  # type: ignore[no-untyped-call]
        torch.manual_seed(0)
        out = model(*inputs.args, **inputs.kwargs)
    return [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.is_floating_point()]


def _gradients(model: nn.Module, out: Sequence[Tensor]) -> dict[str, Tensor]:
    """Of a fixed random combination of the outputs; zero where a parameter plays no part."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in out]
    total = torch.stack([(x * w.to(x)).sum() for x, w in zip(out, weights, strict=True)]).sum()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    slopes = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(p) if slope is None else slope
        for (name, p), slope in zip(named.items(), slopes, strict=True)
    }


def _lost_in_merge(bench: Bench) -> str | None:
    x = ModelState({name: bench.values[name] for name in bench.layout.dims})
    first, second = cuts(bench.layout)[:2]
    halves = NetPartition(
        bench.layout, {axis: (first[axis].numpy(), second[axis].numpy()) for axis in first}
    )
    merged = halves.merge(x.params, [halves.select(x, i).params for i in range(2)])
    lost = [name for name, p in x.params.items() if not torch.equal(p, merged[name])]
    return f"merging the parts does not give back {lost[0]}" if lost else None


def _gap(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    if [x.shape for x in found] != [x.shape for x in expected]:
        return math.inf
    gaps = [
        float((a - b).detach().abs().max() / (1 + b.detach().abs().max()))
        for a, b in zip(found, expected, strict=True)
        if a.numel()
    ]
    return math.inf if any(map(math.isnan, gaps)) else max(gaps, default=0.0)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _write(model: nn.Module, values: Tensors) -> None:
    with torch.no_grad():
        for name, tensor in _tensors(model):
            if name in values and not tensor.is_sparse:
                tensor.copy_(values[name])


def _dims(layout: Layout, name: str) -> tuple[Any, ...]:
    return layout.dims.get(name, layout.buffers.get(name, ()))


class _Quiet(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Dropout keeps everything: a part and the whole would draw different masks."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Run the operation, unless it is one that draws what is kept."""
        name = func._schema.name
        if name == "aten::bernoulli_" and not isinstance(args[1] if args[1:] else 0.5, Tensor):
            return args[0].fill_(args[1] if args[1:] else 0.5)
        if name == "aten::native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        return func(*args, **(kwargs or {}))
