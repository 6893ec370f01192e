"""The state of the user's own optimizer, cut and sent with its parameters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from subnetwork.nets.counters import per_entry
from subnetwork.nets.layout import Layout
from subnetwork.nets.state import Tensors
from subnetwork.runtime.uneven import (
    STEP,
    OfParameter,
    Sorted,
    joined,
    sorted_by_count,
    step_by_count,
)


@dataclass(frozen=True)
class State:
    """What an optimizer remembers, by coordinate."""

    moments: Mapping[str, Tensors]  # moment -> parameter -> tensor of its shape
    counters: Tensors  # parameter -> steps of each unit


@dataclass(frozen=True)
class Stepped:
    """An optimizer that was given the state of its parameters."""

    optimizer: Optimizer
    uneven: Mapping[Tensor, Sorted]  # parameters whose units have taken different numbers of steps
    hooks: Iterable[RemovableHandle]

    def state(self) -> dict[Tensor, OfParameter]:
        """What it keeps now of every parameter; the count is that of the units with most steps."""
        return {**self.optimizer.state, **{p: joined(p, of) for p, of in self.uneven.items()}}

    def let_go(self) -> None:
        """Leave it as it was made: it steps its parameters as a whole again."""
        for hook in self.hooks:
            hook.remove()


def put(optimizer: Optimizer, named: Mapping[str, Tensor], state: State, layout: Layout) -> Stepped:
    """Give an optimizer the state of these parameters.

    Torch counts one number of steps per parameter. Where units have taken different numbers, and
    the optimizer makes something of it, it steps the units of each number as a parameter of their
    own (`step_by_count`), so that each makes the step that torch makes after so many.

    Raises:
        ValueError: where it steps other parameters than these.
    """
    names = {p: name for name, p in named.items()}
    sizes, uneven = layout.sizes_of(named), {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in names:
                raise ValueError(
                    "session.carry was given an optimizer over other parameters than those of this "
                    "round's subnetwork. Make it inside the loop, from sub.parameters()."
                )
            name = names[p]
            own = {m: tensors[name] for m, tensors in state.moments.items()}
            counter, on = state.counters.get(name), _place_of_counts(p, group)
            if counter is not None and _differ(counter) and _counts_matter(group):
                counts = per_entry(counter, layout.dims[name], sizes).expand(p.shape)
                uneven[p] = sorted_by_count(p, own, counts, on)
            elif own or counter is not None:
                optimizer.state[p] = {m: t.to(p, copy=True) for m, t in own.items()}
                if counter is not None:
                    optimizer.state[p][STEP] = torch.tensor(_most(counter), device=on)
    return Stepped(optimizer, uneven, step_by_count(optimizer, uneven) if uneven else ())


def kinds(carried: Iterable[Stepped]) -> set[str]:
    """The names of what optimizers remember.

    Raises:
        ValueError: where one keeps what cannot be cut like a parameter.
    """
    found = set()
    for stepped in carried:
        for p, of in stepped.state().items():
            _check(type(stepped.optimizer).__name__, p, of)
            found |= {name for name, value in of.items() if value is not None}
    return found


def read(carried: Iterable[Stepped], named: Mapping[str, Tensor], before: State) -> State:
    """The state of these parameters after a round; of those that nobody carried, as before.

    Args:
        carried: what stepped them.
        named: the parameters.
        before: the state at the round's start, with every moment that there is to be, and counters
            where steps are counted.
    """
    names = {p: name for name, p in named.items()}
    kept = {names[p]: of for stepped in carried for p, of in stepped.state().items()}
    moments = {
        m: {name: _moment(kept.get(name, {}).get(m), t) for name, t in tensors.items()}
        for m, tensors in before.moments.items()
    }
    counters = {name: _count(kept.get(name, {}), c) for name, c in before.counters.items()}
    return State(moments, counters)


def _check(kind: str, p: Tensor, of: Mapping[str, Any]) -> None:
    for name, value in of.items():
        fits = value is None or (isinstance(value, Tensor) and value.shape == p.shape)
        if not fits and name != STEP:
            raise ValueError(
                f"{kind} keeps {name!r}, which has not the shape of its parameter and cannot be "
                "cut like it. Use SGD, Adam, AdamW, Adagrad or RMSprop, or leave out session.carry."
            )


def _counts_matter(group: Mapping[str, Any]) -> bool:
    """Whether a step depends on how many there were: running means, or a falling step size."""
    return "betas" in group or bool(group.get("lr_decay"))


def _place_of_counts(p: Tensor, group: Mapping[str, Any]) -> torch.device:
    """Torch keeps counts on the host, unless one kernel reads all."""
    return p.device if group.get("fused") or group.get("capturable") else torch.device("cpu")


def _differ(counter: Tensor) -> bool:
    return bool(counter.min() != counter.max()) if counter.numel() else False


def _most(counter: Tensor) -> float:
    return float(counter.max()) if counter.numel() else 0.0


def _moment(value: Tensor | None, before: Tensor) -> Tensor:
    """In the type in which it travels, whatever the optimizer keeps it in."""
    return before if value is None else value.detach().to(before)


def _count(of: Mapping[str, Any], before: Tensor) -> Tensor:
    """Every unit has taken the round's steps on top of its own."""
    return before + max(0.0, float(of.get(STEP, 0.0)) - _most(before))
