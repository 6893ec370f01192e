"""Units with different numbers of steps behind them, under an optimizer that counts one number."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from subnetwork.nets.state import Tensors

STEP = "step"
OfParameter: TypeAlias = dict[str, Any]
"""What an optimizer keeps of one parameter."""


@dataclass(frozen=True)
class Sorted:
    """A parameter's entries in the order of their counts, and a parameter for every count."""

    order: Tensor  # the flat places of the entries, ascending by count
    values: Tensor  # memory of the pieces, one after another
    pieces: Sequence[nn.Parameter]
    kept: dict[nn.Parameter, OfParameter]  # between two steps; during one the optimizer has it


def sorted_by_count(p: Tensor, moments: Tensors, counts: Tensor, on: torch.device) -> Sorted:
    """A parameter, and its state, in pieces of one count each.

    Args:
        p: the parameter.
        moments: of its shape.
        counts: steps behind every entry, of its shape.
        on: where the optimizer keeps counts.
    """
    flat, order = counts.reshape(-1).to(p.device).sort(stable=True)
    numbers, sizes = torch.unique_consecutive(flat, return_counts=True)
    values = p.detach().reshape(-1)[order]
    lengths = sizes.tolist()
    pieces = [nn.Parameter(v, requires_grad=False) for v in torch.split(values, lengths)]
    kept: dict[nn.Parameter, OfParameter] = {
        piece: {STEP: torch.tensor(float(number), device=on)}
        for piece, number in zip(pieces, numbers.tolist(), strict=True)
    }
    for moment, whole in moments.items():
        parts = torch.split(whole.to(p).reshape(-1)[order], lengths)
        for piece, part in zip(pieces, parts, strict=True):
            kept[piece][moment] = part
    return Sorted(order, values, pieces, kept)


def joined(p: Tensor, of: Sorted) -> OfParameter:
    """The state of the whole parameter; its count is that of the entries with most steps."""
    states = [of.kept[piece] for piece in of.pieces]
    found: OfParameter = {STEP: states[-1][STEP]}
    for name in (name for name, value in states[0].items() if name != STEP and value is not None):
        parts = torch.cat([state[name] for state in states])
        found[name] = torch.empty_like(parts).index_copy_(0, of.order, parts).view(p.shape)
    return found


def step_by_count(optimizer: Optimizer, uneven: Mapping[Tensor, Sorted]) -> list[RemovableHandle]:
    """Let an optimizer step the pieces of these parameters in their place, until removed.

    Every piece is a parameter with a count of its own: whatever the optimizer makes of a count, it
    makes for each. A parameter without gradient is not stepped.
    """
    whole: list[list[Tensor]] = []
    owner = {q: of for of in uneven.values() for q in of.pieces}

    def before(_: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any]:  # noqa: ANN401 - torch's
        args, kwargs = _evaluated(args, kwargs)
        whole[:] = [group["params"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["params"] = [q for p in group["params"] for q in _laid_out(p, uneven)]
            optimizer.state.update({q: owner[q].kept[q] for q in group["params"] if q in owner})
        return args, kwargs

    def after(*_: object) -> None:
        for group, params in zip(optimizer.param_groups, whole, strict=True):
            group["params"] = params
            for p in params:
                if p in uneven and p.grad is not None:
                    _taken_back(p, uneven[p], optimizer)

    return [
        optimizer.register_step_pre_hook(before),
        optimizer.register_step_post_hook(after),
    ]


def _laid_out(p: Tensor, uneven: Mapping[Tensor, Sorted]) -> Sequence[Tensor]:
    """What is stepped for a parameter: its pieces, with their values and gradients."""
    of = uneven.get(p)
    if of is None or p.grad is None:
        return [p]
    if p.grad.is_sparse:
        raise ValueError(
            "session.carry takes units with different numbers of steps apart, which a sparse "
            "gradient does not allow. Use embeddings with sparse=False, or leave out session.carry."
        )
    torch.index_select(p.detach().reshape(-1), 0, of.order, out=of.values)
    gradients = torch.split(p.grad.reshape(-1)[of.order], [len(piece) for piece in of.pieces])
    for piece, gradient in zip(of.pieces, gradients, strict=True):
        piece.grad = gradient
    return of.pieces


def _taken_back(p: Tensor, of: Sorted, optimizer: Optimizer) -> None:
    for piece in of.pieces:
        piece.grad = None
        of.kept[piece] = optimizer.state.pop(piece)
    flat = p.detach().reshape(-1).index_copy_(0, of.order, of.values)
    if not p.is_contiguous():
        p.detach().copy_(flat.view(p.shape))


def _evaluated(args: Any, kwargs: Any) -> tuple[Any, Any]:  # noqa: ANN401 - whatever step takes
    """The arguments of `step`; a closure is called now, while gradients still have a place."""
    closure: Callable[[], Any] | None = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        return args, kwargs
    with torch.enable_grad():
        loss = closure()
    others = {name: value for name, value in kwargs.items() if name != "closure"}
    return (args[0], lambda: loss, *args[2:]), others
