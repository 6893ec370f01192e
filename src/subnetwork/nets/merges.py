"""Line 9 for networks: the mean over holders, and what DiLoCo and synchronous SGD put on top."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from subnetwork.nets.means import has_mean
from subnetwork.nets.partition import NetPartition
from subnetwork.nets.state import ModelState, Submodel, Tensors


def holders(x: ModelState, partition: NetPartition, trained: Sequence[Submodel], /) -> ModelState:
    """Average every entry over its holders, moments like parameters (IST, Local SGD).

    Absent workers hold nothing: what only they held keeps its value.
    """
    return _merged(x, partition, trained, in_place=False)


def holders_in_place(
    x: ModelState, partition: NetPartition, trained: Sequence[Submodel], /
) -> ModelState:
    """The same numbers written over those of `x`, which is returned: no second model in memory.

    For loops that own their model. `rounds` yields the model of every round; with this merge they
    are all the same one, the last.
    """
    return _merged(x, partition, trained, in_place=True)


def _merged(
    x: ModelState, partition: NetPartition, trained: Sequence[Submodel], *, in_place: bool
) -> ModelState:
    params = partition.merge(x.params, [z.params for z in trained], in_place=in_place)
    moments = {
        name: partition.merge(moment, [z.moments.get(name, {}) for z in trained], in_place=in_place)
        for name, moment in x.moments.items()
    }
    return ModelState(params, moments, x.outer)


@runtime_checkable
class Steps(Protocol):
    """A merge that steps from x^k by what came back, each entry by itself: wherever that lies."""

    @property
    def momentum(self) -> float:
        """Of the step: without any, there are no buffers."""
        ...

    def step(
        self, x: Tensors, mean: Tensors, buffers: Tensors, /
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """x^{k+1} and new buffers, from x^k, the mean over holders and the buffers of before."""
        ...


@dataclass(frozen=True)
class Outer:
    """DiLoCo: the change of a round is a gradient for an outer SGD with Nesterov momentum.

    Douillard et al. 2023: outer gradient x^k - merged; outer step size 0.7, momentum 0.9. With
    step size 1 and momentum 0 it is `holders`, up to rounding.
    """

    step_size: float = 0.7
    momentum: float = 0.9

    def step(
        self, x: Tensors, mean: Tensors, buffers: Tensors, /
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """From x^k along the change; see `Steps`."""
        start = {n: p if has_mean(p) else mean[n] for n, p in x.items()}
        gradients = {n: p - mean[n] for n, p in x.items() if has_mean(p)}
        return sgd_step(
            start, gradients, buffers, self.step_size, self.momentum, nesterov=self.momentum > 0
        )

    def __call__(
        self, x: ModelState, partition: NetPartition, trained: Sequence[Submodel], /
    ) -> ModelState:
        """Merge, then step from x^k along the change."""
        merged = holders(x, partition, trained)
        params, outer = self.step(x.params, merged.params, x.outer)
        held = partition.held(x.params, [z.params for z in trained])
        return ModelState(
            _where(held, params, x.params), merged.moments, _where(held, outer, x.outer)
        )


@dataclass(frozen=True)
class StepOnGradients:
    """Synchronous SGD: workers return gradients, the merge averages them and steps.

    Exact for momentum too, where averaging models after one local step would not be.
    """

    step_size: float
    momentum: float = 0.0

    def __call__(
        self, x: ModelState, partition: NetPartition, trained: Sequence[Submodel], /
    ) -> ModelState:
        """One optimizer step on the mean over holders of the gradients."""
        zeros = {name: torch.zeros_like(p) for name, p in x.params.items()}
        gradients = partition.merge(zeros, [z.params for z in trained])
        params, outer = sgd_step(x.params, gradients, x.outer, self.step_size, self.momentum)
        held = partition.held(x.params, [z.params for z in trained])
        return ModelState(_where(held, params, x.params), x.moments, _where(held, outer, x.outer))


def _where(held: Tensors, new: Tensors, old: Tensors) -> dict[str, Tensor]:
    """The new entries where somebody held them; an entry that nobody holds keeps its value."""
    return {
        name: torch.where(held[name], tensor, old.get(name, torch.zeros_like(tensor)))
        for name, tensor in new.items()
    }


def sgd_step(
    params: Tensors,
    gradients: Tensors,
    buffers: Tensors,
    step_size: float,
    momentum: float,
    *,
    nesterov: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One step of torch's own SGD; returns new parameters and new momentum buffers (or none).

    Whole numbers and booleans stay as they are.
    """
    moved = {n: p.detach().clone().requires_grad_() for n, p in params.items() if has_mean(p)}
    optimizer = torch.optim.SGD(
        list(moved.values()), lr=step_size, momentum=momentum, nesterov=nesterov
    )
    for name, p in moved.items():
        p.grad = gradients[name].clone()
        if momentum:  # from zero, where torch begins with the gradient itself: -0.0 would stay
            before = buffers[name].clone() if name in buffers else torch.zeros_like(p)
            optimizer.state[p]["momentum_buffer"] = before
    optimizer.step()
    kept = (
        {name: optimizer.state[p]["momentum_buffer"] for name, p in moved.items()}
        if momentum
        else {}
    )
    return {name: moved.get(name, p).detach() for name, p in params.items()}, kept
