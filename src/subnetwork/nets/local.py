"""Lines 5-6 for networks: what one worker does with its submodel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from subnetwork.keys import NOISE, key
from subnetwork.nets.architecture import Architecture, runnable
from subnetwork.nets.data import Batches
from subnetwork.nets.state import Submodel, Tensors

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
MOMENTUM = "momentum_buffer"  # torch.optim.SGD's own name for it


class Local(Protocol):
    """The local work of one worker: a function of what it is given and of nothing else."""

    def __call__(self, k: int, worker: int, submodel: Submodel, /) -> Submodel:
        """What worker i returns in round k."""
        ...


@runtime_checkable
class Stoppable(Local, Protocol):
    """Local work of several steps, which may end early with what it has."""

    def until(self, stop: Callable[[int], bool], /) -> Local:
        """The same work, which ends as soon as `stop(steps taken)` is true; one step is taken."""
        ...


@dataclass(frozen=True)
class LocalSteps:
    """`n_steps` steps of torch's SGD on the worker's own batches.

    The optimizer's momentum is a moment of the submodel: it arrives with the parameters, is used,
    and goes back with them. With `total_steps` the last round does only the steps that are left.
    """

    architecture: Architecture
    batches: Batches
    step_size: float
    n_steps: int
    momentum: float = 0.0
    total_steps: int | None = None
    loss: Loss = cross_entropy
    stop: Callable[[int], bool] | None = None  # asked after each step, by how many are taken

    def __post_init__(self) -> None:
        check_step_size(self.step_size)
        if min(self.n_steps, self.total_steps or 1) < 1:
            raise ValueError(f"A round takes at least one local step, not {self.n_steps}.")

    def until(self, stop: Callable[[int], bool], /) -> "LocalSteps":
        """The same steps, but none after `stop(steps taken)` is true."""
        return replace(self, stop=stop)

    def steps(self, k: int) -> range:
        """Global numbers of the steps of round k: a batch is named by (worker, step)."""
        end = (k + 1) * self.n_steps
        steps = range(k * self.n_steps, min(end, self.total_steps or end))
        if not steps:
            raise ValueError(
                f"Round {k} has no local step left of total_steps={self.total_steps}. Run "
                f"{-(-(self.total_steps or 0) // self.n_steps)} rounds."
            )
        return steps

    def __call__(self, k: int, worker: int, submodel: Submodel, /) -> Submodel:
        """z_i^+ after the round's steps, with its momentum and the mean of its training losses."""
        self._check(submodel)
        module = runnable(self.architecture, submodel).train()
        named = dict(module.named_parameters())
        optimizer = torch.optim.SGD(named.values(), lr=self.step_size, momentum=self.momentum)
        for name, buffer in submodel.moments.get(MOMENTUM, {}).items():
            optimizer.state[named[name]][MOMENTUM] = buffer.clone()
        losses = []
        with _keyed_noise(self.batches, worker, k):
            for step in self.steps(k):
                optimizer.zero_grad(set_to_none=True)
                inputs, targets = self.batches.batch(worker, step)
                loss = self.loss(module(inputs), targets)
                torch.autograd.backward(loss)
                optimizer.step()
                losses.append(loss.item())
                if self.stop is not None and self.stop(len(losses)):
                    break
        moments = {
            moment: {name: optimizer.state[p][moment] for name, p in named.items()}
            for moment in submodel.moments
        }
        return Submodel(_detached(named), moments, sum(losses) / len(losses), len(losses))

    def _check(self, submodel: Submodel) -> None:
        if bool(self.momentum) != (MOMENTUM in submodel.moments):
            raise ValueError(
                f"momentum={self.momentum}, but the model carries the moments "
                f"{list(submodel.moments)}. Start from initial_state(..., moments=[{MOMENTUM!r}]) "
                "with momentum, and without moments where there is none."
            )


@dataclass(frozen=True)
class Gradients:
    """One gradient on the worker's own batch, returned instead of a trained submodel."""

    architecture: Architecture
    batches: Batches
    loss: Loss = cross_entropy

    def __call__(self, k: int, worker: int, submodel: Submodel, /) -> Submodel:
        """C_i grad f_i(w_i) on batch k of worker i (line 5)."""
        module = runnable(self.architecture, submodel).train()
        inputs, targets = self.batches.batch(worker, k)
        with _keyed_noise(self.batches, worker, k):
            loss = self.loss(module(inputs), targets)
        torch.autograd.backward(loss)
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in module.named_parameters()
        }
        return Submodel(gradients, submodel.moments, loss.item(), 1)


@contextmanager
def _keyed_noise(batches: Batches, worker: int, k: int) -> Iterator[None]:
    """Dropout and the like draw from (seed, worker, round), wherever the worker lives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(batches.seed, NOISE, worker, k))
        yield


def check_step_size(step_size: float) -> None:
    """Raise ValueError unless the step size is positive."""
    if not 0 < step_size < float("inf"):
        raise ValueError(f"A step size is a positive number, not {step_size}. Try 0.1.")


def _detached(named: Tensors) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in named.items()}
