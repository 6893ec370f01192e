"""Local optimizers as plain data: torch's own, with the state that travels with the parameters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch

from subnetwork.nets.counters import COUNTER

MOMENTUM = "momentum_buffer"  # the names that torch.optim gives its state
FIRST, SECOND = "exp_avg", "exp_avg_sq"

Group: TypeAlias = dict[str, Any]
"""A parameter group of torch: "params" and options."""


class Optimizer(Protocol):
    """What a worker steps with. `step_size` is torch's lr."""

    @property
    def step_size(self) -> float:
        """The step size before the schedule."""
        ...

    @property
    def moments(self) -> tuple[str, ...]:
        """The state that travels with each parameter, by torch's names."""
        ...

    def options(self, scale: float) -> Group:
        """The group's options for parameters that are held as `scale` times themselves."""
        ...

    def over(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """Torch's optimizer over these groups."""
        ...


@dataclass(frozen=True)
class SGD:
    """torch.optim.SGD: with weight decay c and momentum mu, m <- mu m + g + c w, w <- w - lr m."""

    step_size: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        _in_unit("momentum", self.momentum)
        _not_negative("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            raise ValueError("Nesterov's step needs momentum, but momentum=0. Try momentum=0.9.")

    @property
    def moments(self) -> tuple[str, ...]:
        """The momentum, where there is one."""
        return (MOMENTUM,) if self.momentum else ()

    def options(self, scale: float) -> Group:
        """Lr x s^2 and weight decay / s^2: the step that s w makes when w makes the plain one."""
        return {"lr": self.step_size * scale**2, "weight_decay": self.weight_decay / scale**2}

    def over(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """torch.optim.SGD."""
        return torch.optim.SGD(
            list(groups), lr=self.step_size, momentum=self.momentum, nesterov=self.nesterov
        )


@dataclass(frozen=True)
class Adam:
    """torch.optim.Adam (Kingma & Ba 2015); weight decay is added to the gradient.

    `decoupled`: it shrinks the parameter itself, as in torch.optim.AdamW; see `AdamW`.
    """

    step_size: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        for beta in self.betas:
            _in_unit("betas", beta)
        _not_negative("eps", self.eps)
        _not_negative("weight_decay", self.weight_decay)

    @property
    def moments(self) -> tuple[str, ...]:
        """Both means, and the number of steps that are in them, one per unit."""
        return (FIRST, SECOND, COUNTER)

    def options(self, scale: float) -> Group:
        """Lr x s, eps / s, weight decay / s^2, or / s where it is decoupled."""
        decay = self.weight_decay / (scale if self.decoupled else scale**2)
        return {"lr": self.step_size * scale, "eps": self.eps / scale, "weight_decay": decay}

    def over(self, groups: Sequence[Group]) -> torch.optim.Optimizer:
        """torch.optim.Adam, or AdamW."""
        kind = torch.optim.AdamW if self.decoupled else torch.optim.Adam
        return kind(list(groups), lr=self.step_size, betas=self.betas, eps=self.eps)


def AdamW(
    step_size: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Adam:
    """torch.optim.AdamW (Loshchilov & Hutter 2019): `Adam` with decoupled weight decay."""
    return Adam(step_size, betas, eps, weight_decay, decoupled=True)


def check_step_size(step_size: float) -> None:
    """Raise ValueError unless the step size is positive."""
    if not 0 < step_size < float("inf"):
        raise ValueError(f"A step size is a positive number, not {step_size}. Try 0.1.")


def _in_unit(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} is in [0, 1), not {value}. Try 0.9.")


def _not_negative(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} is a number from 0 on, not {value}.")
