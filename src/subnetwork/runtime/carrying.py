"""The state of the user's own optimizer, cut and sent with its parameters."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from subnetwork.nets.state import Tensors

STEP = "step"
MEANS = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}
"""Running means that torch corrects by the number of steps, and which of the betas is theirs."""


@dataclass(frozen=True)
class State:
    """What an optimizer remembers, by coordinate."""

    moments: Mapping[str, Tensors]  # moment -> parameter -> tensor of its shape
    counters: Tensors  # parameter -> steps of each unit, broadcastable to it


def put(optimizer: Optimizer, named: Mapping[str, Tensor], state: State) -> None:
    """Give an optimizer the state of these parameters.

    Torch counts one number of steps per parameter. Where units have taken different numbers it is
    given the smallest, and running means are scaled so that what they stand for after torch's
    correction is unchanged; no unit then makes a longer step than under its own count.

    Raises:
        ValueError: where it steps other parameters than these.
    """
    names = {p: name for name, p in named.items()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in names:
                raise ValueError(
                    "session.carry was given an optimizer over other parameters than those of this "
                    "round's subnetwork. Make it inside the loop, from sub.parameters()."
                )
            own = {m: tensors[names[p]] for m, tensors in state.moments.items()}
            counter = state.counters.get(names[p])
            if own or counter is not None:
                optimizer.state[p] = _state_of(p, own, counter, group)


def _state_of(
    p: Tensor, moments: Tensors, counter: Tensor | None, group: Mapping[str, Any]
) -> dict[str, Any]:
    found: dict[str, Any] = {m: t.to(p, copy=True) for m, t in moments.items()}
    if counter is None:
        return found
    least = float(counter.min()) if counter.numel() else 0.0
    found[STEP] = torch.tensor(least)
    if bool((counter != least).any()) and "betas" in group:
        for moment, which in MEANS.items():
            if moment in found:
                beta = group["betas"][which]
                own = 1 - beta ** counter.double()
                factor = torch.where(counter > 0, (1 - beta**least) / own, 1.0)
                found[moment] *= factor.to(found[moment])
    return found


def kinds(optimizers: Iterable[Optimizer]) -> set[str]:
    """The names of what optimizers remember.

    Raises:
        ValueError: where one keeps what cannot be cut like a parameter.
    """
    found = set()
    for optimizer in optimizers:
        for p, of in optimizer.state.items():
            _check(type(optimizer).__name__, p, of)
            found |= {name for name, value in of.items() if value is not None}
    return found


def read(optimizers: Iterable[Optimizer], named: Mapping[str, Tensor], before: State) -> State:
    """The state of these parameters after a round; zeros where an optimizer has none.

    Args:
        optimizers: what stepped them.
        named: the parameters.
        before: the state at the round's start, with every moment that there is to be, and counters
            where steps are counted.
    """
    names = {p: name for name, p in named.items()}
    kept = {names[p]: of for optimizer in optimizers for p, of in optimizer.state.items()}
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


def _moment(value: Tensor | None, before: Tensor) -> Tensor:
    """In the type in which it travels, whatever the optimizer keeps it in."""
    return torch.zeros_like(before) if value is None else value.detach().to(before)


def _count(of: Mapping[str, Any], before: Tensor) -> Tensor:
    """Every unit has taken the round's steps on top of its own."""
    done = float(of.get(STEP, 0.0))
    least = float(before.min()) if before.numel() else 0.0
    return before + max(0.0, done - least)
