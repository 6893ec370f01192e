"""What a plan says: its axes, what stays whole, and what a worker holds, computes and is sent."""

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from subnetwork.nets.axes import NOT_NAMED
from subnetwork.nets.hollow import filled
from subnetwork.nets.trace.tracer import Inputs, Quiet, seeded, without_mkldnn

if TYPE_CHECKING:
    from subnetwork.nets.plan import Plan


@dataclass(frozen=True)
class Cost:
    """What one module takes on one batch."""

    parameters: int
    flops: int  # of a forward pass; a step takes about three times as many
    activations: int  # bytes that the forward pass keeps for the backward pass
    payload: int  # bytes of its parameters: what is sent to a worker and what comes back

    def minus(self, other: "Cost") -> "Cost":
        """What this takes more than the other."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Cost(*(mine - its for mine, its in pairs))


def cost(model: nn.Module, inputs: Inputs) -> Cost:
    """Count what a forward pass in training mode takes; the model's buffers may move.

    Where layers are dropped at random it takes the path of the proof, on which the model was cut.
    """
    if any(x.is_meta for x in inputs.tensors()):  # of a plan from shapes
        model = model.to("meta")
    else:
        device = next((x.device for x in inputs.tensors()), torch.get_default_device())
        model = filled(model, device)
    weights = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage() if x.layout == torch.strided else None
        if storage is not None and storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return x

    counter, given = FlopCounterMode(display=False), inputs.each(torch.clone)  # it may write there
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with (
        seeded(), torch.enable_grad(), without_mkldnn(), saving,
        Quiet(), counter,  # type: ignore[no-untyped-call]
    ):  # fmt: skip
        out = model.train()(*given.args, **given.kwargs)
    del out
    n = sum(p.numel() for p in model.parameters())
    payload = sum(p.numel() * p.element_size() for p in model.parameters())
    return Cost(n, counter.get_total_flops(), sum(kept.values()), payload)


def table(plan: "Plan", n_workers: int) -> str:
    """The costs of the largest of n parts under a Perm, beside those of the whole model.

    Blocks differ in what they take: each line is that of the blocks which take most of it. Where
    there are fewer blocks than workers, each worker has one, as under `AtLeast`.

    Raises:
        ValueError: where there is no worker, or an axis of width has fewer units than workers.
    """
    if n_workers < 1:
        raise ValueError(
            f"plan.table was asked for n_workers={n_workers}, of which none holds a part. "
            "Give the number of workers, 1 or more."
        )
    depth = plan.layout.depth
    few = {a: n for a, n in plan.layout.sizes.items() if n < n_workers and a not in depth}
    if few:
        axis, n = min(few.items(), key=lambda item: item[1])
        raise ValueError(
            f"Axis {axis} has {n} units for n_workers={n_workers}: somebody would get none. "
            f"Use at most {n} workers, or leave it whole by naming the others in width=."
        )
    sizes = {axis: math.ceil(n / n_workers) for axis, n in plan.layout.sizes.items()}
    whole = cost(plan.builder.build(plan.model, plan.layout.all_units), plan.inputs)
    part = _largest(plan, sizes)
    rows = [("", "whole model", f"one of {n_workers}{', at most' if depth else ''}", "share")]
    rows += [
        _row("parameters", whole.parameters, part.parameters, "d"),
        _row("FLOPs, forward", whole.flops, part.flops, "d"),
        _row("activation bytes", whole.activations, part.activations, "d"),
        _row("bytes per round, each way", whole.payload, part.payload, "d"),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{row[i]:>{widths[i]}}" for i in (1, 2, 3))
        for row in rows
    )


def _largest(plan: "Plan", sizes: Mapping[str, int]) -> Cost:
    """The cost of so many units of each axis: of blocks, those that take most."""
    units = _first(sizes)
    if not plan.blocks:
        return cost(plan.builder.build(plan.model, units), plan.inputs)
    (axis,) = plan.layout.unit_names
    bare = cost(_with(plan, units, axis, ()), plan.inputs)
    kinds: dict[object, Cost] = {}
    costs = []
    for unit, block in enumerate(plan.blocks):
        module = _with(plan, units, axis, (unit,))
        own = {n: p for n, p in module.named_parameters() if n.startswith(f"{block.path}.")}
        shapes = tuple((n.removeprefix(block.path), tuple(p.shape)) for n, p in own.items())
        kind = (type(plan.model.get_submodule(block.path)), block.shape, shapes)
        if kind not in kinds:
            kinds[kind] = cost(module, plan.inputs).minus(bare)
        costs.append(astuple(kinds[kind]))
    count = sizes[axis]
    most = [sum(sorted(taken, reverse=True)[:count]) for taken in zip(*costs, strict=True)]
    return Cost(*(b + m for b, m in zip(astuple(bare), most, strict=True)))


def _with(
    plan: "Plan", units: Mapping[str, Tensor], axis: str, blocks: tuple[int, ...]
) -> nn.Module:
    held = {**units, axis: torch.tensor(blocks, dtype=torch.int64)}
    return plan.builder.build(plan.model, held)


def _first(sizes: Mapping[str, int]) -> dict[str, Tensor]:
    return {axis: torch.arange(n) for axis, n in sizes.items()}


def _row(what: str, whole: int, part: int, form: str) -> tuple[str, str, str, str]:
    share = f"{part / whole:.2f}" if whole else "-"
    return what, f"{whole:,{form}}", f"{part:,{form}}", share


def text(plan: "Plan") -> str:
    """The plan for a reader: a line an axis, a line a reason."""
    by_name = {axis.name: axis for axis in plan.axes}
    kind = {"copy": "patched copies of the model", "export": "exported graphs"}
    lines = [f"cut into {kind.get(plan.builder.kind, plan.builder.kind)}, {_evidence(plan)}", "cut"]
    lines += [
        f"  {by_name[name]}  {_places(by_name[name].places)}"
        for name in plan.layout.sizes
        if name in by_name
    ]
    lines += [
        f"  {axis}({len(names)})  left out whole: {_places(names, 6)}"
        for axis, names in plan.layout.unit_names.items()
    ]
    if plan.whole or plan.fixed or plan.kept:
        lines.append("whole")
    lines += [f"  block {path}  in every part: {why}" for path, why in plan.kept.items()]
    lines += [
        f"  {by_name[name]}  not cut: {why}" for name, why in plan.whole.items() if why != NOT_NAMED
    ]
    if unnamed := tuple(str(by_name[n]) for n, why in plan.whole.items() if why == NOT_NAMED):
        lines.append(f"  {_places(unnamed)}  not cut: {NOT_NAMED}")
    lines += [f"  {_places(where)}  {why}" for why, where in plan.fixed.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in (*plan.notes, *_untold(plan)))])


def _untold(plan: "Plan") -> list[str]:
    axes = plan.evidence.untold if plan.evidence is not None else ()
    few = ", ".join(axes[:3]) + (f" and {len(axes) - 3} more" if len(axes) > 3 else "")
    if not axes:
        return []
    return [f"no output of the example depends on {few}: they are not proved. Give a larger one"]


def _evidence(plan: "Plan") -> str:
    if plan.evidence is None:
        return "not verified"
    if not plan.exact:
        return "not exact: some of its axes are flagged"
    dtype = str(plan.evidence.dtype).removeprefix("torch.")
    return f"equal to the masked model within {plan.evidence.masked:.0e} in {dtype}"


def _places(places: tuple[str, ...], most: int = 3) -> str:
    shown = ", ".join(places[:most])
    return shown if len(places) <= most else f"{shown} and {len(places) - most} more"
