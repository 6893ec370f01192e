"""What a plan says: its axes, what stays whole, and what a worker holds, computes and is sent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from subnetwork.nets.trace.tracer import Inputs, without_mkldnn

if TYPE_CHECKING:
    from subnetwork.nets.plan import Plan


@dataclass(frozen=True)
class Cost:
    """What one module takes on one batch."""

    parameters: int
    flops: int  # of a forward pass; a step takes about three times as many
    activations: int  # bytes that the forward pass keeps for the backward pass
    payload: int  # bytes of its parameters: what is sent to a worker and what comes back


def cost(model: nn.Module, inputs: Inputs) -> Cost:
    """Count what a forward pass in training mode takes; the model's buffers may move."""
    weights = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage() if x.layout == torch.strided else None
        if storage is not None and storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    counter = FlopCounterMode(display=False)
    saving = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), without_mkldnn(), saving, counter:
        out = model.train()(*inputs.args, **inputs.kwargs)
    del out
    n = sum(p.numel() for p in model.parameters())
    payload = sum(p.numel() * p.element_size() for p in model.parameters())
    return Cost(n, counter.get_total_flops(), sum(kept.values()), payload)


def table(plan: "Plan", n_workers: int) -> str:
    """The costs of the largest of n parts under a Perm, beside those of the whole model.

    Raises:
        ValueError: where an axis has fewer units than there are workers.
    """
    few = {axis: n for axis, n in plan.layout.sizes.items() if n < n_workers}
    if few:
        axis, n = min(few.items(), key=lambda item: item[1])
        raise ValueError(
            f"Axis {axis} has {n} units for n_workers={n_workers}: somebody would get none. "
            f"Use at most {n} workers, or leave it whole by naming the others in width=."
        )
    sizes = {axis: math.ceil(n / n_workers) for axis, n in plan.layout.sizes.items()}
    whole = cost(plan.build(plan.layout.all_units), plan.inputs)
    part = cost(plan.builder.build(plan.model, _first(sizes)), plan.inputs)
    rows = [("", "whole model", f"one of {n_workers}", "share")]
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
    lines += [f"  {by_name[name]}  {_places(by_name[name].places)}" for name in plan.layout.sizes]
    if plan.whole or plan.fixed:
        lines.append("whole")
    lines += [f"  {by_name[name]}  not cut: {why}" for name, why in plan.whole.items()]
    lines += [f"  {_places(where)}  {why}" for why, where in plan.fixed.items()]
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes)])


def _evidence(plan: "Plan") -> str:
    if plan.evidence is None:
        return "not verified"
    if not plan.exact:
        return "not exact: some of its axes are flagged"
    dtype = str(plan.evidence.dtype).removeprefix("torch.")
    return f"equal to the masked model within {plan.evidence.masked:.0e} in {dtype}"


def _places(places: tuple[str, ...]) -> str:
    shown = ", ".join(places[:3])
    return shown if len(places) <= 3 else f"{shown} and {len(places) - 3} more"
